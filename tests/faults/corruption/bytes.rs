//! Flips one byte of a file, or truncates it.

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use multidigit::digest::Digest;
use multidigit::files;
use multidigit::networks::weights::{self, Description, Entry};
use multidigit::networks::{Model, Shape};
use multidigit::plan::table;
use multidigit::progress::Progress;
use multidigit::shards::{Shards, Split, foreign};
use multidigit::train::checkpoint::{self, TrainingState};
use multidigit_nn::schedule::{Kind, Plateau, Schedule};
use serde_json::{Value, json};

use super::{Damage, Patient, RUN, Tally, Verdict, copy, damages, finished, judge, scene};
use crate::home::{Home, synthetic_raw};

/// The meaning of a record: the members that the program reads.
fn meaning_of_record(bytes: &[u8]) -> Option<Vec<Value>> {
    let value: Value = serde_json::from_slice(bytes).ok()?;
    let members = ["key", "content", "outputs", "rows", "facts", "seconds", "finished"];
    members.iter().map(|member| value.get(member).cloned()).collect()
}

#[test]
fn a_damaged_record_is_found_by_verify() {
    for stage in ["raw", "plan", "dataset", "augment", "train/small", "evaluate/small", "report"] {
        let home = scene(&[stage]);
        let record = Patient::new(home.path(&format!("artifacts/{stage}/record.json")));
        let mut tally = Tally::new(format!("record.json of {stage}, verify"));
        for damage in damages(record.sound.len(), 40) {
            let verdict = match meaning_of_record(&damage.of(&record.sound)) {
                same if same.is_some() && same == meaning_of_record(&record.sound) => Verdict::Harmless,
                _ => record.with(damage, || judge(&home.call(&["verify"]), &["record.json"])),
            };
            tally.add(&damage, verdict);
        }
        tally.end();
    }
}

#[test]
fn a_damaged_record_is_found_by_the_stage_that_reads_it() {
    let home = scene(&["raw", "plan", "dataset", "augment", "train", "evaluate", "report"]);
    let cases: [(&str, &[&str]); 6] = [
        ("plan", &["run", "dataset", "--single", "--force"]),
        ("dataset", &["run", "evaluate", "--single", "--force"]),
        ("train/small", &["run", "evaluate", "--single", "--force"]),
        ("train/small", &["predict", "artifacts/dataset/montage.png"]),
        ("train/small", &["run", "train"]),
        ("report", &["run", "report", "--force"]),
    ];
    for (stage, command) in cases {
        let record = Patient::new(home.path(&format!("artifacts/{stage}/record.json")));
        let mut tally = Tally::new(format!("record.json of {stage}, {}", command.join(" ")));
        for damage in damages(record.sound.len(), 12).into_iter().take(100) {
            if meaning_of_record(&damage.of(&record.sound)) != meaning_of_record(&record.sound) {
                tally.add(&damage, record.with(damage, || judge(&home.call(command), &["record.json`: "])));
            }
        }
        tally.end();
    }
}

#[test]
fn runs_and_status_tell_of_a_damaged_record() {
    let home = scene(&["raw", "plan", "dataset", "augment", "train", "evaluate", "report"]);
    let told = |command: &str| {
        let answer = home.call(&[command]);
        assert_eq!(answer.code, Some(0), "they tell what stands, whatever it is: {}", answer.stderr);
        format!("{}{}", answer.stdout, answer.stderr)
    };
    let mut tally = Tally::new("record.json, status and runs");
    for (stage, command) in
        [("plan", "status"), ("train/small", "status"), ("train/small", "runs"), ("evaluate/small", "runs")]
    {
        let record = Patient::new(home.path(&format!("artifacts/{stage}/record.json")));
        for damage in damages(record.sound.len(), 8).into_iter().take(100) {
            let said = record.with(damage, || told(command));
            let is_same = meaning_of_record(&damage.of(&record.sound)) == meaning_of_record(&record.sound);
            let verdict = match said.contains(&format!("artifacts/{stage}/record.json`: ")) {
                true => Verdict::Found,
                false if is_same => Verdict::Harmless,
                false => Verdict::Lost(said),
            };
            tally.add(&(stage, command, damage), verdict);
        }
    }
    tally.end();
}

#[test]
fn a_damaged_lock_file_is_found_by_verify_and_stops_a_run() {
    let home = scene(&["plan"]);
    fs::copy(finished().path("pipeline.lock"), home.path("pipeline.lock")).unwrap();
    assert!(home.ok(&["verify"]).contains("as pipeline.lock pins it"));
    let lock = Patient::new(home.path("pipeline.lock"));
    let parse = |bytes: &[u8]| serde_json::from_slice::<Value>(bytes).ok();
    let mut tally = Tally::new("pipeline.lock, verify");
    for (number, damage) in damages(lock.sound.len(), 150).into_iter().enumerate() {
        let verdict = match parse(&damage.of(&lock.sound)) {
            same if same.is_some() && same == parse(&lock.sound) => Verdict::Harmless,
            _ => lock.with(damage, || {
                // some cases use a run instead of `verify`
                let command: &[&str] = if number % 8 == 0 { &["run", "plan"] } else { &["verify"] };
                judge(&home.call(command), &["pipeline.lock"])
            }),
        };
        tally.add(&damage, verdict);
    }
    tally.end();
}

/// Flips and truncations of a file, each of which `verify` must find and report with the file's name.
fn verified(home: &Home, path: &str, name: &str, sample: usize) {
    let patient = Patient::new(home.path(path));
    let mut tally = Tally::new(format!("{path}, verify"));
    for damage in damages(patient.sound.len(), sample) {
        tally.add(&damage, patient.with(damage, || judge(&home.call(&["verify"]), &[name])));
    }
    tally.end();
}

#[test]
fn a_damaged_plan_is_found_by_verify() {
    verified(&scene(&["plan"]), "artifacts/plan/plan.parquet", "plan.parquet", 200);
}

#[test]
fn a_damaged_shard_is_found_by_verify() {
    let name = "data/val-00000-of-00001.parquet";
    verified(&scene(&["dataset"]), &format!("artifacts/dataset/{name}"), name, 200);
}

#[test]
fn a_damaged_file_is_found_by_the_stage_that_reads_it() {
    let home = scene(&["raw", "plan", "dataset", "augment", "train", "evaluate", "report"]);
    home.ok(&["run", "augment", "evaluate", "report"]); // all stages are fresh, with the stamps of the copies
    let image = home.path("digit.png");
    image::GrayImage::new(60, 60).save(&image).unwrap();
    let shard = |split: &str| format!("dataset/data/{split}-00000-of-00001.parquet");
    let run = |name: &str| format!("train/{RUN}/{name}");
    let cases: Vec<(String, &[&str], usize)> = vec![
        ("plan/plan.parquet".into(), &["run", "dataset", "--single", "--force"], 40),
        (shard("train"), &["run", "augment", "--single", "--force"], 40),
        (shard("test"), &["run", "evaluate", "--single", "--force"], 20),
        ("dataset/montage.png".into(), &["run", "report", "--single", "--force"], 20),
        (run("weights/best.safetensors"), &["predict", "digit.png"], 30),
        (run("weights/best.safetensors"), &["run", "evaluate", "--single", "--force"], 20),
        (run("config.yaml"), &["run", "evaluate", "--run", RUN], 20),
        (run("checkpoint.safetensors"), &["run", "train", "--set", "train.epochs=3"], 10),
        (run("metrics.csv"), &["run", "train", "--set", "train.epochs=3"], 10),
    ];
    for (path, command, sample) in cases {
        let patient = Patient::new(home.path("artifacts").join(&path));
        let mut tally = Tally::new(format!("{path}, {}", command.join(" ")));
        let name = Path::new(&path).file_name().unwrap().to_str().unwrap();
        // large files are sampled, even if every case is tried
        for damage in damages_at_most(patient.sound.len(), sample) {
            tally.add(&damage, patient.with(damage, || judge(&home.call(command), &[name])));
        }
        tally.end();
    }
}

/// A sample of damages, ten times as many if every case is tried.
fn damages_at_most(length: usize, sample: usize) -> Vec<Damage> {
    let all = damages(length, sample);
    // an odd step, because flips and truncations alternate
    let step = all.len().div_ceil(20 * sample) | 1;
    all.into_iter().step_by(step).collect()
}

#[test]
fn a_damage_to_any_file_of_any_stage_is_found_by_verify() {
    for stage in ["raw", "plan", "dataset", "augment", "train/small", "evaluate/small", "report"] {
        let mut home = scene(&[stage]);
        let folder = home.path(&format!("artifacts/{stage}"));
        let record: Value = serde_json::from_slice(&fs::read(folder.join("record.json")).unwrap()).unwrap();
        let base = if stage == "raw" { own_raw(&mut home) } else { folder };
        let mut tally = Tally::new(format!("every file of {stage}, verify"));
        for output in record["outputs"].as_array().unwrap() {
            let name = output["path"].as_str().unwrap();
            let patient = Patient::new(base.join(name));
            for damage in damages_at_most(patient.sound.len(), 1) {
                tally.add(&(name, damage), patient.with(damage, || judge(&home.call(&["verify"]), &[name])));
            }
        }
        tally.end();
    }
}

/// Gives a home its own glyphs, and returns their folder.
fn own_raw(home: &mut Home) -> PathBuf {
    copy(synthetic_raw(), &home.path("raw"));
    home.settings[1] = home.path("raw").display().to_string();
    home.path("raw/synthetic")
}

#[test]
fn a_damaged_file_of_an_unfinished_run_is_found_where_the_run_would_go_on() {
    let home = scene(&["raw", "plan", "dataset", "augment", "train"]);
    let (run, folder) = (home.path("artifacts/train/small"), home.path("artifacts/train/small.unfinished"));
    fs::rename(run, &folder).unwrap();
    let record: Value = serde_json::from_slice(&fs::read(folder.join("record.json")).unwrap()).unwrap();
    fs::remove_file(folder.join("record.json")).unwrap();
    fs::write(folder.join(files::MARK), json!({"about": "", "key": record["key"]}).to_string()).unwrap();
    let key = |bytes: &[u8]| serde_json::from_slice::<Value>(bytes).ok().map(|mark| mark["key"].clone());
    for (name, sample) in [(checkpoint::FILE, 20), ("metrics.csv", 40), ("env.json", 40), (files::MARK, 40)] {
        let patient = Patient::new(folder.join(name));
        let mut tally = Tally::new(format!("{name} of an unfinished run, run train"));
        for damage in damages_at_most(patient.sound.len(), sample) {
            let is_same_mark = name == files::MARK && key(&damage.of(&patient.sound)) == key(&patient.sound);
            let verdict = match is_same_mark {
                true => Verdict::Harmless,
                false => patient.with(damage, || judge(&home.call(&["run", "train"]), &["small.unfinished"])),
            };
            tally.add(&damage, verdict);
        }
        tally.end();
    }
}

// ---- tests within this process

/// Damages a file of a few kilobytes and judges it within this process. A panic counts as lost.
fn judged(kind: &str, path: &Path, all: impl Iterator<Item = Damage>, judge: impl Fn(&Path) -> Verdict) {
    let sound = fs::read(path).unwrap();
    let mut tally = Tally::new(kind);
    for damage in all {
        fs::write(path, damage.of(&sound)).unwrap();
        let verdict = catch_unwind(AssertUnwindSafe(|| judge(path)));
        tally.add(&damage, verdict.unwrap_or_else(|_| Verdict::Lost("a panic".to_owned())));
    }
    fs::write(path, sound).unwrap();
    tally.end();
}

/// Flips of every bit of a file, and truncations to every length.
fn every(path: &Path) -> impl Iterator<Item = Damage> + use<> {
    let length = fs::metadata(path).unwrap().len() as usize;
    let flips = (0..8 * length).map(|bit| Damage::Flip { at: bit / 8, mask: 1 << (bit % 8) });
    flips.chain((0..length).map(|length| Damage::Cut { length }))
}

/// The verdict on the data read from a damaged file: harmless if they are unchanged, else `otherwise`.
fn compared<T: PartialEq>(path: &Path, read: multidigit::error::Result<T>, sound: &T, otherwise: Verdict) -> Verdict {
    match read {
        Ok(same) if same == *sound => Verdict::Harmless,
        Ok(_) => otherwise,
        Err(error) if error.to_string().contains(&path.display().to_string()) => Verdict::Found,
        Err(error) => Verdict::Lost(error.to_string()),
    }
}

#[test]
fn every_bit_and_every_length_of_a_small_checkpoint_is_found() {
    let home = tempfile::tempdir().unwrap();
    let path = home.path().join(checkpoint::FILE);
    let schedule = Schedule::new(Kind::Plateau, 5e-4, 10, Plateau::default());
    let position = TrainingState::start(Digest::of(b"run"), &schedule, Digest::of(b"environment"));
    let values: Vec<f32> = (0..40).map(|value| value as f32 / 7.0).collect();
    let tensors = ["value.a", "first.a", "second.a"].map(|name| (name.to_owned(), Entry::vector(&values)));
    weights::write(&path, None, tensors.into(), &json!(position)).unwrap();
    let found = || checkpoint::find(home.path()).map(|found| found.map(|found| found.state));
    assert_eq!(found().unwrap(), Some(position.clone()));
    judged("a small checkpoint", &path, every(&path), |path| {
        let lost = Verdict::Lost("another position".to_owned());
        match compared(path, found(), &Some(position.clone()), lost) {
            Verdict::Harmless => {
                Verdict::Lost("a damaged checkpoint is none, even where the position is right".to_owned())
            }
            verdict => verdict,
        }
    });
}

#[test]
fn every_bit_and_every_length_of_small_weights_is_found_or_changes_no_value() {
    let home = tempfile::tempdir().unwrap();
    let path = home.path().join("best.safetensors");
    let shape = Shape::new(Model::Fcn, 2, [60, 60]);
    let description = Description { shape, mean: 0.1307, std: 0.3081, epoch: 2 };
    let values: Vec<f32> = (0..40).map(|value| value as f32 / 7.0).collect();
    let tensors = ["a", "b"].map(|name| (name.to_owned(), Entry::vector(&values)));
    weights::write(&path, None, tensors.into(), &json!(description)).unwrap();
    let read = |path: &Path| {
        let bytes = fs::read(path).unwrap();
        let parsed = weights::parse(path, &bytes)?;
        let description = weights::describe(path, &parsed.description)?;
        let name = |name: &&str| (*name).to_owned();
        let mut names: Vec<String> = parsed.tensors.names().iter().map(name).collect();
        names.sort();
        let tensors: Vec<(String, Vec<f32>)> = names
            .into_iter()
            .map(|name| Ok((name.clone(), weights::floats(path, &parsed.tensors, &name, &[40])?)))
            .collect::<multidigit::error::Result<_>>()?;
        Ok((description, tensors))
    };
    let sound = read(&path).unwrap();
    judged("small weights", &path, every(&path), |path| {
        compared(path, read(path), &sound, Verdict::Lost("other values".to_owned()))
    });
}

#[test]
fn what_a_damaged_plan_means_is_another_or_the_same() {
    let home = scene(&["plan"]);
    let path = home.path("artifacts/plan/plan.parquet");
    let sound = table::digest_of(&path).unwrap();
    let damages = damages(fs::metadata(&path).unwrap().len() as usize, 1000);
    judged("plan.parquet without its record", &path, damages.into_iter(), |path| {
        compared(path, table::digest_of(path), &sound, Verdict::Found)
    });
}

#[test]
fn what_a_damaged_shard_means_is_another_or_the_same() {
    let home = scene(&["dataset"]);
    let folder = home.path("artifacts/dataset/data");
    let path = folder.join("val-00000-of-00001.parquet");
    let digest = |_: &Path| {
        let shards = Shards::open(&folder, "val")?;
        let facts = table::facts(shards.first())?;
        Ok((shards.digest(&Progress::silent())?, facts))
    };
    let sound = digest(&path).unwrap();
    let damages = damages(fs::metadata(&path).unwrap().len() as usize, 800);
    judged("a shard without its record", &path, damages.into_iter(), |path| {
        compared(path, digest(path), &sound, Verdict::Found)
    });
}

#[test]
fn a_damaged_shard_of_others_is_found_or_read_as_it_was() {
    let home = scene(&["dataset"]);
    let path = home.path("artifacts/dataset/data/val-00000-of-00001.parquet");
    // the index names a row in the table of predictions; nothing else in such a file contains it,
    // and no result depends on it
    let read = |path: &Path| Ok(Split { index: Vec::new(), ..foreign::read(&[path.to_owned()], 2, None)? });
    let sound = read(&path).unwrap();
    let damages = damages(fs::metadata(&path).unwrap().len() as usize, 800);
    judged("a shard as data of others", &path, damages.into_iter(), |path| {
        let read = read(path);
        let said = match &read {
            Ok(split) => told(split, &sound),
            Err(_) => String::new(),
        };
        compared(path, read, &sound, Verdict::Lost(said))
    });
}

/// A description of the differences of a split from another.
fn told(split: &Split, sound: &Split) -> String {
    let Split { images, targets, labels, .. } = split;
    let same = [*images == sound.images, *targets == sound.targets, *labels == sound.labels];
    format!("{} rows; same images, targets, labels: {same:?}", split.len())
}
