//! Tests of damaged files: a flipped bit, a truncation or any other change of a file that the program reads is
//! detected, and the file is never accepted as correct.
//!
//! A pipeline that takes a second is finished once. Each test copies the stages that it damages, damages one place of
//! one file, runs the program, and restores the file. A damage is found if `multidigit verify`, or the command that
//! reads the file, fails and names the file. A damage is harmless if the meaning of the file is the same, which is
//! verified by comparison. Every other damage counts as lost, and fails the test.
//!
//! The places are drawn from a seeded stream, one in each of a number of equal sections of a file; with
//! `MULTIDIGIT_TORTURE`, every byte and every length is tried. The weights and the checkpoint have megabytes, which are
//! read as a whole: every byte is tried on a file of the same format with small tensors, in this process, and a sample
//! of the real files is tried by the program.

mod bytes;
mod tables;

use std::fs::{self, File, FileTimes};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use multidigit::{files, rng};
use rand_chacha::rand_core::Rng;

use super::home::{Answer, Home};
use super::is_torture;

/// The run of the pipeline below.
const RUN: &str = "small";

/// A hundred images of two digits, and two epochs of the network with the fewest weights on the
/// smallest images it accepts.
const SETTINGS: [&str; 10] = [
    "raw.source=synthetic",
    "plan.samples_per_class=1",
    "plan.image_size=[60,60]",
    "train.model=fcn",
    "train.epochs=2",
    "train.samples=16",
    "train.batch_size=8",
    "train.checkpoint_every_steps=1",
    "train.run=small",
    "report.runs=[small]",
];

/// A home without any files.
fn empty() -> Home {
    let mut home = Home::with(&SETTINGS);
    home.settings.extend(["--threads", "1", "--quiet"].map(str::to_owned));
    home
}

/// The home of the finished pipeline, which is made once. No test changes a file of it.
fn finished() -> &'static Home {
    static FINISHED: OnceLock<Home> = OnceLock::new();
    FINISHED.get_or_init(|| {
        let home = empty();
        home.ok(&["run", "raw", "plan", "dataset", "augment", "train", "evaluate", "report"]);
        home.ok(&["lock"]);
        home.ok(&["verify"]);
        home
    })
}

/// A home with copies of some stages.
fn scene(stages: &[&str]) -> Home {
    let home = empty();
    for stage in stages {
        copy(&finished().path("artifacts").join(stage), &home.path("artifacts").join(stage));
    }
    home
}

/// Copies every file below a folder, with its time.
fn copy(from: &Path, to: &Path) {
    for path in files::walk(from).unwrap() {
        let (from, to) = (from.join(&path), to.join(&path));
        fs::create_dir_all(to.parent().unwrap()).unwrap();
        fs::copy(&from, &to).unwrap();
        let modified = fs::metadata(&from).unwrap().modified().unwrap();
        File::options().write(true).open(&to).unwrap().set_times(FileTimes::new().set_modified(modified)).unwrap();
    }
}

// ---- damage

/// A change of a file.
#[derive(Debug, Clone, Copy)]
enum Damage {
    /// Flips bits of one byte.
    Flip { at: usize, mask: u8 },
    /// Truncates the file.
    Cut { length: usize },
}

impl Damage {
    fn of(self, bytes: &[u8]) -> Vec<u8> {
        let mut bytes = bytes.to_vec();
        match self {
            Damage::Flip { at, mask } => bytes[at] ^= mask,
            Damage::Cut { length } => bytes.truncate(length),
        }
        bytes
    }
}

/// Flips of `sample` bytes and truncations to as many lengths of a file, or of every byte and every length.
fn damages(length: usize, sample: usize) -> Vec<Damage> {
    let places = if is_torture() { length } else { sample.min(length) };
    let mut random = rng::stream(0, "faults/corruption", 0, length as u64);
    let mut draw = |below: usize| (random.next_u64() % below.max(1) as u64) as usize;
    let mut all = Vec::new();
    for place in 0..places {
        let (from, to) = (place * length / places, (place + 1) * length / places);
        all.push(Damage::Flip { at: from + draw(to - from), mask: 1 << draw(8) });
        all.push(Damage::Cut { length: from + draw(to - from) });
    }
    all
}

/// A file whose damage is undone.
struct Patient {
    path: PathBuf,
    sound: Vec<u8>,
}

impl Patient {
    fn new(path: PathBuf) -> Patient {
        let sound = fs::read(&path).unwrap();
        Patient { path, sound }
    }

    /// Damages the file while `ask` runs. A flip does not change size, time and inode, like a decaying disk.
    fn with<T>(&self, damage: Damage, ask: impl FnOnce() -> T) -> T {
        let file = File::options().write(true).open(&self.path).unwrap();
        let modified = FileTimes::new().set_modified(file.metadata().unwrap().modified().unwrap());
        let (from, bytes) = match damage {
            Damage::Flip { at, mask } => (at, vec![self.sound[at] ^ mask]),
            Damage::Cut { length } => (length, Vec::new()),
        };
        file.set_len(if bytes.is_empty() { from } else { self.sound.len() } as u64).unwrap();
        file.write_all_at(&bytes, from as u64).unwrap();
        file.set_times(modified).unwrap();
        let answer = ask();
        file.write_all_at(&self.sound[from..], from as u64).unwrap();
        file.set_times(modified).unwrap();
        answer
    }
}

// ---- judgement

/// The result of a damage.
#[derive(Debug, Clone, PartialEq)]
enum Verdict {
    /// The program fails and names the file.
    Found,
    /// The meaning of the file is unchanged.
    Harmless,
    /// Neither of the two; the value is the output of the program.
    Lost(String),
}

/// The verdict on a command that should fail with an error that contains `words`.
fn judge(answer: &Answer, words: &[&str]) -> Verdict {
    let said = format!("{}{}", answer.stdout, answer.stderr);
    match answer.code == Some(1) && words.iter().all(|word| said.contains(word)) {
        true => Verdict::Found,
        false => Verdict::Lost(format!("exit code {:?}, no word of {words:?} in: {said}", answer.code)),
    }
}

/// The results of the cases of one kind.
struct Tally {
    kind: String,
    found: usize,
    harmless: usize,
    lost: Vec<String>,
}

impl Tally {
    fn new(kind: impl ToString) -> Tally {
        Tally { kind: kind.to_string(), found: 0, harmless: 0, lost: Vec::new() }
    }

    fn add(&mut self, case: &dyn std::fmt::Debug, verdict: Verdict) {
        match verdict {
            Verdict::Found => self.found += 1,
            Verdict::Harmless => self.harmless += 1,
            Verdict::Lost(said) => self.lost.push(format!("{case:?}: {said}")),
        }
    }

    /// Prints the results, and fails if a case was lost.
    fn end(self) {
        let Tally { kind, found, harmless, lost } = self;
        let tried = found + harmless + lost.len();
        let some: Vec<&String> = lost.iter().take(20).collect();
        eprintln!("{kind}: {tried} tried, {found} found, {harmless} harmless, {} lost", lost.len());
        assert!(lost.is_empty(), "{kind}: {} lost, among them {some:#?}", lost.len());
    }
}
