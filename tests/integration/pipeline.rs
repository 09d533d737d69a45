//! Freshness, atomicity, locks, and that the bytes depend on nothing but the settings.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use multidigit::files;

use super::Home;

/// Every file below a folder with its bytes, but for records, which hold times.
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
    assert!(home.ok(&["status"]).contains("dataset   fresh  2000 images"));
    assert!(home.ok(&["status"]).contains("glyphs: synthetic glyphs"));
}

#[test]
fn the_same_content_upstream_leaves_what_is_below_fresh() {
    let home = Home::new();
    home.ok(&["run", "dataset"]);
    // another storage of the same plan: the shards' layout is no input of the plan, and force changes no content
    let forced = home.ok(&["run", "plan", "--force"]);
    assert_eq!(forced.matches(" done ").count(), 2, "{forced}");
    assert!(home.ok(&["run", "dataset"]).contains("dataset   fresh "));
}

#[test]
fn a_dry_run_leaves_nothing() {
    let home = Home::new();
    assert_eq!(home.ok(&["run", "--dry-run"]).matches(" would run ").count(), 7);
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
    let content = |out: &str| out.split("content ").nth(3).map(|rest| rest[..12].to_owned());
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
    let broken = lock.replacen("\"content\": \"", "\"content\": \"0000", 1).replacen("0000", "", 0);
    let content = lock.find("\"content\": \"").unwrap() + 12;
    let mut other = lock.clone();
    let digit = if &lock[content..=content] == "0" { "1" } else { "0" };
    other.replace_range(content..=content, digit);
    fs::write(home.path("pipeline.lock"), &other).unwrap();
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
    let copy = home.ok(&["run", "dataset", "--artifacts", "copy"]);
    assert_eq!(copy.matches(" fresh ").count(), 3, "{copy}");
}

#[test]
fn two_runs_do_not_share_a_folder() {
    let home = Home::new();
    fs::create_dir(home.path("artifacts")).unwrap();
    let held = File::create(home.path("artifacts/.lock")).unwrap();
    held.lock().unwrap();
    let answer = home.call(&["run", "raw"]);
    assert_eq!(answer.code, Some(1));
    assert!(answer.stderr.contains("another run is at work in this folder"), "{}", answer.stderr);
    drop(held);
    home.ok(&["run", "raw"]);
}

/// Starts a run that takes seconds over a data set that stands, stops it midway, and looks at what is left.
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
