//! Tests that interrupted runs resume to the same weights as uninterrupted ones, and that nothing is lost.

use std::io::Write;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use multidigit::error::Error;
use multidigit::networks::Model;
use multidigit::progress::{Event, Progress};
use multidigit::shards::Split;
use multidigit::train::{Config, TrainingSummary, checkpoint, metrics};
use multidigit_nn::Precision;
use multidigit_nn::schedule::Kind;

use super::Home;
use super::learning::{bars, on_threads, small, train_watched};

/// The files that contain what a run learned.
pub fn learned(folder: &Path) -> [Vec<u8>; 2] {
    ["best", "last"].map(|name| std::fs::read(folder.join(format!("weights/{name}.safetensors"))).unwrap())
}

/// The rows of the metrics, without the columns that contain times.
pub fn rows(folder: &Path) -> Vec<String> {
    let rows = metrics::read(&folder.join(metrics::FILE)).unwrap();
    let timeless = |mut row: metrics::Epoch| {
        (row.seconds, row.images_per_second) = (0.0, 0.0);
        format!("{row:?}")
    };
    rows.into_iter().map(timeless).collect()
}

/// Trains in sessions that each stop at their seventh progress event, alternately on one thread and two, until one
/// finishes. Returns how many did not.
fn train_with_interruptions(config: &Config, train: &Split, val: &Split, home: &Path) -> (TrainingSummary, usize) {
    let mut interruptions = 0;
    loop {
        let heard = AtomicUsize::new(0);
        let patient = |_: Event| heard.fetch_add(1, Ordering::SeqCst) < 6;
        let watch = Progress::new(&patient);
        match on_threads(1 + interruptions % 2, || train_watched(config, train, val, home, &watch)) {
            Ok(summary) => return (summary, interruptions),
            Err(Error::Interrupted) => interruptions += 1,
            Err(error) => panic!("{error}"),
        }
    }
}

#[test]
fn a_run_that_ends_early_does_so_after_interruptions_too() {
    let (train, val) = (bars(1, 12, 44, 44), bars(2, 10, 44, 44));
    // a rate that changes nothing, so that the first epoch stays the best
    let config = Config { epochs: 9, batch_size: 6, learning_rate: 1e-30, stop_after: Some(3), ..Config::default() };
    let home = tempfile::tempdir().unwrap();
    let (summary, interruptions) = train_with_interruptions(&config, &train, &val, home.path());
    assert!(interruptions >= 2, "{interruptions}");
    assert_eq!((summary.epochs.len(), summary.best_epoch, summary.steps), (4, 1, 8));
}

#[test]
fn a_run_interrupted_anywhere_goes_on_to_the_weights_of_one_that_was_not() {
    // a schedule, weight decay and an average for each network, so that together they cover all of these
    let recipes = [(Kind::Plateau, 0.0, None), (Kind::OneCycle, 0.1, Some(0.9)), (Kind::Cosine, 0.0, Some(0.5))];
    let precisions = [Precision::F32, Precision::Bf16].into_iter().filter(|precision| {
        let computes = precision.on_cpu().is_some();
        if !computes {
            let _ = writeln!(std::io::stderr(), "{precision}: skipped, as this processor has no instructions for it");
        }
        computes
    });
    let models = || Model::ALL.into_iter().zip(recipes.into_iter().cycle());
    let all = precisions.flat_map(|precision| models().map(move |of_model| (precision, of_model)));
    for (precision, (model, (schedule, decay, ema))) in all {
        let size = small(model);
        let (train, val) = (bars(1, 25, size, size), bars(2, 10, size, size));
        let config =
            Config { model, precision, schedule, epochs: 3, batch_size: 8, weight_decay: decay, ..Config::default() };
        // a learning rate at which the plateau schedule reduces it within three epochs
        let config = Config { learning_rate: 3e-3, ema, label_smoothing: decay, ..config };
        let whole = tempfile::tempdir().unwrap();
        train_watched(&config, &train, &val, whole.path(), &Progress::silent()).unwrap();
        assert_eq!(rows(whole.path()).len(), 3);

        let home = tempfile::tempdir().unwrap();
        let (summary, interruptions) = train_with_interruptions(&config, &train, &val, home.path());
        assert!(interruptions >= 4, "{interruptions}");
        assert!(
            learned(home.path()) == learned(whole.path()),
            "{model}, {precision}: {interruptions} interruptions changed weights"
        );
        let average = |folder: &Path| std::fs::read(folder.join("weights/ema.safetensors")).ok();
        assert!(average(home.path()) == average(whole.path()), "{model}: interruptions changed the average");
        assert_eq!(average(home.path()).is_some(), ema.is_some());
        assert_eq!(rows(home.path()), rows(whole.path()));
        assert_eq!((summary.steps, summary.epochs.len()), (9, 3));
        assert_eq!(points(home.path()), points(whole.path()), "{model}: interruptions changed TensorBoard's curves");
        assert_eq!(points(whole.path()).len(), 9, "a short epoch has a point for every step");
    }
}

/// The points of TensorBoard's curves within the epochs, without their times.
fn points(folder: &Path) -> Vec<(u64, f64, f64)> {
    let state = checkpoint::find(folder).unwrap().unwrap().state;
    state.points.iter().map(|point| (point.step, point.loss, point.rate)).collect()
}

#[test]
fn the_events_of_a_resumed_run_are_those_that_it_wrote_before() {
    let (train, val) = (bars(1, 50, 16, 16), bars(2, 10, 16, 16));
    let config = Config { model: Model::Towers, epochs: 3, batch_size: 2, ..Config::default() };
    let home = tempfile::tempdir().unwrap();
    let again = || {
        train_watched(&config, &train, &val, home.path(), &Progress::silent()).unwrap();
        let is_events = |path: &std::path::PathBuf| path.to_string_lossy().contains("tfevents");
        let files = std::fs::read_dir(home.path()).unwrap().map(|file| file.unwrap().path()).filter(is_events);
        files.map(|path| std::fs::read(path).unwrap()).collect::<Vec<_>>()
    };
    let written = again();
    assert_eq!((written.len(), points(home.path()).len()), (1, 60), "at most 20 points in an epoch of 25 steps");
    // the checkpoint of the last epoch stands, so nothing is left to train
    assert!(again() == written);
}

fn tiny() -> Home {
    let settings = ["raw.source=synthetic", "plan.samples_per_class=6", "train.model=fcn", "train.epochs=2"];
    let size = ["train.samples=64", "train.batch_size=16", "train.augment=false", "train.run=tiny"];
    Home::with(&[&settings[..], &size[..]].concat())
}

const RUN: &str = "artifacts/train/tiny";

/// Starts a training and ends it by a signal once `file` of the unfinished run exists.
#[cfg(unix)]
fn interrupt(home: &Home, more: &[&str], file: &str, signal: &str) -> (Option<i32>, String) {
    interrupt_run(home, "tiny", more, file, signal)
}

#[cfg(unix)]
fn interrupt_run(home: &Home, run: &str, more: &[&str], file: &str, signal: &str) -> (Option<i32>, String) {
    use std::process::{Command, Stdio};
    let mut child = home
        .command(&[&["run", "train"][..], more].concat())
        .stderr(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let file = home.path(&format!("artifacts/train/{run}.unfinished/{file}"));
    while !file.exists() {
        assert!(child.try_wait().unwrap().is_none(), "it ended before {} stood", file.display());
        std::thread::sleep(std::time::Duration::from_millis(2));
    }
    let sent = Command::new("kill").args([signal, &child.id().to_string()]).status().unwrap();
    assert!(sent.success());
    let output = child.wait_with_output().unwrap();
    (output.status.code(), String::from_utf8(output.stderr).unwrap())
}

#[cfg(unix)]
#[test]
fn ctrl_c_leaves_a_checkpoint_that_the_same_command_goes_on_from() {
    let whole = tiny();
    whole.ok(&["run", "train"]);

    let home = tiny();
    home.ok(&["run", "dataset"]);
    let (code, said) = interrupt(&home, &[], "metrics.csv", "-INT");
    assert_eq!(code, Some(130), "{said}");
    assert!(said.contains("the same command goes on from there"), "{said}");
    assert!(!home.path(RUN).exists() && home.path(&format!("{RUN}.unfinished/checkpoint.safetensors")).exists());
    home.ok(&["verify"]);
    let answer = home.call(&["run", "train"]);
    assert_eq!(answer.code, Some(0), "{}", answer.stderr);
    assert!(answer.stderr.contains("going on with epoch 1 at step "), "{}", answer.stderr);
    assert!(learned(&home.path(RUN)) == learned(&whole.path(RUN)));
    assert_eq!(rows(&home.path(RUN)), rows(&whole.path(RUN)));
    assert!(!home.path(&format!("{RUN}.unfinished")).exists());
}

#[cfg(unix)]
#[test]
fn a_kill_loses_no_more_than_the_steps_since_the_last_checkpoint() {
    let whole = tiny();
    whole.ok(&["run", "train"]);

    let home = tiny();
    home.ok(&["run", "dataset"]);
    let every = ["--set", "train.checkpoint_every_steps=1"];
    interrupt(&home, &every, "checkpoint.safetensors", "-KILL");
    // the interval of checkpoints changes no weight, so it is the same run
    let answer = home.call(&["run", "train"]);
    assert!(answer.stderr.contains("going on with epoch "), "{}", answer.stderr);
    assert!(learned(&home.path(RUN)) == learned(&whole.path(RUN)));
    assert_eq!(rows(&home.path(RUN)), rows(&whole.path(RUN)));
}

#[cfg(unix)]
#[test]
fn only_force_trains_over_a_finished_run_or_starts_an_unfinished_one_over() {
    let home = tiny();
    home.ok(&["run", "train"]);
    let before = learned(&home.path(RUN));
    let other = ["--set", "train.weight_decay=0.5", "--set", "train.checkpoint_every_steps=1"];
    let refused = home.call(&[&["run", "train"][..], &other].concat());
    let words = "error: `artifacts/train/tiny`: a finished run stands here, and this one differs (train.weight_decay: 0.0 \
                 -> 0.5); give this one another name (`train.run`), use that one as it stands (--run tiny), or train over \
                 it (--force)\n";
    assert_eq!((refused.code, refused.stderr.as_str()), (Some(1), words));

    interrupt(&home, &[&other[..], &["--force"]].concat(), "checkpoint.safetensors", "-INT");
    assert!(learned(&home.path(RUN)) == before, "the finished run stands until the next one is finished");
    let beside = "                 an unfinished run stands beside it: artifacts/train/tiny.unfinished\n";
    assert!(home.ok(&["status"]).contains(beside));
    let third = ["--set", "train.weight_decay=0.25", "--set", "train.run=other"];
    interrupt_run(&home, "other", &third, "metrics.csv", "-INT");
    let refused = home.call(&["run", "train", "--set", "train.weight_decay=0.125", "--set", "train.run=other"]);
    let words = "error: `artifacts/train/other.unfinished`: an unfinished run stands here, and this one differs \
                 (train.weight_decay: 0.25 -> 0.125); go on with that one (`multidigit run train --run other`), give this \
                 one another name (`train.run`), or start over (--force)\n";
    assert_eq!((refused.code, refused.stderr.as_str()), (Some(1), words));
    let went_on = home.call(&["run", "train", "--run", "other"]);
    assert!(went_on.code == Some(0) && went_on.stderr.contains("going on with epoch"), "{}", went_on.stderr);

    // the same command resumes the run, also if it replaces a finished run
    let forced = home.call(&[&["run", "train", "--force"][..], &other].concat());
    assert!(forced.code == Some(0) && forced.stderr.contains("going on with epoch"), "{}", forced.stderr);
    assert!(learned(&home.path(RUN)) != before);
    assert!(!home.path(&format!("{RUN}.unfinished")).exists(), "what was replaced is gone");
}

#[cfg(unix)]
#[test]
fn a_damaged_checkpoint_is_refused_and_force_starts_over() {
    let home = tiny();
    home.ok(&["run", "dataset"]);
    let folder = home.path(&format!("{RUN}.unfinished"));
    interrupt(&home, &[], "metrics.csv", "-INT");
    std::fs::write(folder.join("checkpoint.safetensors"), "damaged").unwrap();
    let answer = home.call(&["run", "train"]);
    assert_eq!(answer.code, Some(1));
    assert!(answer.stderr.contains("checkpoint.safetensors`: not readable as safetensors ("), "{}", answer.stderr);
    assert!(answer.stderr.contains("start the run over with --force"), "{}", answer.stderr);
    home.ok(&["run", "train", "--force"]);
}

#[test]
fn a_loss_that_is_no_number_leaves_the_weights_before_it_and_a_word() {
    let home = tiny();
    let answer = home.call(&["run", "train", "--set", "train.learning_rate=1e30", "--set", "train.run=wild"]);
    assert_eq!(answer.code, Some(1), "{}", answer.stderr);
    assert!(answer.stderr.contains("error: training stopped at step 2: the loss is"), "{}", answer.stderr);
    let left = home.path("artifacts/train/wild.unfinished");
    for name in ["stopped.json", "config.yaml", "env.json", "metrics.csv"] {
        assert!(left.join(name).exists(), "{name}");
    }
    assert!(!home.path("artifacts/train/wild").exists());
}

#[test]
fn a_run_folder_tells_how_it_was_made() {
    let home = tiny();
    home.ok(&["run", "train", "--threads", "2"]);
    let read = |name: &str| std::fs::read_to_string(home.path(&format!("{RUN}/{name}"))).unwrap();
    let config = read("config.yaml");
    assert!(
        config
            .starts_with("# The configuration of this run: defaults, file, recipe and overrides.\n# --set raw.source=")
    );
    assert!(config.contains("\n  model: fcn\n"));
    let env: serde_json::Value = serde_json::from_str(&read("env.json")).unwrap();
    assert_eq!((&env["threads"], &env["device"]), (&serde_json::json!(2), &serde_json::json!("cpu")));
    let record: serde_json::Value =
        serde_json::from_str(&std::fs::read_to_string(home.path("artifacts/dataset/record.json")).unwrap()).unwrap();
    assert_eq!(env["dataset"], record["content"]);
    assert!(home.path(&format!("{RUN}/checkpoint.safetensors")).exists());
    // the written configuration, used as input, is the same run
    let given = home.path("given.yaml");
    std::fs::write(&given, config).unwrap();
    let fresh = home.ok(&["run", "train", "--config", given.to_str().unwrap()]);
    assert!(fresh.contains("train     fresh"), "{fresh}");
}

/// Resumes a run of two epochs, or starts it.
fn resume(folder: &Path) -> Result<TrainingSummary, Error> {
    resume_watched(folder, &Progress::silent())
}

fn resume_watched(folder: &Path, progress: &Progress) -> Result<TrainingSummary, Error> {
    let config = Config { model: Model::ResNet, epochs: 2, batch_size: 8, ema: Some(0.9), ..Config::default() };
    train_watched(&config, &bars(1, 25, 12, 12), &bars(2, 10, 12, 12), folder, progress)
}

/// A run that was interrupted in its second epoch, and the weights of the same run without interruption.
fn interrupted() -> (tempfile::TempDir, [Vec<u8>; 2]) {
    let home = tempfile::tempdir().unwrap();
    let last = home.path().join("weights/last.safetensors");
    let stop = |event: Event| !matches!(event, Event::Advance(8) if last.exists());
    assert!(matches!(resume_watched(home.path(), &Progress::new(&stop)), Err(Error::Interrupted)));
    let whole = tempfile::tempdir().unwrap();
    resume(whole.path()).unwrap();
    (home, learned(whole.path()))
}

/// A copy of a run's folder.
fn copy(folder: &Path) -> tempfile::TempDir {
    let copy = tempfile::tempdir().unwrap();
    std::fs::create_dir(copy.path().join("weights")).unwrap();
    for path in multidigit::files::walk(folder).unwrap() {
        std::fs::copy(folder.join(&path), copy.path().join(&path)).unwrap();
    }
    copy
}

#[test]
fn no_damage_to_what_a_run_goes_on_with_changes_its_weights_in_silence() {
    let (home, whole) = interrupted();
    let weights = ["best", "last", "ema"].map(|name| format!("weights/{name}.safetensors"));
    let others = ["checkpoint.safetensors", "metrics.csv", "env.json"].map(str::to_owned);
    for file in weights.iter().chain(&others) {
        let size = std::fs::metadata(home.path().join(file)).unwrap().len() as usize;
        let mut refused = 0;
        for n in 0..16 {
            let (damaged, at) = (copy(home.path()), n * (size - 1) / 15);
            let path = damaged.path().join(file);
            let mut bytes = std::fs::read(&path).unwrap();
            bytes[at] ^= 1 << (n % 8);
            std::fs::write(&path, bytes).unwrap();
            match resume(damaged.path()) {
                // the change has no effect, such as white space in a header
                Ok(_) => assert!(learned(damaged.path()) == whole, "{file}, byte {at}"),
                Err(Error::Format { .. } | Error::Io { .. }) => refused += 1,
                Err(other) => panic!("{file}, byte {at}: {other}"),
            }
        }
        match file.as_str() {
            // the previous checkpoint replaces it
            "checkpoint.safetensors" => assert_eq!(refused, 0),
            _ => assert!(refused >= 14, "{file}: {refused}"),
        }
        let removed = copy(home.path());
        std::fs::remove_file(removed.path().join(file)).unwrap();
        match file.as_str() {
            "checkpoint.safetensors" => {
                resume(removed.path()).unwrap();
                assert!(learned(removed.path()) == whole);
            }
            _ => assert!(resume(removed.path()).is_err(), "{file}"),
        }
    }
    let sound = copy(home.path());
    resume(sound.path()).unwrap();
    assert!(learned(sound.path()) == whole);
}

#[test]
fn a_damaged_checkpoint_falls_back_to_the_one_before_it_and_a_run_says_so() {
    let (home, whole) = interrupted();
    let last = std::fs::read(home.path().join("checkpoint.safetensors")).unwrap();
    assert!(last != std::fs::read(home.path().join("checkpoint.previous.safetensors")).unwrap());
    for zeros in [false, true] {
        let damaged = copy(home.path());
        let path = damaged.path().join("checkpoint.safetensors");
        let bytes = if zeros { vec![0; last.len()] } else { last[..last.len() / 2].to_vec() };
        std::fs::write(&path, bytes).unwrap();
        let warnings = Mutex::new(Vec::new());
        let sink = |event: Event| {
            if let Event::Warn(warning) = event {
                warnings.lock().unwrap().push(warning.to_owned());
            }
            true
        };
        resume_watched(damaged.path(), &Progress::new(&sink)).unwrap();
        assert!(learned(damaged.path()) == whole);
        let warnings = warnings.into_inner().unwrap();
        let (before, after) = (
            format!("`{}`: not readable as safetensors", path.display()),
            "; the run goes on from the checkpoint before it",
        );
        assert!(warnings.iter().any(|w| w.starts_with(&before) && w.ends_with(after)), "{warnings:?}");
        assert!(!damaged.path().join("checkpoint.previous.safetensors").exists(), "a finished run has one checkpoint");
    }
}

#[test]
#[cfg(unix)]
fn a_checkpoint_that_the_system_fails_to_read_is_no_damaged_one() {
    let (home, _) = interrupted();
    let (last, previous) =
        (home.path().join("checkpoint.safetensors"), home.path().join("checkpoint.previous.safetensors"));
    let before = std::fs::read(&previous).unwrap();
    std::fs::remove_file(&last).unwrap();
    // a circular link simulates a disk that fails
    std::os::unix::fs::symlink(&last, &last).unwrap();
    let error = resume(home.path()).unwrap_err();
    assert!(matches!(&error, Error::Io { path, .. } if *path == last), "{error}");
    assert!(last.is_symlink() && std::fs::read(&previous).unwrap() == before);
}

#[test]
fn what_a_run_goes_on_with_is_named_where_it_is_not_what_the_run_wrote() {
    let (home, _) = interrupted();
    let refusal = |damaged: &tempfile::TempDir| {
        let error = resume(damaged.path()).unwrap_err().to_string();
        error.replace(&damaged.path().display().to_string(), "RUN")
    };
    let advice =
        "expected the file that its checkpoint speaks of; restore it from a copy, or start the run over with --force";
    for file in ["metrics.csv", "env.json"] {
        let damaged = copy(home.path());
        let text = std::fs::read_to_string(damaged.path().join(file)).unwrap();
        let (from, to) = if file == "env.json" { ("0.1.0", "0.1.1") } else { ("\n1,0.0005,", "\n1,0.0006,") };
        assert!(text.contains(from), "{text}");
        std::fs::write(damaged.path().join(file), text.replacen(from, to, 1)).unwrap();
        assert_eq!(refusal(&damaged), format!("`RUN/{file}`: not what the run wrote; {advice}"));
    }
    let damaged = copy(home.path());
    let path = damaged.path().join("checkpoint.safetensors");
    let mut bytes = std::fs::read(&path).unwrap();
    *bytes.last_mut().unwrap() ^= 4;
    std::fs::write(&path, bytes).unwrap();
    std::fs::remove_file(damaged.path().join("checkpoint.previous.safetensors")).unwrap();
    let expected = "expected a checkpoint of this version; start the run over with --force";
    let words = format!("`RUN/checkpoint.safetensors`: its content is not what its own digest says; {expected}");
    assert_eq!(refusal(&damaged), words);
}

#[test]
fn weights_that_a_kill_kept_from_being_written_are_written_out_of_the_checkpoint() {
    let (home, whole) = interrupted();
    // the state after a kill between the checkpoint at the end of the second epoch and the weights after it
    let killed = copy(home.path());
    let first = learned(killed.path());
    resume(killed.path()).unwrap();
    for (name, bytes) in ["best", "last"].iter().zip(&first) {
        std::fs::write(killed.path().join(format!("weights/{name}.safetensors")), bytes).unwrap();
    }
    resume(killed.path()).unwrap();
    assert!(learned(killed.path()) == whole);
}
