//! Compares every key and record of a small pipeline, line by line, with the approved ones, so that no change of the
//! code makes the files on users' disks stale.

use std::fs;
use std::path::Path;

use super::Home;

/// Members whose values depend on the time of the run.
const OF_THE_MOMENT: [&str; 4] = ["modified_ns", "inode", "seconds", "finished"];

/// Members that depend on trained weights, whose last bits depend on the processor.
const LEARNED: [&str; 4] = ["content", "digest", "bytes", "best_epoch"];

/// A record in which values that differ between runs or processors are replaced by a dash.
fn masked(path: &Path, text: &str) -> String {
    let is_learned = ["train", "evaluate", "report"].iter().any(|stage| path.starts_with(stage));
    let (mut lines, mut in_epochs) = (String::new(), false);
    for line in text.lines() {
        let (name, value) = line.trim().split_once(": ").unwrap_or((line.trim(), ""));
        let name = name.trim_matches('"');
        let is_masked = OF_THE_MOMENT.contains(&name)
            || is_learned && LEARNED.contains(&name)
            || name.starts_with("train/") // the digests of inputs
            || name.starts_with("evaluate/")
            || !is_learned && name == "digest" && line.starts_with("  \""); // the digest of the record's own text
        // skip the numbers of every epoch
        in_epochs &= line != "    ],";
        if in_epochs {
            continue;
        }
        in_epochs = is_learned && name == "epochs" && value == "[";
        let line = match line.split_once(": ") {
            Some((name, value)) if is_masked => format!("{name}: -{}", if value.ends_with(',') { "," } else { "" }),
            _ => line.to_owned(),
        };
        // the name of a TensorBoard file contains the time at which the training began
        let line = line.split("tfevents.").map(|part| part.trim_start_matches(|c: char| c.is_ascii_digit()));
        lines.push_str(&line.collect::<Vec<_>>().join("tfevents."));
        lines.push('\n');
    }
    lines
}

#[test]
fn keys_and_records_are_those_that_were_approved() {
    let data = ["raw.source=synthetic", "plan.digits=1", "plan.image_size=[28,28]", "plan.samples_per_class=10"];
    let stages = ["plan.split.by=sample", "augment.epochs=1", "train.model=resnet", "train.epochs=2"];
    let home = Home::with(&[&data[..], &stages, &["train.batch_size=32", "train.run=drawn"]].concat());
    home.ok(&["run", "raw", "plan", "dataset", "augment"]);
    home.ok(&["lock"]);
    home.ok(&["run", "train", "evaluate"]);
    let plain = ["--set", "train.augment=false", "--set", "train.run=plain"];
    home.ok(&[&["run", "train", "evaluate"][..], &plain].concat());
    home.ok(&["run", "report"]);
    home.ok(&["run", "evaluate", "--run", "drawn", "--set", "evaluate.data=artifacts/dataset/data"]);
    let mut all = String::new();
    let mut show = |name: &str, text: String| all.push_str(&format!("==== {name}\n{text}\n"));
    show("pipeline.lock", fs::read_to_string(home.path("pipeline.lock")).unwrap());
    let files = multidigit::files::walk_all(&home.path("artifacts")).unwrap();
    for path in files.iter().filter(|path| path.ends_with("record.json")) {
        let text = fs::read_to_string(home.path("artifacts").join(path)).unwrap();
        show(&path.display().to_string(), masked(path, &text));
    }
    insta::with_settings!({prepend_module_to_snapshot => false, omit_expression => true, snapshot_path => "../golden"}, {
        insta::assert_snapshot!("records", all);
    });
}
