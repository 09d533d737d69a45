//! Tests of stages in parts through the program: several processes write the shards, one commits them.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use multidigit::files;
use multidigit::record::Record;

use super::Home;

/// 2000 images in 15 shards.
const SMALL: [&str; 3] = ["raw.source=synthetic", "plan.samples_per_class=20", "dataset.rows_per_shard=150"];

/// The files of a stage with their bytes, and its content. A record's times and stamps differ between runs.
fn state(folder: &Path) -> (Vec<(PathBuf, Vec<u8>)>, String) {
    let names = files::walk_all(folder).unwrap().into_iter().filter(|path| !path.ends_with("record.json"));
    let bytes = names.map(|name| (name.clone(), fs::read(folder.join(&name)).unwrap())).collect();
    let record = Record::read(folder).unwrap().unwrap();
    let outputs: Vec<_> = record.outputs.iter().map(|output| (&output.path, output.digest)).collect();
    (bytes, format!("{:?} {} {outputs:?} {}", record.key, record.content, record.rows))
}

#[test]
fn parts_in_any_order_give_the_files_of_a_single_run() {
    let (single, parts) = (Home::with(&SMALL), Home::with(&SMALL));
    single.ok(&["run", "augment", "--set", "augment.epochs=2"]);
    parts.ok(&["run", "plan"]);
    for (stage, of) in [("dataset", 5), ("augment", 3)] {
        let set: &[&str] = if stage == "augment" { &["--set", "augment.epochs=2"] } else { &[] };
        let call = |words: &[&str]| parts.ok(&[&["run", stage], words, set].concat());
        for number in [3, 0, 4, 1, 3, 2] {
            if number < of {
                let share = format!("{number}/{of}");
                assert!(call(&["--part", &share]).starts_with(&format!("{stage:9} part {share}  ")));
            }
        }
        let folder = format!("artifacts/{stage}");
        assert!(!parts.path(&folder).exists(), "nothing is in place before the commit");
        let printed = call(&["--commit"]);
        assert!(printed.starts_with(&format!("{stage:9} done       ")), "{printed}");
        assert_eq!(state(&parts.path(&folder)), state(&single.path(&folder)));
        assert!(!parts.path(&format!("{folder}.unfinished")).exists());
    }
    let again = parts.ok(&["run", "dataset", "--commit"]);
    assert!(again.starts_with("dataset   fresh "), "a commit may be repeated: {again}");
    assert!(parts.ok(&["verify"]).contains("dataset   ok "));
    assert!(parts.ok(&["status"]).contains("dataset   fresh "));
}

#[test]
fn a_part_that_ran_is_not_written_again_and_one_that_was_killed_is() {
    let home = Home::with(&SMALL);
    home.ok(&["run", "plan"]);
    let part = |share: &str| home.ok(&["run", "dataset", "--part", share]);
    assert_eq!(part("1/2"), "dataset   part 1/2  8 of 15 shards written, 0 were there\n");
    assert_eq!(part("1/2"), "dataset   part 1/2  0 of 15 shards written, 8 were there\n");
    let unfinished = home.path("artifacts/dataset.unfinished");
    // what kills leave: a shard without a receipt, a file of rows that is cut, a shard under its hidden name
    let receipts = unfinished.join("receipts/data");
    fs::remove_file(receipts.join("train-00008-of-00009.json")).unwrap();
    fs::write(receipts.join("val-00000-of-00003.rows"), "cut").unwrap();
    fs::write(unfinished.join("data/.part-x"), "half").unwrap();
    assert_eq!(part("1/2"), "dataset   part 1/2  2 of 15 shards written, 6 were there\n");
    part("0/1");
    home.ok(&["run", "dataset", "--commit"]);
    let single = Home::with(&SMALL);
    single.ok(&["run", "dataset"]);
    assert_eq!(state(&home.path("artifacts/dataset")), state(&single.path("artifacts/dataset")));
}

#[test]
fn the_same_part_may_run_several_times_at_once() {
    let home = Home::with(&SMALL);
    home.ok(&["run", "plan"]);
    let start = |share| {
        let mut command = home.command(&["run", "dataset", "--part", share]);
        command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap()
    };
    let running = ["0/2", "0/1", "1/2", "0/1"].map(start);
    for child in running {
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
    home.ok(&["run", "dataset", "--commit"]);
    let single = Home::with(&SMALL);
    single.ok(&["run", "dataset"]);
    assert_eq!(state(&home.path("artifacts/dataset")), state(&single.path("artifacts/dataset")));
}

#[test]
fn a_commit_wants_all_shards_of_one_key() {
    let home = Home::with(&SMALL);
    home.ok(&["run", "plan"]);
    let refused = |words: &[&str]| {
        let answer = home.call(&[&["run", "dataset"], words].concat());
        assert_eq!(answer.code, Some(1), "{}", answer.stdout);
        answer.stderr
    };
    let way = "write them with `multidigit run dataset --part I/N` and the same settings\n";
    let missing = |count: usize, named: &str| {
        let what = "are not there, or were made with other settings or inputs";
        format!("error: `artifacts/dataset.unfinished`: {count} of 15 shards {what} ({named}); {way}")
    };
    let first =
        "data/train-00000-of-00009.parquet, data/train-00001-of-00009.parquet, data/train-00002-of-00009.parquet";
    assert_eq!(refused(&["--commit"]), missing(15, first));
    home.ok(&["run", "dataset", "--part", "0/8"]);
    home.ok(&["run", "dataset", "--part", "2/8"]);
    home.ok(&["run", "dataset", "--part", "4/8"]);
    let named =
        "data/train-00001-of-00009.parquet, data/train-00002-of-00009.parquet, data/train-00005-of-00009.parquet";
    assert_eq!(refused(&["--commit"]), missing(10, named));
    home.ok(&["run", "dataset", "--part", "0/1"]);
    let other = ["--commit", "--set", "dataset.compression=snappy"];
    assert_eq!(refused(&other), missing(15, first));
    assert!(refused(&["--part", "0/2", "--set", "plan.seed=9"]).contains("its input plan is stale"));
    home.ok(&["run", "dataset", "--commit"]);
}

#[test]
fn files_of_the_user_stop_a_commit_and_stay() {
    let home = Home::with(&SMALL);
    home.ok(&["run", "plan"]);
    home.ok(&["run", "dataset", "--part", "0/1"]);
    let mine = home.path("artifacts/dataset.unfinished/data/mine.txt");
    fs::write(&mine, "mine").unwrap();
    let answer = home.call(&["run", "dataset", "--commit"]);
    assert_eq!(answer.code, Some(1));
    assert!(answer.stderr.contains("holds data/mine.txt, which no record of this program names"), "{}", answer.stderr);
    home.ok(&["clean"]);
    assert_eq!(fs::read_to_string(&mine).unwrap(), "mine");
    let left = files::walk_all(&home.path("artifacts/dataset.unfinished")).unwrap();
    assert_eq!(left, [PathBuf::from("data/mine.txt")], "the rest is cleaned");
}

#[test]
fn only_stages_with_shards_are_made_in_parts_and_flags_that_say_more_are_refused() {
    let home = Home::with(&SMALL);
    let answer = home.call(&["run", "plan", "--part", "0/2"]);
    assert_eq!(answer.stderr, "error: plan: cannot be made in parts; expected dataset or augment\n");
    for words in [&["--part", "2/2"][..], &["--part", "0/2", "--commit"], &["--commit", "--force"]] {
        assert_eq!(home.call(&[&["run", "dataset"], words].concat()).code, Some(2), "{words:?}");
    }
}
