//! Tests that nothing of the user's is lost: files, wherever the program is told to write; runs, whatever is requested
//! next; and every bit that a stage reads.

use std::ffi::OsStr;
use std::fs::{self, File, FileTimes};
use std::os::unix::fs::{FileExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use multidigit::{Stage, files};

use super::resume::learned;
use super::{Answer, Home};

/// A home with the settings of a network of one digit that is trained quickly, in the run `short`.
fn one_digit() -> Home {
    let data = ["raw.source=synthetic", "plan.digits=1", "plan.image_size=[28,28]", "plan.samples_per_class=10"];
    let train = ["plan.split.by=sample", "train.model=resnet", "train.epochs=1", "train.batch_size=20"];
    Home::with(&[&data[..], &train[..], &["train.augment=false", "train.run=short"]].concat())
}

fn refused<S: AsRef<OsStr>>(home: &Home, words: &[S]) -> String {
    let Answer { code, stdout, stderr } = home.call(words);
    assert!(matches!(code, Some(1 | 2)) && stdout.is_empty(), "{code:?} {stdout}{stderr}");
    stderr
}

/// Every file below a folder with its bytes, including hidden files.
fn everything(folder: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let read = |path: PathBuf| (path.clone(), fs::read(folder.join(path)).unwrap_or_default());
    files::walk_all(folder).unwrap().into_iter().map(read).collect()
}

/// Flips a bit in the middle of a file without changing its size, time and inode.
fn rot(path: &Path) {
    let file = File::options().read(true).write(true).open(path).unwrap();
    let (meta, mut byte) = (file.metadata().unwrap(), [0]);
    let middle = meta.len() / 2;
    file.read_exact_at(&mut byte, middle).unwrap();
    file.write_all_at(&[byte[0] ^ 1], middle).unwrap();
    file.set_times(FileTimes::new().set_modified(meta.modified().unwrap())).unwrap();
}

// ---- files

#[test]
fn a_raw_folder_that_is_a_stages_folder_is_refused_and_keeps_its_files() {
    let home = Home::new();
    fs::create_dir_all(home.path("raw")).unwrap();
    fs::write(home.path("raw/notes.txt"), "mine").unwrap();
    symlink(home.path("."), home.path("link")).unwrap();
    for artifacts in [".", "link"] {
        let output = super::bare(home.folder.path()).args(["run", "raw", "--artifacts", artifacts]).output().unwrap();
        let answer = Answer::of(output);
        let words = format!(
            "error: `--raw`: found `raw`, where --artifacts `{artifacts}` has the stage raw; expected a folder apart from \
             the stages' folders; give another --artifacts\n"
        );
        assert_eq!((answer.code, answer.stderr), (Some(2), words));
    }
    assert_eq!(everything(&home.path("raw")), [(PathBuf::from("notes.txt"), b"mine".to_vec())]);
}

#[test]
fn files_of_the_users_in_a_stages_folder_stop_the_run_before_any_work() {
    let home = Home::new();
    let papers = home.path("papers");
    for folder in ["report", "train", "evaluate"] {
        fs::create_dir_all(papers.join(folder)).unwrap();
    }
    for file in ["report/thesis.tex", ".mine.new", ".stuff.old", "train/draft.md", "evaluate/grades.csv"] {
        fs::write(papers.join(file), file).unwrap();
    }
    let before = everything(&papers);
    let artifacts = papers.display().to_string();
    let at = |words: &[&str]| -> Vec<String> {
        words.iter().chain(&["--artifacts", &artifacts]).map(|&word| word.to_owned()).collect()
    };
    let words = "holds thesis.tex, which no record of this program names; move it away, or work in another folder with \
                 --artifacts\n";
    for dry in [&["--dry-run"][..], &[]] {
        let words = format!("error: `{artifacts}/report`: {words}");
        assert_eq!(refused(&home, &at(&[&["run"], dry].concat())), words);
        assert_eq!(everything(&papers), before, "nothing was done");
    }
    fs::create_dir(papers.join("dataset")).unwrap();
    fs::write(papers.join("dataset/.hidden"), "").unwrap();
    assert!(refused(&home, &at(&["run", "dataset"])).contains("/dataset`: holds .hidden, which no record"));
    fs::remove_file(papers.join("dataset/.hidden")).unwrap();
    home.ok(&at(&["run", "dataset"]));
    for (path, bytes) in &before {
        assert_eq!(&fs::read(papers.join(path)).unwrap(), bytes, "{}", path.display());
    }
    home.ok(&at(&["verify"]));
    // a file added to a finished stage belongs to the user too, also if the folder is a link
    fs::rename(papers.join("dataset"), home.path("elsewhere")).unwrap();
    symlink(home.path("elsewhere"), papers.join("dataset")).unwrap();
    fs::write(home.path("elsewhere/data/mine.csv"), "mine").unwrap();
    let forced = refused(&home, &at(&["run", "dataset", "--force"]));
    assert!(forced.contains("/elsewhere`: holds data/mine.csv, which no record"), "{forced}");
    fs::remove_file(home.path("elsewhere/data/mine.csv")).unwrap();
    home.ok(&at(&["run", "dataset", "--force"]));
    assert!(papers.join("dataset").is_symlink());
}

#[test]
fn a_file_with_the_name_of_a_stage_is_in_the_way_of_that_stage_alone() {
    let home = Home::new();
    fs::create_dir(home.path("artifacts")).unwrap();
    fs::write(home.path("artifacts/train"), "mine").unwrap();
    home.ok(&["run", "dataset"]);
    let words = "error: `artifacts/train`: a file; expected a folder, or nothing, in its place; move it\n";
    assert_eq!(refused(&home, &["run", "train"]), words);
    assert_eq!(fs::read(home.path("artifacts/train")).unwrap(), b"mine");
}

#[test]
fn a_folder_where_a_build_would_stand_is_the_users_unless_a_build_made_it() {
    let home = Home::new();
    fs::create_dir_all(home.path("artifacts/.plan.new")).unwrap();
    fs::write(home.path("artifacts/.plan.new/mine"), "mine").unwrap();
    let words = "error: `artifacts/.plan.new`: holds mine, which no record of this program names; move it away, or work in \
                 another folder with --artifacts\n";
    assert_eq!(refused(&home, &["run", "plan"]), words, "nothing has run");
    assert_eq!(fs::read_to_string(home.path("artifacts/.plan.new/mine")).unwrap(), "mine");
    fs::remove_dir_all(home.path("artifacts/.plan.new")).unwrap();
    home.ok(&["run", "plan"]);
    // the state after a kill between the exchange of the two states and the removal of the former one
    fs::create_dir(home.path("artifacts/.plan.new")).unwrap();
    fs::write(home.path("artifacts/.plan.new").join(files::REPLACED), "").unwrap();
    for file in ["plan.parquet", "record.json"] {
        fs::copy(home.path("artifacts/plan").join(file), home.path("artifacts/.plan.new").join(file)).unwrap();
    }
    assert!(home.ok(&["run", "plan"]).contains("plan      fresh "));
    assert!(!home.path("artifacts/.plan.new").exists());
}

#[test]
fn a_preview_replaces_a_regular_file_that_is_named_and_by_itself_only_its_own() {
    let home = Home::new();
    home.ok(&["run", "dataset"]);
    let preview =
        |words: &[&str]| home.call(&[&["preview", "augment", "--rows", "1", "--epochs", "1"], words].concat());
    for folder in ["pictures", "folder"] {
        fs::create_dir(home.path(folder)).unwrap();
    }
    fs::write(home.path("pictures/old.png"), "old").unwrap();
    assert_eq!(preview(&["--out", "pictures/old.png"]).code, Some(0));
    assert!(fs::read(home.path("pictures/old.png")).unwrap().starts_with(b"\x89PNG"));
    symlink("old.png", home.path("pictures/link.png")).unwrap();
    for (out, words) in [
        ("pictures/link.png", "a link; expected a regular file, or a name that is not taken"),
        ("folder", "a folder; expected a regular file, or a name that is not taken"),
        (
            "/dev/null",
            "a device, or something else that is no file; expected a regular file, or a name that is not taken",
        ),
        ("absent/new.png", "cannot create a file beside it: "),
    ] {
        let answer = preview(&["--out", out]);
        assert_eq!(answer.code, Some(1));
        assert!(answer.stderr.contains(&format!("error: `{out}`: {words}")), "{}", answer.stderr);
    }
    assert_eq!(files::walk_all(&home.path("pictures")).unwrap().len(), 2, "nothing is left beside them");
    assert!(!home.path("absent").exists());
    fs::write(home.path("artifacts/preview-augment.png"), "a drawing").unwrap();
    let answer = preview(&[]);
    let words = "error: `artifacts/preview-augment.png`: a file that this program did not draw; expected an earlier preview, \
                 or nothing, under this name; name another file with --out\n";
    assert_eq!((answer.code, answer.stderr.as_str()), (Some(1), words));
    assert_eq!(fs::read(home.path("artifacts/preview-augment.png")).unwrap(), b"a drawing");
    fs::remove_file(home.path("artifacts/preview-augment.png")).unwrap();
    assert_eq!([preview(&[]).code, preview(&[]).code], [Some(0); 2]);
}

#[test]
fn a_lock_file_of_something_else_is_not_replaced() {
    let home = Home::new();
    home.ok(&["run", "augment"]);
    fs::write(home.path("pipeline.lock"), "mine").unwrap();
    assert!(refused(&home, &["lock"]).contains("pipeline.lock`: not a lock file"));
    assert_eq!(fs::read(home.path("pipeline.lock")).unwrap(), b"mine");
}

#[test]
fn notes_in_the_folder_of_a_run_stay_the_users() {
    let home = one_digit();
    let every = ["--set", "train.epochs=50", "--set", "train.checkpoint_every_steps=1"];
    stop(train(&home, &every, "artifacts/train/short.unfinished/checkpoint.safetensors"));
    let notes = |run: &str| home.path(&format!("artifacts/train/{run}/notes.txt"));
    fs::write(notes("short.unfinished"), "mine").unwrap();
    home.ok(&["run", "train", "--force"]);
    assert_eq!(fs::read(notes("short")).unwrap(), b"mine");
    let record = fs::read_to_string(home.path("artifacts/train/short/record.json")).unwrap();
    assert!(record.contains("weights/best.safetensors") && !record.contains("notes.txt"));
    home.ok(&["verify"]);
    let forced = refused(&home, &["run", "train", "--force"]);
    assert!(forced.contains("artifacts/train/short`: holds notes.txt, which no record"), "{forced}");
    // a folder that only has the name of an unfinished run
    fs::create_dir(home.path("artifacts/train/thesis.unfinished")).unwrap();
    fs::write(notes("thesis.unfinished"), "mine").unwrap();
    let other = refused(&home, &["run", "train", "--force", "--set", "train.run=thesis"]);
    assert!(other.contains("artifacts/train/thesis.unfinished`: holds notes.txt, which no record"), "{other}");
    assert_eq!(home.ok(&["runs"]).lines().count(), 2, "it is no run");
}

#[test]
fn cleaning_removes_what_records_name_and_keeps_runs_and_files_of_the_users() {
    let home = one_digit();
    assert_eq!(home.ok(&["clean"]), "nothing to remove\n");
    home.ok(&["run", "evaluate", "report"]);
    let every = ["--set", "train.run=cut", "--set", "train.epochs=50", "--set", "train.checkpoint_every_steps=1"];
    stop(train(&home, &every, "artifacts/train/cut.unfinished/checkpoint.safetensors"));
    let mine = ["dataset/mine", "train/short/mine", "mine"].map(|name| home.path("artifacts").join(name));
    mine.iter().for_each(|path| fs::write(path, "mine").unwrap());
    let (train, evaluate) = (everything(&home.path("artifacts/train")), everything(&home.path("artifacts/evaluate")));
    let told = home.ok(&["clean"]);
    assert!(told.contains("removed 2 files of artifacts/plan\n"), "{told}");
    assert!(told.contains("of artifacts/dataset; what no record names was left there\n"), "{told}");
    assert!(everything(&home.path("artifacts/train")) == train);
    assert!(everything(&home.path("artifacts/evaluate")) == evaluate);
    home.ok(&["clean", "--force"]);
    let mut left = files::walk(&home.path("artifacts")).unwrap();
    left.sort();
    assert_eq!(left, ["dataset/mine", "mine", "train/short/mine"].map(PathBuf::from));
}

#[test]
fn a_link_still_leads_to_a_folder_after_cleaning() {
    let home = one_digit();
    let elsewhere = home.path("elsewhere");
    fs::create_dir_all(&elsewhere).unwrap();
    fs::create_dir(home.path("artifacts")).unwrap();
    std::os::unix::fs::symlink(&elsewhere, home.path("artifacts/plan")).unwrap();
    for _ in 0..2 {
        home.ok(&["run", "plan"]);
        home.ok(&["clean"]);
        assert!(elsewhere.is_dir() && fs::read_dir(&elsewhere).unwrap().next().is_none());
    }
}

#[test]
fn a_finished_run_is_kept_from_other_stages_from_renamed_copies_and_from_pictures() {
    let home = one_digit();
    home.ok(&["run", "train", "--set", "train.run=plan"]);
    let run = home.path("artifacts/train/plan");
    let before = everything(&run);
    let artifacts = home.path("artifacts/train").display().to_string();
    let refusal = refused(&home, &["run", "plan", "--artifacts", &artifacts]);
    let words = "train/plan`: the output of the stage train; expected that of plan, or nothing; work in another folder";
    assert!(refusal.contains(words), "{refusal}");
    home.ok(&["clean", "--artifacts", &artifacts]);
    for copy in ["a.unfinished", ".a.old", ".a.new"] {
        let copy = home.path("artifacts/train").join(copy);
        fs::create_dir_all(copy.join("weights")).unwrap();
        for (path, bytes) in &before {
            fs::write(copy.join(path), bytes).unwrap();
        }
    }
    home.ok(&["run", "train", "--set", "train.run=b"]);
    let refusal = refused(&home, &["run", "train", "--set", "train.run=a"]);
    assert!(
        refusal.contains("artifacts/train/a.unfinished`: holds checkpoint.safetensors, config.yaml, "),
        "{refusal}"
    );
    for copy in ["a.unfinished", ".a.old", ".a.new", "plan"] {
        assert!(everything(&home.path("artifacts/train").join(copy)) == before, "{copy}");
    }
    let out = "artifacts/train/plan/checkpoint.safetensors";
    let refusal = refused(&home, &["preview", "augment", "--out", out]);
    let words = "a place in the folder of the stage train; expected one apart from what the stages made\n";
    assert_eq!(refusal, format!("error: `{out}`: {words}"));
    assert!(everything(&run) == before);
}

#[test]
fn weights_of_an_unfinished_run_are_not_written_behind_a_link() {
    let home = one_digit();
    let every = ["--set", "train.epochs=50", "--set", "train.checkpoint_every_steps=1"];
    stop(train(&home, &every, "artifacts/train/short.unfinished/checkpoint.safetensors"));
    let weights = home.path("artifacts/train/short.unfinished/weights");
    let _ = fs::remove_dir_all(&weights);
    fs::create_dir(home.path("mine")).unwrap();
    fs::write(home.path("mine/best.safetensors"), "mine").unwrap();
    symlink(home.path("mine"), &weights).unwrap();
    let refusal = refused(&home, &[&["run", "train"][..], &every].concat());
    assert!(refusal.contains("short.unfinished`: holds weights, which no record of this program names"), "{refusal}");
    assert_eq!(fs::read(home.path("mine/best.safetensors")).unwrap(), b"mine");
}

// ---- bits

#[test]
fn a_file_that_rots_with_its_stamp_kept_is_found_by_the_stage_that_reads_it() {
    let home = one_digit();
    home.ok(&["run", "evaluate"]);
    image::GrayImage::new(28, 28).save(home.path("a.png")).unwrap();
    let cases: [(&str, &[&str]); 5] = [
        ("train/short/weights/best.safetensors", &["predict", "a.png"]),
        ("train/short/weights/best.safetensors", &["run", "evaluate", "--force", "--run", "short"]),
        ("plan/plan.parquet", &["run", "dataset", "--single", "--force"]),
        ("dataset/data/test-00000-of-00001.parquet", &["run", "evaluate", "--single", "--force"]),
        ("train/short/config.yaml", &["run", "evaluate", "--run", "short"]),
    ];
    for (path, command) in cases {
        let file = home.path("artifacts").join(path);
        rot(&file);
        let said = refused(&home, command);
        let words = format!("{path}`: its bytes are not those that were recorded (digest ");
        assert!(said.contains(&words), "{command:?}: {said}");
        rot(&file);
        assert_eq!(home.call(command).code, Some(0), "{command:?}: the bit is flipped back");
    }
}

#[test]
fn an_evaluation_that_is_repeated_has_the_same_content() {
    let home = one_digit();
    home.ok(&["run", "evaluate"]);
    let content = || -> String {
        let record = fs::read(home.path("artifacts/evaluate/short/record.json")).unwrap();
        serde_json::from_slice::<serde_json::Value>(&record).unwrap()["content"].to_string()
    };
    let first = content();
    home.ok(&["run", "train", "--force"]);
    home.ok(&["run", "evaluate", "--force"]);
    assert_eq!(content(), first, "the same weights, trained in another time");
}

#[test]
fn a_run_that_was_killed_as_it_took_its_place_ends_as_one_that_was_not() {
    let home = one_digit();
    home.ok(&["run", "train"]);
    let (run, unfinished) = (home.path("artifacts/train/short"), home.path("artifacts/train/short.unfinished"));
    let record = || serde_json::from_slice::<serde_json::Value>(&fs::read(run.join("record.json")).unwrap()).unwrap();
    let whole = record();
    fs::rename(&run, &unfinished).unwrap();
    let mark = serde_json::json!({"about": "", "key": whole["key"]});
    fs::write(unfinished.join(files::MARK), mark.to_string()).unwrap();
    fs::write(unfinished.join("weights/.best.safetensors.new"), "half").unwrap();
    assert!(home.ok(&["run", "train"]).contains("train     done "));
    let paths = |record: &serde_json::Value| -> Vec<String> {
        record["outputs"].as_array().unwrap().iter().map(|output| output["path"].to_string()).collect()
    };
    assert_eq!((paths(&record()), &record()["content"]), (paths(&whole), &whole["content"]));
    assert_eq!(files::walk_all(&run).unwrap().len(), paths(&whole).len() + 1, "nothing else but the record");
    home.ok(&["verify"]);
}

// ---- runs

/// A training in progress, which is ended with the test.
struct Training(Child);

impl Drop for Training {
    fn drop(&mut self) {
        let _ = self.0.kill();
    }
}

/// Starts a training and waits until `file` exists.
fn train(home: &Home, words: &[&str], file: &str) -> Training {
    let mut command = home.command(&[&["run", "train"], words].concat());
    let mut training = Training(command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap());
    while !home.path(file).exists() {
        assert!(training.0.try_wait().unwrap().is_none(), "it ended before {file} stood");
        std::thread::sleep(Duration::from_millis(2));
    }
    training
}

/// Interrupts a training like Ctrl-C.
fn stop(mut training: Training) {
    assert!(Command::new("kill").args(["-INT", &training.0.id().to_string()]).status().unwrap().success());
    assert_eq!(training.0.wait().unwrap().code(), Some(130));
}

#[test]
fn no_evaluation_trains_a_run_that_stands_and_one_that_is_named_is_taken_as_it_stands() {
    let home = one_digit();
    home.ok(&["run", "evaluate", "--set", "train.run=precious"]);
    let weights = learned(&home.path("artifacts/train/precious"));
    let other =
        ["--set", "train.run=precious", "--set", "train.batch_size=10", "--set", "evaluate.data=artifacts/dataset"];
    let refusal = refused(&home, &[&["run", "evaluate"][..], &other].concat());
    let words = "this one differs (train.batch_size: 20 -> 10); give this one another name (`train.run`), use that one as it \
                 stands (--run precious), or train over it (--force)\n";
    assert!(refusal.ends_with(words), "{refusal}");

    // five sets, in a configuration with another run, another network and another data set
    for set in ["a/set", "b/set", "c", "d", "e"] {
        let folder = home.path(set);
        fs::create_dir_all(&folder).unwrap();
        let split = if set == "b/set" { "val" } else { "test" };
        let shard = home.path(&format!("artifacts/dataset/data/{split}-00000-of-00001.parquet"));
        fs::copy(shard, folder.join(format!("{}-00000-of-00001.parquet", &set[..1]))).unwrap();
    }
    fs::write(home.path("pipeline.yaml"), "train:\n  model: alexnet\nplan:\n  seed: 9\n").unwrap();
    let named = |words: &[&str]| {
        let output = super::bare(home.folder.path()).args(words).output().unwrap();
        let answer = Answer::of(output);
        assert_eq!(answer.code, Some(0), "{words:?}: {}", answer.stderr);
        answer.stdout
    };
    for set in ["a/set", "b/set", "c", "d", "e"] {
        let told = named(&["run", "evaluate", "--run", "precious", "--set", &format!("evaluate.data={set}")]);
        assert!(told.starts_with("evaluate  done ") && told.lines().count() == 1, "{told}");
    }
    assert_eq!(named(&["run", "evaluate", "--run", "precious"]).lines().count(), 1);
    let evaluations = files::entries(&home.path("artifacts/evaluate")).unwrap();
    assert_eq!(evaluations.iter().filter(|path| path.is_dir()).count(), 6, "{evaluations:?}");
    named(&["report", "--run", "precious"]);
    named(&["runs", "--run", "precious"]);
    image::GrayImage::new(28, 28).save(home.path("a.png")).unwrap();
    named(&["predict", "a.png", "--run", "precious"]);
    let bench = named(&["bench", "train", "--steps", "1", "--run", "precious"]);
    assert!(bench.starts_with("resnet, 1 digits on 28x28 pixels"), "{bench}");
    assert!(learned(&home.path("artifacts/train/precious")) == weights);

    let other = refused(&home, &["run", "evaluate", "--run", "absent"]);
    assert_eq!(other, "error: `artifacts/train`: no run absent stands here; expected one of precious\n");
    let both = refused(&home, &["run", "evaluate", "--run", "precious", "--config", "pipeline.yaml"]);
    let message = "found one beside --run; expected one of the two: a run has its own settings\n";
    assert_eq!(both, format!("error: `--config`: {message}"));
    let both = refused(&home, &["run", "evaluate", "--run", "precious", "--recipe", "fast"]);
    assert_eq!(both, format!("error: `--recipe`: {message}"));
}

#[test]
fn a_run_is_not_evaluated_on_a_data_set_that_it_was_not_trained_on() {
    let home = one_digit();
    home.ok(&["run", "train"]);
    home.ok(&["run", "dataset", "--set", "plan.seed=7"]);
    let refusal = refused(&home, &["run", "evaluate", "--run", "short"]);
    assert!(
        refusal.starts_with("error: `artifacts/dataset`: content ")
            && refusal.contains("; run short was trained on another data set (")
    );
    assert!(refusal.contains("make that data set again with `multidigit run dataset --run short`"), "{refusal}");
    let refusal = refused(&home, &["run", "train", "--set", "plan.seed=7"]);
    assert!(refusal.contains("this one differs (plan.seed: 123 -> 7); give"), "{refusal}");
    home.ok(&["run", "dataset", "--run", "short"]);
    home.ok(&["run", "evaluate", "--run", "short"]);
}

#[cfg(not(feature = "cuda"))]
#[test]
fn a_run_that_a_gpu_trained_is_evaluated_by_a_program_without_cuda_and_not_trained() {
    let home = one_digit();
    home.ok(&["run", "train"]);
    // the run as a program with CUDA would have left it
    let run = home.path("artifacts/train/short");
    let config = fs::read_to_string(run.join("config.yaml")).unwrap().replace("  device: cpu", "  device: cuda");
    fs::write(run.join("config.yaml"), &config).unwrap();
    let mut record: serde_json::Value = serde_json::from_slice(&fs::read(run.join("record.json")).unwrap()).unwrap();
    record["key"]["settings"]["train"]["device"] = "cuda".into();
    let outputs = record["outputs"].as_array_mut().unwrap();
    let output = outputs.iter_mut().find(|output| output["path"] == "config.yaml").unwrap();
    output["stamp"]["bytes"] = config.len().into();
    output["digest"] = multidigit::digest::Digest::of(config.as_bytes()).to_string().into();
    record.as_object_mut().unwrap().remove("digest");
    fs::write(run.join("record.json"), record.to_string()).unwrap();
    home.ok(&["run", "evaluate", "--run", "short"]);
    image::GrayImage::new(28, 28).save(home.path("a.png")).unwrap();
    home.ok(&["predict", "a.png", "--run", "short"]);
    let refusal = refused(&home, &["run", "train", "--run", "short"]);
    assert!(refusal.contains("this one differs (train.device: \"cuda\" -> \"cpu\"); give"), "{refusal}");
}

#[test]
fn force_runs_the_named_stages_again_and_no_other() {
    let home = one_digit();
    home.ok(&["run", "evaluate"]);
    let again = home.ok(&["run", "evaluate", "--force"]);
    assert_eq!((again.matches(" fresh ").count(), again.matches("evaluate  done ").count()), (4, 1), "{again}");
    assert!(home.ok(&["run", "train", "--force"]).contains("train     done "));
}

#[test]
fn a_finished_run_goes_on_to_more_epochs_and_to_the_weights_of_a_run_of_so_many() {
    for schedule in ["plateau", "constant"] {
        let schedule = format!("train.schedule={schedule}");
        let [home, whole] = [one_digit(), one_digit()];
        let epochs = |n: &'static str| ["run", "train", "--set", &schedule, "--set", n].map(str::to_owned);
        whole.ok(&epochs("train.epochs=3"));
        home.ok(&epochs("train.epochs=2"));
        let dry = home.ok(&[&epochs("train.epochs=3")[..], &["--dry-run".to_owned()]].concat());
        assert!(dry.contains("train.epochs: 2 -> 3; would go on from the finished run, after its epoch 2"), "{dry}");
        let answer = home.call(&epochs("train.epochs=3"));
        assert_eq!(answer.code, Some(0), "{}", answer.stderr);
        assert!(answer.stderr.contains("going on with epoch 3 at step "), "{}", answer.stderr);
        let run = "artifacts/train/short";
        assert!(learned(&home.path(run)) == learned(&whole.path(run)));
        assert_eq!(super::resume::rows(&home.path(run)), super::resume::rows(&whole.path(run)));
        let fewer = refused(&home, &epochs("train.epochs=1"));
        assert!(fewer.contains("this one differs (train.epochs: 3 -> 1); give"), "{fewer}");
        assert!(home.ok(&epochs("train.epochs=3")).contains("train     fresh "));
        home.ok(&["verify"]);
    }
    let home = one_digit();
    home.ok(&["run", "train", "--set", "train.schedule=cosine"]);
    let refusal = refused(&home, &["run", "train", "--set", "train.schedule=cosine", "--set", "train.epochs=2"]);
    let words = "(train.epochs: 1 -> 2; the schedule cosine is laid out over all epochs, so that it cannot go on with more of \
                 them); give this one another name";
    assert!(refusal.contains(words), "{refusal}");
}

#[test]
fn an_unfinished_run_is_told_of_before_it_goes_on() {
    let home = one_digit();
    let long = ["--set", "train.epochs=50", "--set", "train.checkpoint_every_steps=1"];
    stop(train(&home, &long, "artifacts/train/short.unfinished/checkpoint.safetensors"));
    for command in [&["status"][..], &["run", "train", "--dry-run"]] {
        let told = home.ok(&[command, &long].concat());
        let line = told.lines().find(|line| line.starts_with("train ")).unwrap();
        assert!(line.contains("has not run yet; would go on from epoch "), "{told}");
    }
    let told = home.ok(&["status"]);
    assert!(
        told.contains("would be refused: `artifacts/train/short.unfinished`: an unfinished run stands here"),
        "{told}"
    );
}

#[test]
fn while_a_run_trains_all_else_goes_on() {
    let home = one_digit();
    home.ok(&["run", "evaluate"]);
    let long = |run: &'static str| ["--set", "train.epochs=5000", "--set", run];
    let first = train(&home, &long("train.run=first"), "artifacts/train/first.unfinished/metrics.csv");
    let second = train(&home, &long("train.run=second"), "artifacts/train/second.unfinished/metrics.csv");
    home.ok(&["run", "evaluate", "--force"]);
    home.ok(&["run", "train", "evaluate", "--set", "train.run=third"]);
    home.ok(&["report"]);
    home.ok(&["verify"]);
    assert_eq!(home.ok(&["runs"]).lines().count(), 5);
    let busy = home.call(&["run", "train", "--set", "train.epochs=5000", "--set", "train.run=first"]).stderr;
    let words = "error: `artifacts/train/first`: another run of this program is writing or reading this folder; wait until it \
                 ends, or give this one another --artifacts (a training: another `train.run`)\n";
    assert!(busy.ends_with(words), "{busy}");
    // the input of a running training is not replaced
    let busy = home.call(&["run", "dataset", "--set", "plan.seed=7"]).stderr;
    assert!(busy.contains("artifacts/plan`: another run of this program is writing or reading"), "{busy}");
    stop(first);
    stop(second);
    home.ok(&["run", "dataset", "--set", "plan.seed=7"]);
}

#[test]
fn no_network_is_trained_unasked_and_the_first_line_says_what_it_would_take() {
    let home = one_digit();
    let answer = home.call(&["run", "--set", "train.batch_size=2"]);
    let done = answer.stdout.matches(" done ").count();
    assert_eq!((answer.code, done), (Some(0), Stage::ALL.len() - 2), "all but train and evaluate: {}", answer.stderr);
    let words = "run: the data set and the report; no network is trained unless a stage is named, as in `multidigit run train \
                 evaluate report` (resnet, 1 epoch of 60 images, about ";
    assert!(answer.stderr.starts_with(words), "{}", answer.stderr);
    assert!(!home.path("artifacts/train").exists() && home.path("artifacts/report/index.html").exists());
    let answer = home.call(&["run", "train"]);
    // a training of so few steps ends sooner than an estimate of its time
    let first = answer.stderr.lines().next().unwrap();
    assert_eq!(first, "train: resnet, 1 epoch of 60 images; after Ctrl-C the same command goes on");
}
