//! Tests of freshness, atomicity and locks, and that the bytes depend on the settings alone.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Read;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use multidigit::{Stage, files};

use super::Home;

/// Every file below a folder with its bytes, without records, which contain times.
fn contents(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let paths = files::walk(folder).unwrap();
    let read = |path: &std::path::PathBuf| (path.display().to_string(), fs::read(folder.join(path)).unwrap());
    paths.iter().filter(|path| !path.ends_with("record.json")).map(read).collect()
}

#[test]
fn a_second_run_has_nothing_to_do_and_a_changed_setting_is_named() {
    let home = Home::new();
    let first = home.ok(&["run", "dataset"]);
    assert_eq!(first.matches(" done ").count(), 3, "{first}");
    let second = home.ok(&["run", "dataset"]);
    assert_eq!(second.matches(" fresh ").count(), 3, "{second}");
    let dry = home.ok(&["run", "dataset", "--dry-run", "--set", "plan.seed=7"]);
    assert!(dry.contains("plan      would run  plan.seed: 123 -> 7\n"), "{dry}");
    assert!(dry.contains("dataset   would run  input plan is stale\n"), "{dry}");
    let status = home.ok(&["status", "--set", "plan.seed=7"]);
    assert!(status.contains("plan      stale  plan.seed: 123 -> 7\n"), "{status}");
    let status = home.ok(&["status"]);
    assert!(status.contains("dataset   fresh  2000 images") && !status.contains("other settings"), "{status}");
    assert!(home.ok(&["status"]).contains("glyphs: synthetic glyphs"));
}

#[test]
fn the_status_names_the_flags_that_outputs_were_made_with() {
    let home = Home::new();
    let flags =
        ["--set", "plan.split.ratio=[60,20,20]", "--set", "augment.affine=null", "--set", "augment.erasing.value=7"];
    home.ok(&[&["run", "augment"][..], &flags].concat());
    let status = home.ok(&["status"]);
    let hint = "\nOutputs were made with other settings than the present ones. To use those settings, add to this and \
                every other command:\n--set 'plan.split.ratio=[60, 20, 20]' --set augment.affine=null --set augment.erasing.value=7\n\
                Without that, `multidigit run` makes them anew.\n";
    assert!(status.contains("plan      stale  plan.split.ratio: [60,20,20] -> [64,16,20]\n"), "{status}");
    assert!(status.ends_with(hint), "{status}");
    let named = status.lines().rev().nth(1).unwrap().replace('\'', "");
    let named: Vec<&str> = named.split("--set ").skip(1).flat_map(|text| ["--set", text.trim()]).collect();
    let status = home.ok(&[&["status"][..], &named].concat());
    assert!(status.contains("augment   fresh ") && !status.contains("other settings"), "{status}");
    // what a recorded default leaves out is named with its value
    let status = home.ok(&[&["status", "--set", "augment.by=slot"][..], &named].concat());
    assert!(status.contains("\n--set augment.by=image\n"), "{status}");
}

#[test]
fn the_same_content_upstream_leaves_what_is_below_fresh() {
    let home = Home::new();
    home.ok(&["run", "dataset"]);
    // a changed storage format of the same plan: the layout of shards is no input of the plan, and
    // --force changes no content
    let forced = home.ok(&["run", "plan", "--force"]);
    assert!(forced.contains("raw       fresh ") && forced.contains("plan      done "), "{forced}");
    assert!(home.ok(&["run", "dataset"]).contains("dataset   fresh "));
}

#[test]
fn a_dry_run_leaves_nothing() {
    let home = Home::new();
    let answer = home.ok(&["run", "--downstream", "raw", "--dry-run"]);
    assert_eq!(answer.matches(" would run ").count(), Stage::ALL.len(), "every stage is below raw");
    assert!(!home.path("artifacts").exists());
}

#[test]
fn a_single_stage_wants_fresh_inputs() {
    let home = Home::new();
    let answer = home.call(&["run", "dataset", "--single"]);
    assert_eq!(answer.code, Some(1));
    let message = "error: dataset: its input raw is stale (has not run yet); run `multidigit run raw` first\n";
    assert_eq!(answer.stderr, message);
    home.ok(&["run", "plan"]);
    let single = home.ok(&["run", "dataset", "--single"]);
    assert_eq!(single.lines().count(), 1, "{single}");
    let answer = home.call(&["run", "dataset", "--single", "--set", "plan.seed=7"]);
    assert_eq!(answer.code, Some(1), "{}", answer.stdout);
}

#[test]
fn bytes_do_not_depend_on_the_number_of_threads() {
    let [one, two] = [Home::new(), Home::new()];
    one.ok(&["run", "augment", "--threads", "1", "--set", "dataset.row_group_rows=300"]);
    two.ok(&["run", "augment", "--threads", "2", "--set", "dataset.row_group_rows=300"]);
    for stage in ["plan", "dataset", "augment"] {
        let [a, b] = [&one, &two].map(|home| contents(&home.path("artifacts").join(stage)));
        assert!(!a.is_empty() && a == b, "{stage}");
    }
}

#[test]
fn content_does_not_depend_on_storage() {
    let home = Home::new();
    let content =
        |out: &str| out.split("dataset   done ").nth(1)?.split("content ").nth(1).map(|rest| rest[..12].to_owned());
    let plain = home.ok(&["run", "dataset"]);
    let settings = ["dataset.rows_per_shard=70", "dataset.compression=snappy", "dataset.pixels=true"];
    let arguments: Vec<&str> =
        ["run", "dataset", "--force"].into_iter().chain(settings.iter().flat_map(|s| ["--set", s])).collect();
    let other = home.ok(&arguments);
    assert!(content(&plain).is_some());
    assert_eq!(content(&plain), content(&other));
}

#[test]
fn an_epoch_alone_equals_the_epoch_after_others() {
    let [alone, after] = [Home::new(), Home::new()];
    alone.ok(&["run", "augment"]);
    after.ok(&["run", "augment", "--set", "augment.epochs=3"]);
    let epoch = |home: &Home, epoch| contents(&home.path("artifacts/augment").join(epoch));
    assert!(epoch(&alone, "epoch-000") == epoch(&after, "epoch-000"));
    assert!(epoch(&after, "epoch-001") != epoch(&after, "epoch-000"));
}

#[test]
fn verify_finds_damage_and_agrees_with_the_lock() {
    let home = Home::new();
    assert_eq!(home.call(&["verify"]).code, Some(1), "nothing stands yet");
    home.ok(&["run", "augment"]);
    home.ok(&["verify"]);
    home.ok(&["lock"]);
    assert_eq!(home.ok(&["verify"]).matches("as pipeline.lock pins it").count(), 4);

    let lock = fs::read_to_string(home.path("pipeline.lock")).unwrap();
    let broken = lock.replacen("\"content\": \"", "\"content\": \"0000", 1);
    let mut other: serde_json::Value = serde_json::from_str(&lock).unwrap();
    other["stages"]["raw"]["content"] = other["stages"]["plan"]["content"].clone();
    other.as_object_mut().unwrap().remove("digest");
    fs::write(home.path("pipeline.lock"), other.to_string()).unwrap();
    let answer = home.call(&["verify"]);
    assert_eq!(answer.code, Some(1));
    assert!(answer.stdout.contains("pipeline.lock pins"), "{}", answer.stdout);
    fs::write(home.path("pipeline.lock"), broken).unwrap();
    assert_eq!(home.call(&["verify"]).code, Some(1), "a lock that is no lock");
    fs::write(home.path("pipeline.lock"), lock).unwrap();

    let shard = home.path("artifacts/dataset/data/val-00000-of-00001.parquet");
    let mut bytes = fs::read(&shard).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&shard, bytes).unwrap();
    let answer = home.call(&["verify"]);
    assert_eq!(answer.code, Some(1));
    let line = "dataset   DIFFERENT  data/val-00000-of-00001.parquet was changed\n";
    assert!(answer.stdout.contains(line), "{}", answer.stdout);
    assert!(home.ok(&["status"]).contains("dataset   stale  output data/val-00000-of-00001.parquet was changed"));
    home.ok(&["run", "dataset"]);
    home.ok(&["verify"]);

    fs::write(home.path("artifacts/dataset/data/train-00009-of-00010.parquet"), "stray").unwrap();
    assert!(home.call(&["verify"]).stdout.contains("train-00009-of-00010.parquet is not in the record"));
}

#[test]
fn a_copy_of_the_artifacts_is_as_fresh_as_the_original() {
    let home = Home::new();
    home.ok(&["run", "dataset"]);
    for file in files::walk(&home.path("artifacts")).unwrap() {
        let to = home.path("copy").join(&file);
        fs::create_dir_all(to.parent().unwrap()).unwrap();
        fs::copy(home.path("artifacts").join(&file), to).unwrap();
    }
    let record = || fs::read(home.path("copy/dataset/record.json")).unwrap();
    let before = record();
    assert!(home.ok(&["status", "--artifacts", "copy"]).contains("dataset   fresh "));
    assert!(record() == before, "a look writes nothing: a run may be at work");
    let copy = home.ok(&["run", "dataset", "--artifacts", "copy"]);
    assert_eq!(copy.matches(" fresh ").count(), 3, "{copy}");
    assert!(record() != before, "a run keeps the renewed stamps");
}

#[test]
fn two_runs_do_not_share_a_folder() {
    let home = Home::new();
    fs::create_dir(home.path("artifacts")).unwrap();
    let held = File::create(home.path("artifacts/.raw.lock")).unwrap();
    held.lock().unwrap();
    let answer = home.call(&["run", "raw"]);
    assert_eq!(answer.code, Some(1));
    let busy =
        "error: `artifacts/raw`: another run of this program is writing or reading this folder; wait until it ends";
    assert!(answer.stderr.starts_with(busy), "{}", answer.stderr);
    drop(held);
    home.ok(&["run", "raw"]);
}

/// Starts a run that takes seconds and replaces a finished data set, stops it midway, and checks what is left.
#[cfg(unix)]
fn stopped_midway(signal: &str, code: Option<i32>) {
    let home = Home::new();
    home.ok(&["run", "dataset"]);
    let before = contents(&home.path("artifacts/dataset"));
    let arguments = ["run", "dataset", "--set", "plan.samples_per_class=3000", "--threads", "1"];
    let mut child = home.command(&arguments).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let halfway = home.path("artifacts/.dataset.new/data");
    while files::entries(&halfway).unwrap().is_empty() {
        assert_eq!(child.try_wait().unwrap(), None, "the run ended before it could be stopped");
        std::thread::sleep(Duration::from_millis(2));
    }
    let kill = Command::new("kill").args([signal, &child.id().to_string()]).status().unwrap();
    assert!(kill.success());
    assert_eq!(child.wait().unwrap().code(), code);
    assert!(contents(&home.path("artifacts/dataset")) == before, "the last good state stands");
    assert!(home.ok(&["status"]).contains("plan      stale  plan.samples_per_class: 3000 -> 20"));
    home.ok(&["run", "dataset"]);
    home.ok(&["verify"]);
    assert!(!home.path("artifacts/.dataset.new").exists(), "leftovers are swept");
    assert!(contents(&home.path("artifacts/dataset")) == before);
}

#[test]
#[cfg(unix)]
fn a_killed_run_leaves_the_last_good_state() {
    stopped_midway("-KILL", None);
}

#[test]
#[cfg(unix)]
fn an_interrupted_run_exits_with_130() {
    stopped_midway("-INT", Some(130));
}

#[test]
fn a_missing_mnist_says_what_to_do() {
    let home = Home::with(&["raw.mirrors=[./nowhere]"]);
    let answer = home.call(&["run", "raw", "--raw", "own"]);
    let code = answer.code;
    assert!(code == Some(2), "--raw twice is a bad flag: {}", answer.stderr);
    let folder = tempfile::tempdir().unwrap();
    let output = super::bare(folder.path()).args(["run", "raw", "--set", "raw.mirrors=[./nowhere]"]).output().unwrap();
    let answer = super::Answer::of(output);
    assert_eq!(answer.code, Some(1));
    for words in ["train-images-idx3-ubyte", "t10k-labels-idx1-ubyte", "nowhere", "raw.source=synthetic"] {
        assert!(answer.stderr.contains(words), "{words}: {}", answer.stderr);
    }
}

#[test]
fn a_setting_that_changes_no_row_of_the_plan_still_changes_what_is_made_of_it() {
    let home = Home::new();
    home.ok(&["run", "dataset"]);
    let wider = home.ok(&["run", "dataset", "--set", "plan.image_size=[64, 65]"]);
    assert!(wider.contains("dataset   done "), "{wider}");
    let ratio = home.ok(&["run", "dataset", "--set", "plan.split.ratio=[16, 4, 5]"]);
    assert!(ratio.contains("dataset   done "), "{ratio}");
    let card = fs::read_to_string(home.path("artifacts/dataset/README.md")).unwrap();
    assert!(card.contains("Divided 16/4/5 by class."), "{card}");
    home.ok(&["verify"]);
}

/// The four files of glyphs in a folder, without the lock beside them.
fn glyph_files(folder: &std::path::Path) -> Vec<fs::DirEntry> {
    let files = fs::read_dir(folder).unwrap().flatten();
    files.filter(|file| file.path().extension().is_some_and(|extension| extension == "gz")).collect()
}

#[test]
fn the_same_glyphs_from_elsewhere_are_the_same_data_set_and_others_do_not_take_their_name() {
    let home = Home::new();
    home.ok(&["run", "dataset"]);
    let card = || fs::read_to_string(home.path("artifacts/dataset/README.md")).unwrap();
    assert!(card().contains("# DoubleSynthetic\n") && !card().contains("DoubleMNIST"), "{}", card());
    let from = |folder: &std::path::Path| format!("raw.source={}", folder.display());
    let synthetic = super::synthetic_raw().join("synthetic");
    let again = home.ok(&["run", "dataset", "--set", &from(&synthetic)]);
    assert!(again.contains("dataset   fresh "), "{again}");

    // one glyph more or less is another set, under whatever name its folder has
    let other = home.path("MNIST");
    fs::create_dir(&other).unwrap();
    for file in glyph_files(&synthetic) {
        let mut bytes = Vec::new();
        flate2::read::MultiGzDecoder::new(fs::File::open(file.path()).unwrap()).read_to_end(&mut bytes).unwrap();
        let name = file.file_name().into_string().unwrap();
        if name.starts_with("t10k-images") {
            *bytes.last_mut().unwrap() ^= 1;
        }
        fs::write(other.join(name.trim_end_matches(".gz")), bytes).unwrap();
    }
    home.ok(&["run", "dataset", "--set", &from(&other)]);
    assert!(card().contains("license: other") && card().contains("# DoubleGlyphs\n"), "{}", card());
    assert!(!card().contains("MNIST\n") && card().contains("not MNIST's"), "{}", card());
}

#[test]
fn digits_that_training_never_shows_are_told_of_and_stand_in_the_card() {
    let home = Home::with(&["raw.source=synthetic", "plan.digits=1", "plan.samples_per_class=10"]);
    let answer = home.call(&["run", "dataset"]);
    assert_eq!(answer.code, Some(0), "{}", answer.stderr);
    let warning = answer.stderr.lines().find(|line| line.starts_with("warning: ")).unwrap();
    assert!(warning.starts_with("warning: val shows ") && warning.contains(" in place 1; test shows "), "{warning}");
    assert!(warning.contains("train never does") && warning.contains("plan.split.by=sample"), "{warning}");
    let card = fs::read_to_string(home.path("artifacts/dataset/README.md")).unwrap();
    assert!(
        card.contains("val and test show digits that train never showed, which no network can learn to read."),
        "{card}"
    );

    let answer = home.call(&["run", "dataset", "--set", "plan.split.by=sample"]);
    assert_eq!((answer.code, answer.stderr.contains("warning")), (Some(0), false), "{}", answer.stderr);
    let answer = Home::new().call(&["run", "plan"]);
    assert!(!answer.stderr.contains("warning"), "all digits occur in train: {}", answer.stderr);
}

#[test]
fn glyph_files_are_found_where_torchvision_keeps_them() {
    let home = Home::new();
    let folder = home.path("data/MNIST/raw");
    fs::create_dir_all(&folder).unwrap();
    for file in glyph_files(&super::synthetic_raw().join("synthetic")) {
        fs::copy(file.path(), folder.join(file.file_name())).unwrap();
    }
    let told = home.ok(&["run", "raw", "--set", "raw.source=data"]);
    assert!(told.contains("70000 glyphs (synthetic glyphs)"), "{told}");
    home.ok(&["verify", "--set", "raw.source=data"]);
}

#[test]
fn a_data_set_may_have_images_that_the_configured_network_cannot_take() {
    let home = Home::with(&["raw.source=synthetic", "plan.samples_per_class=5", "plan.image_size=[28, 56]"]);
    home.ok(&["run", "dataset"]);
    home.ok(&["status"]);
}

#[test]
fn what_stands_without_a_record_does_not_pass_verification() {
    let home = Home::new();
    home.ok(&["run", "dataset"]);
    fs::remove_file(home.path("artifacts/dataset/record.json")).unwrap();
    let answer = home.call(&["verify"]);
    assert_eq!(answer.code, Some(1));
    assert!(answer.stdout.contains("dataset   DIFFERENT  stands without its record.json"), "{}", answer.stdout);
}

#[test]
fn verification_takes_the_glyphs_that_the_record_speaks_of_and_writes_nothing() {
    let home = Home::new();
    home.ok(&["run", "plan"]);
    let everything = || files::walk_all(&home.path("artifacts")).unwrap();
    let before = everything();
    home.ok(&["verify", "--set", "raw.source=mnist"]);
    assert_eq!(everything(), before);
    assert_eq!(home.call(&["verify", "--artifacts", "absent"]).code, Some(1));
    assert!(!home.path("absent").exists());
}

#[test]
fn a_stray_shard_makes_its_stage_stale_and_is_in_the_way() {
    let home = Home::new();
    home.ok(&["run", "dataset"]);
    let stray = home.path("artifacts/dataset/data/val-00001-of-00002.parquet");
    fs::write(&stray, "stray").unwrap();
    let words = "dataset   stale  data/val-00001-of-00002.parquet is not in the record";
    assert!(home.ok(&["status"]).contains(words));
    let answer = home.call(&["run", "dataset"]);
    let words = "error: `artifacts/dataset`: holds data/val-00001-of-00002.parquet, which no record of this program names; \
                 move it away, or work in another folder with --artifacts\n";
    assert_eq!((answer.code, answer.stderr.as_str()), (Some(1), words));
    assert_eq!(fs::read_to_string(&stray).unwrap(), "stray");
    fs::remove_file(stray).unwrap();
    assert!(home.ok(&["run", "dataset"]).contains("dataset   fresh "));
}

#[test]
fn a_record_that_lists_nothing_or_is_garbage_is_no_freshness() {
    let home = Home::new();
    home.ok(&["run", "dataset"]);
    let path = home.path("artifacts/dataset/record.json");
    let mut record: serde_json::Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    record["outputs"] = serde_json::json!([]);
    record.as_object_mut().unwrap().remove("digest");
    fs::write(&path, record.to_string()).unwrap();
    assert!(home.ok(&["status"]).contains("dataset   stale  its record lists no output"));
    assert_eq!(home.call(&["verify"]).code, Some(1));
    let refused = home.call(&["run", "dataset"]);
    assert!(
        refused.stderr.contains("holds README.md, croissant.json, data and 1 more, which no record of"),
        "{}",
        refused.stderr
    );
    fs::write(&path, "garbage").unwrap();
    assert!(home.ok(&["status"]).contains("record.json`: not a record"));
    // without the record, nothing tells which files in the folder are the program's
    let refused = home.call(&["run", "dataset"]);
    assert!(refused.stderr.contains("move the folder away, and run the stage again"), "{}", refused.stderr);
    fs::rename(home.path("artifacts/dataset"), home.path("away")).unwrap();
    home.ok(&["run", "dataset"]);
    home.ok(&["verify"]);
}

#[test]
fn storage_that_cannot_be_read_back_or_held_is_refused() {
    let home = Home::with(&["raw.source=synthetic", "plan.digits=1", "plan.image_size=[28, 28]"]);
    let sizes = ["plan.samples_per_class=13000", "plan.split.ratio=[8, 1, 1]", "dataset.rows_per_shard=1"];
    let many: Vec<&str> = ["run", "dataset"].into_iter().chain(sizes.iter().flat_map(|s| ["--set", s])).collect();
    let answer = home.call(&many);
    assert_eq!(answer.code, Some(2));
    let words =
        "`dataset.rows_per_shard`: found 1, which cuts `train` into 104000 shards; expected at most 99999 shards";
    assert!(answer.stderr.contains(words), "{}", answer.stderr);
    let large = home.call(&["run", "dataset", "--set", "plan.image_size=[8000, 8000]"]);
    assert_eq!(large.code, Some(2));
    let words = "`dataset.row_group_rows`: found 1000 rows of 8000x8000 pixels; expected at most 33: 2 GiB of pixels";
    assert!(large.stderr.contains(words), "{}", large.stderr);
    // a reader does not accept more, since a file may declare a false number
    let long = ["dataset.row_group_rows=1200000", "dataset.rows_per_shard=1200000"];
    let long = home.call(&["run", "dataset", "--set", long[0], "--set", long[1]]);
    assert_eq!(long.code, Some(2));
    let words = "found 1200000 rows of 28x28 pixels; expected at most 1198372: 128 MiB of lists";
    assert!(long.stderr.contains(words), "{}", long.stderr);
    let donors =
        ["run", "dataset", "--set", "dataset.row_group_rows=1100000", "--set", "dataset.rows_per_shard=1100000"];
    let donors = home.call(&[&donors[..], &["--set", "augment.exchange=strict"]].concat());
    let words = "found 1100000 rows of 28x28 pixels; expected at most 1048576: 128 MiB of lists";
    assert!(donors.code == Some(2) && donors.stderr.contains(words), "{}", donors.stderr);
}

#[test]
#[cfg(unix)]
fn a_stage_folder_that_is_a_link_stays_one_and_a_file_in_its_place_is_in_the_way() {
    let home = Home::new();
    fs::create_dir_all(home.path("elsewhere")).unwrap();
    fs::create_dir_all(home.path("artifacts")).unwrap();
    std::os::unix::fs::symlink(home.path("elsewhere"), home.path("artifacts/dataset")).unwrap();
    fs::write(home.path("artifacts/plan"), "a file").unwrap();
    let refused = home.call(&["run", "dataset"]);
    let words = "error: `artifacts/plan`: a file; expected a folder, or nothing, in its place; move it\n";
    assert_eq!((refused.code, refused.stderr.as_str()), (Some(1), words));
    assert_eq!(fs::read_to_string(home.path("artifacts/plan")).unwrap(), "a file");
    fs::remove_file(home.path("artifacts/plan")).unwrap();
    home.ok(&["run", "dataset"]);
    assert!(home.path("elsewhere/record.json").exists() && home.path("artifacts/dataset").is_symlink());
    home.ok(&["verify"]);
}
