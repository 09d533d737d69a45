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
        assert!(!parts.path(&format!("{folder}.parts")).exists());
    }
    let again = parts.ok(&["run", "dataset", "--commit"]);
    assert!(again.starts_with("dataset   fresh "), "a commit may be repeated: {again}");
    let again = parts.ok(&["run", "dataset", "--part", "1/5"]);
    assert_eq!(again, "dataset   part 1/5  0 of 15 shards written, 3 were there\n");
    assert!(!parts.path("artifacts/dataset.parts").exists());
    assert!(parts.ok(&["verify"]).contains("dataset   ok "));
    assert!(parts.ok(&["status"]).contains("dataset   fresh "));
}

/// The folder of the one key whose parts there are.
fn place(home: &Home) -> PathBuf {
    let found = files::entries(&home.path("artifacts/dataset.parts")).unwrap();
    let [place] = &found[..] else { panic!("{found:?}") };
    place.clone()
}

#[test]
fn a_part_that_ran_is_not_written_again_and_one_that_was_killed_or_damaged_is() {
    let home = Home::with(&SMALL);
    home.ok(&["run", "plan"]);
    let part = |share: &str| home.ok(&["run", "dataset", "--part", share]);
    assert_eq!(part("1/2"), "dataset   part 1/2  8 of 15 shards written, 0 were there\n");
    assert_eq!(part("1/2"), "dataset   part 1/2  0 of 15 shards written, 8 were there\n");
    let place = place(&home);
    let at = |name: &str| place.join(name);
    // what kills leave: a receipt without a shard, a receipt without rows, a draft
    fs::remove_file(at("data/train-00008-of-00009.parquet")).unwrap();
    fs::remove_file(at("receipts/data/val-00000-of-00003.rows")).unwrap();
    fs::write(at("data/.test-00001-of-00003.parquet.draft-x"), "half").unwrap();
    // damage that changes no size
    let damaged = at("data/test-00002-of-00003.parquet");
    let mut bytes = fs::read(&damaged).unwrap();
    bytes[500] ^= 1;
    fs::write(&damaged, bytes).unwrap();
    assert_eq!(part("1/2"), "dataset   part 1/2  3 of 15 shards written, 5 were there\n");
    part("0/1");
    home.ok(&["run", "dataset", "--commit"]);
    let single = Home::with(&SMALL);
    single.ok(&["run", "dataset"]);
    assert_eq!(state(&home.path("artifacts/dataset")), state(&single.path("artifacts/dataset")));
    assert!(!home.path("artifacts/dataset.parts").exists(), "the draft is gone, too");
}

#[test]
fn the_same_part_may_run_several_times_at_once() {
    let home = Home::with(&SMALL);
    home.ok(&["run", "plan"]);
    let start = |share| {
        let mut command = home.command(&["run", "dataset", "--part", share]);
        command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap()
    };
    // there is no folder of parts yet
    let running = ["0/2", "0/1", "1/2", "0/1", "1/3", "2/3"].map(start);
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
    let missing = |count: usize, named: &str| {
        let what = format!("{count} of the 15 shards of these settings and inputs are missing or damaged ({named})");
        format!("{what}; write them with `multidigit run dataset --part I/N` and the same settings\n")
    };
    let name = |number: usize| format!("data/train-{number:05}-of-00009.parquet");
    let names = |numbers: [usize; 3]| numbers.map(name).join(", ");
    let answer = refused(&["--commit"]);
    assert!(answer.starts_with("error: `artifacts/dataset.parts/"), "{answer}");
    assert!(answer.ends_with(&missing(15, &names([0, 1, 2]))), "{answer}");
    for share in ["0/8", "2/8", "4/8"] {
        home.ok(&["run", "dataset", "--part", share]);
    }
    assert!(refused(&["--commit"]).ends_with(&missing(10, &names([1, 2, 5]))));
    let status = || home.ok(&["status"]);
    let stale = format!("dataset   stale  has not run yet\n{:17}parts have written ", "");
    assert!(status().contains(&format!("{stale}5 of 15 shards\n")), "{}", status());
    home.ok(&["run", "dataset", "--part", "0/1"]);
    let whole = format!("{stale}all 15 shards; `multidigit run dataset --commit` puts them in place\n");
    assert!(status().contains(&whole), "{}", status());
    // other settings have parts of their own
    let other = ["--set", "dataset.compression=snappy"];
    assert!(refused(&[&["--commit"], &other[..]].concat()).ends_with(&missing(15, &names([0, 1, 2]))));
    home.ok(&[&["run", "dataset", "--part", "0/2"], &other[..]].concat());
    assert!(refused(&["--part", "0/2", "--set", "plan.seed=9"]).contains("its input plan is stale"));
    let place = place_of_first(&home);
    let receipt = place.join("receipts/data/val-00001-of-00003.json");
    let text = fs::read_to_string(&receipt).unwrap();
    fs::write(&receipt, text.replace("\"sha256\": \"", "\"sha256\": \"0")).unwrap();
    let answer = refused(&["--commit"]);
    assert!(answer.contains("val-00001-of-00003.json`: its content is not what its own digest says"), "{answer}");
    fs::write(&receipt, text).unwrap();
    home.ok(&["run", "dataset", "--commit"]);
    assert!(home.ok(&["verify"]).contains("dataset   ok "));
    home.ok(&["clean"]);
    assert!(!home.path("artifacts/dataset.parts").exists(), "the parts of the other settings are cleaned");
}

/// The folder of the parts that are whole.
fn place_of_first(home: &Home) -> PathBuf {
    let all = files::entries(&home.path("artifacts/dataset.parts")).unwrap();
    all.into_iter().max_by_key(|place| files::walk_all(place).unwrap().len()).unwrap()
}

#[test]
fn files_of_the_user_are_neither_replaced_nor_taken_nor_removed() {
    let home = Home::with(&SMALL);
    home.ok(&["run", "plan"]);
    home.ok(&["run", "dataset", "--part", "0/3"]);
    let place = place(&home);
    let at = |name: &str| place.join(name);
    // a shard of a later part, of which there is no receipt
    let taken = at("data/train-00007-of-00009.parquet");
    fs::write(&taken, "mine").unwrap();
    let answer = home.call(&["run", "dataset", "--part", "1/3"]);
    assert_eq!(answer.code, Some(1));
    let words = "holds data/train-00007-of-00009.parquet, which no record of this program names";
    assert!(answer.stderr.contains(words), "{}", answer.stderr);
    assert_eq!(fs::read_to_string(&taken).unwrap(), "mine");
    fs::remove_file(&taken).unwrap();
    let mine = ["README.md", "record.json", "data/other.parquet", "receipts/invoice.json", "receipts/data/.part-notes"];
    mine.iter().for_each(|name| fs::write(at(name), name).unwrap());
    home.ok(&["run", "dataset", "--part", "0/1"]);
    home.ok(&["run", "dataset", "--commit"]);
    home.ok(&["verify"]);
    home.ok(&["clean"]);
    for name in mine {
        assert_eq!(fs::read_to_string(at(name)).unwrap(), name);
    }
    assert_eq!(files::walk_all(&place).unwrap().len(), mine.len(), "the rest is gone");
}

#[test]
#[cfg(unix)]
fn a_part_does_not_write_through_links() {
    use std::os::unix::fs::symlink;
    let home = Home::with(&SMALL);
    home.ok(&["run", "plan"]);
    home.ok(&["run", "dataset", "--part", "0/3"]);
    let place = place(&home);
    let elsewhere = home.path("elsewhere");
    fs::rename(place.join("data"), &elsewhere).unwrap();
    symlink(&elsewhere, place.join("data")).unwrap();
    let answer = home.call(&["run", "dataset", "--part", "1/3"]);
    assert_eq!(answer.code, Some(1));
    assert!(answer.stderr.contains("data`: a link; expected a folder of this program"), "{}", answer.stderr);
    assert_eq!(files::entries(&elsewhere).unwrap().len(), 5);
}

#[test]
fn a_file_in_the_place_of_a_folder_of_parts_is_named() {
    let home = Home::with(&SMALL);
    home.ok(&["run", "plan"]);
    home.ok(&["run", "dataset", "--part", "0/3"]);
    let parts = home.path("artifacts/dataset.parts");
    let place = place(&home);
    for folder in [place.join("data"), place.join("receipts/data"), place, parts] {
        let aside = home.path("aside");
        fs::rename(&folder, &aside).unwrap();
        fs::write(&folder, "mine").unwrap();
        let answer = home.call(&["run", "dataset", "--part", "1/3"]);
        let name = folder.strip_prefix(home.path("")).unwrap().display();
        let message = format!("`{name}`: a file; expected a folder of this program, or nothing; move the file away\n");
        assert_eq!((answer.code, answer.stderr), (Some(1), format!("error: {message}")));
        fs::remove_file(&folder).unwrap();
        fs::rename(&aside, &folder).unwrap();
    }
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
