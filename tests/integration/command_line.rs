//! Tests of commands, flags and exit codes.

use super::{Answer, Home, bare};

fn refusal(home: &Home, arguments: &[&str]) -> (Option<i32>, String) {
    let answer = home.call(arguments);
    (answer.code, answer.stderr)
}

#[test]
fn bad_flags_and_bad_settings_exit_with_2() {
    let home = Home::new();
    assert_eq!(Answer::of(bare(home.folder.path()).output().unwrap()).code, Some(2));
    assert_eq!(home.call(&["run", "nonsense"]).code, Some(2));
    assert_eq!(home.call(&["run", "--single"]).code, Some(2));
    assert_eq!(home.call(&["status", "--threads", "0"]).code, Some(2));
    let (code, stderr) = refusal(&home, &["status", "--set", "plan.sed=1"]);
    assert_eq!(
        (code, stderr.as_str()),
        (Some(2), "error: --set plan.sed=1: unknown key `plan.sed`; did you mean `plan.seed`?\n")
    );
    let (code, stderr) = refusal(&home, &["run", "--set", "plan.image_size=[64, 40]"]);
    let message = "error: `plan.image_size`: found width 40 for 2 digits; expected 56 to 65535\n";
    assert_eq!((code, stderr.as_str()), (Some(2), message));
    let (code, stderr) = refusal(&home, &["status", "--config", "absent.yaml"]);
    assert_eq!(code, Some(2));
    assert!(stderr.starts_with("error: absent.yaml: cannot read it"), "{stderr}");
}

#[cfg(not(feature = "cuda"))]
#[test]
fn a_gpu_that_is_asked_of_a_program_without_cuda_is_refused_and_never_replaced_by_the_cpu() {
    let home = Home::new();
    for (key, command) in [("train.device", "train"), ("evaluate.device", "evaluate")] {
        let (code, stderr) = refusal(&home, &["run", command, "--set", &format!("{key}=cuda")]);
        let message = format!(
            "error: `{key}`: found cuda; expected cpu, as this program was built without CUDA; `make build-cuda` builds \
             one with it\n"
        );
        assert_eq!((code, stderr), (Some(2), message));
    }
    let (code, stderr) = refusal(&home, &["bench", "train", "--set", "train.device=cuda"]);
    assert_eq!(code, Some(2));
    assert!(stderr.starts_with("error: `train.device`: found cuda; expected cpu"), "{stderr}");
}

#[test]
fn a_configuration_file_is_read_and_its_mistakes_are_placed() {
    let home = Home::new();
    std::fs::write(home.path("pipeline.yaml"), "plan:\n  seed: 7\n").unwrap();
    assert!(home.ok(&["show-config"]).contains("\n  seed: 7\n"));
    std::fs::write(home.path("other.yaml"), "plan:\n  seed: 7\n  digit: 2\n").unwrap();
    let (code, stderr) = refusal(&home, &["show-config", "--config", "other.yaml"]);
    let message = "error: other.yaml:3: unknown key `digit`; did you mean `digits`?\n";
    assert_eq!((code, stderr.as_str()), (Some(2), message));
    for broken in ["plan: [", "plan: {seed: many}", "- 1", "\u{0}"] {
        std::fs::write(home.path("other.yaml"), broken).unwrap();
        assert_eq!(home.call(&["show-config", "--config", "other.yaml"]).code, Some(2), "{broken}");
    }
}

#[test]
fn a_recipe_changes_the_file_and_names_the_run_and_a_set_changes_the_recipe() {
    let home = Home::with(&[]);
    std::fs::write(home.path("pipeline.yaml"), "train: {epochs: 7, seed: 4}\n").unwrap();
    let shown = home.ok(&["show-config", "--recipe", "fast", "--set", "train.trunk.channels=8"]);
    assert!(shown.starts_with("# Recipe fast: "), "{shown}");
    for line in ["  model: towers", "    channels: 8", "  epochs: 1", "  seed: 4", "  run: fast-seed4-trunk.channels8"]
    {
        assert!(shown.contains(&format!("\n{line}\n")), "{line} in {shown}");
    }
    assert!(home.ok(&["show-config", "--set", "train.run=mine", "--recipe", "fast"]).contains("\n  run: mine\n"));
    let (code, stderr) = refusal(&home, &["status", "--recipe", "slow"]);
    assert_eq!(code, Some(2));
    assert!(stderr.starts_with("error: `--recipe`: found slow; expected best, fast, paper-"), "{stderr}");
}

#[test]
fn what_is_printed_for_other_programs_is_well_formed() {
    let home = Home::new();
    assert!(home.ok(&["dag"]).contains("dataset   <- raw, plan\n"));
    assert!(home.ok(&["dag", "--mermaid"]).starts_with("graph LR\n    raw --> plan\n"));
    let schema: serde_json::Value = serde_json::from_str(&home.ok(&["schema"])).unwrap();
    assert!(schema["properties"]["plan"].is_object());
    assert!(home.ok(&["completions", "bash"]).contains("multidigit"));
    let page = home.ok(&["man"]);
    for words in [".TH multidigit", "downstream", "dry\\-run", "mermaid"] {
        assert!(page.contains(words), "{words}");
    }
}

/// Runs the program with a reader of its output that closes at once. Returns the exit code.
fn unread(home: &Home, arguments: &[&str]) -> Option<i32> {
    use std::process::Stdio;
    let mut child = home.command(arguments).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    drop(child.stdout.take());
    child.wait().unwrap().code()
}

#[test]
fn a_reader_that_goes_away_neither_stops_the_work_nor_changes_its_exit_code() {
    let home = Home::new();
    assert_eq!(unread(&home, &["schema"]), Some(0));
    assert_eq!(unread(&home, &["run", "dataset"]), Some(0));
    assert_eq!(home.ok(&["run", "dataset"]).matches(" fresh ").count(), 3, "every stage has run");
    std::fs::write(home.path("artifacts/plan/plan.parquet"), "damage").unwrap();
    assert_eq!(unread(&home, &["verify"]), Some(1));
}

#[test]
fn inspect_tells_of_shards_and_idx_files_and_refuses_others() {
    let home = Home::new();
    home.ok(&["run", "dataset"]);
    let shard = home.ok(&["inspect", "artifacts/dataset/data/val-00000-of-00001.parquet"]);
    for words in ["rows: 320 in 1 row groups", "created by: multidigit", "boxes: FixedSizeList", "huggingface: {"] {
        assert!(shard.contains(words), "{words}: {shard}");
    }
    let glyphs = super::synthetic_raw().join("synthetic/train-images-idx3-ubyte.gz");
    let header = home.ok(&["inspect", glyphs.to_str().unwrap()]);
    assert!(header.contains("dimensions: 60000 x 28 x 28"), "{header}");
    for (name, bytes) in [("empty", &b""[..]), ("text", b"hello"), ("cut.parquet", b"PAR1PAR1"), ("x.gz", b"\x1f\x8b")]
    {
        std::fs::write(home.path(name), bytes).unwrap();
        let answer = home.call(&["inspect", name]);
        assert_eq!(answer.code, Some(1), "{name}: {}", answer.stderr);
        assert!(answer.stderr.starts_with(&format!("error: `{name}`: ")), "{}", answer.stderr);
    }
    assert_eq!(home.call(&["inspect", "absent"]).code, Some(1));
}

#[test]
fn a_bench_tells_speeds_and_with_a_profile_the_time_of_each_layer() {
    let home = Home::new();
    let small = ["--set", "plan.image_size=[44, 56]", "--set", "train.batch_size=2"];
    let bench = ["bench", "train", "--steps", "4"];
    let told = home.ok(&[&bench[..], &small].concat());
    for line in ["step on a batch in memory", "step behind the data path", "evaluation, 500 at a time"] {
        assert!(told.contains(line), "{told}");
    }
    assert!(!told.contains("conv5"));
    let profile = home.ok(&[&bench[..], &small, &["--profile"]].concat());
    assert!(profile.contains("conv5") && profile.contains("optimiser"), "{profile}");
    assert!(!home.path("artifacts").exists(), "it needs no data set, and leaves nothing");
    let refused = home.call(&["bench", "train", "--set", "train.model=fcn", "--set", "plan.image_size=[28, 56]"]);
    assert_eq!(refused.code, Some(2), "{}", refused.stderr);
}
