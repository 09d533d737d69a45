//! Commands that are disturbed, the state before them, and the state required after any disturbance.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Command;
use std::sync::OnceLock;

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use tempfile::TempDir;

use crate::home::{Answer, bare, synthetic_raw};
use crate::trace::{self, Call, End, Fate};

/// The smallest pipeline with every stage and every kind of file: 100 images, four steps of an optimiser, and a
/// checkpoint after each.
const SETTINGS: [&str; 9] = [
    "raw.source=synthetic",
    "plan.samples_per_class=1",
    "plan.image_size=[60, 60]",
    "dataset.rows_per_shard=40",
    "train.model=fcn",
    "train.epochs=2",
    "train.samples=16",
    "train.batch_size=8",
    "train.checkpoint_every_steps=1",
];

/// The stages up to a trained network and its report.
const ALL: &str = "run raw plan dataset augment train evaluate report";
/// The stages that need no training.
const DATA: &str = "run raw plan dataset augment report";

/// A command that is disturbed.
pub struct Scenario {
    pub name: &'static str,
    /// The content of the folder before the command.
    before: TempDir,
    /// The words of the command.
    words: Vec<String>,
    /// Whether the glyphs are in the folder too, instead of being shared by all scenarios.
    has_glyphs: bool,
    /// The system calls of the command on files, in order.
    pub calls: Vec<Call>,
    /// The calls that change something.
    pub moments: Vec<Call>,
    /// The content of the folder after an undisturbed command.
    pub after: State,
}

/// The content of a folder.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct State {
    /// Every file and folder.
    pub tree: BTreeSet<String>,
    /// The content digests of the stages whose content depends on their settings alone. A report contains times.
    pub contents: BTreeMap<String, String>,
}

pub fn from_nothing() -> &'static Scenario {
    static MADE: OnceLock<Scenario> = OnceLock::new();
    MADE.get_or_init(|| Scenario::new("in a run from nothing", &[], ALL, false))
}

pub fn replaced() -> &'static Scenario {
    static MADE: OnceLock<Scenario> = OnceLock::new();
    let before = format!("{DATA} --set plan.seed=1");
    MADE.get_or_init(|| Scenario::new("where stages are replaced", &[&before], DATA, false))
}

pub fn trained_over() -> &'static Scenario {
    static MADE: OnceLock<Scenario> = OnceLock::new();
    let (before, words) = ("run train evaluate", "run train evaluate --force");
    MADE.get_or_init(|| Scenario::new("where a run is trained over", &[before], words, false))
}

pub fn more_epochs() -> &'static Scenario {
    static MADE: OnceLock<Scenario> = OnceLock::new();
    let (before, words) = ("run train evaluate", "run train evaluate --set train.epochs=3");
    MADE.get_or_init(|| Scenario::new("where a run gets more epochs", &[before], words, false))
}

pub fn glyphs() -> &'static Scenario {
    static MADE: OnceLock<Scenario> = OnceLock::new();
    MADE.get_or_init(|| Scenario::new("where glyphs are drawn", &[], "run raw", true))
}

pub fn cleaned() -> &'static Scenario {
    static MADE: OnceLock<Scenario> = OnceLock::new();
    MADE.get_or_init(|| Scenario::new("where all is cleaned", &[ALL], "clean --force", false))
}

pub fn part() -> &'static Scenario {
    static MADE: OnceLock<Scenario> = OnceLock::new();
    MADE.get_or_init(|| Scenario::new("where a part is written", &["run raw plan"], "run dataset --part 0/1", false))
}

pub fn committed() -> &'static Scenario {
    static MADE: OnceLock<Scenario> = OnceLock::new();
    let before = ["run raw plan dataset --set plan.seed=1", "run raw plan", "run dataset --part 0/1"];
    MADE.get_or_init(|| Scenario::new("where parts are committed", &before, "run dataset --commit", false))
}

/// A run that was killed after its third checkpoint.
pub fn gone_on() -> &'static Scenario {
    static MADE: OnceLock<Scenario> = OnceLock::new();
    MADE.get_or_init(|| {
        let mut scenario = Scenario::new("where a run goes on", &["run raw plan dataset"], "run train evaluate", false);
        let checkpoints = |(_, call): &(usize, &Call)| {
            call.name == "rename" && call.to.as_ref().is_some_and(|to| to.ends_with("checkpoint.safetensors"))
        };
        let third =
            scenario.moments.iter().enumerate().filter(checkpoints).nth(2).expect("a checkpoint at each step").0;
        let killed = scenario.copy();
        scenario.disturbed_at(killed.path(), third + 1, Fate::Kills);
        scenario.before = killed;
        scenario.look();
        scenario
    })
}

impl Scenario {
    /// A command, given by its words, that runs after other commands.
    fn new(name: &'static str, before: &[&str], words: &str, has_glyphs: bool) -> Scenario {
        let split = |words: &str| words.split(' ').map(str::to_owned).collect::<Vec<_>>();
        let (calls, moments, after) = (Vec::new(), Vec::new(), State::default());
        let mut scenario = Scenario { name, before: home(), words: split(words), has_glyphs, calls, moments, after };
        for words in before {
            let answer = scenario.call(scenario.before.path(), &split(words));
            assert_eq!(answer.code, Some(0), "{words}: {}", answer.stderr);
        }
        scenario.look();
        scenario
    }

    /// Runs the command undisturbed, to record its calls and its results.
    fn look(&mut self) {
        let home = self.copy();
        let mut calls = Vec::new();
        let end = self.disturbed(home.path(), |call, _| {
            calls.push(call.clone());
            Fate::Passes
        });
        assert_eq!(end.code, Some(0), "{}: {}", self.name, end.stderr);
        self.moments = calls.iter().filter(|call| call.changes).cloned().collect();
        self.calls = calls;
        self.after = State::of(home.path());
    }

    /// Runs the command in a folder. The call that changes something after `n` others gets `fate`.
    pub fn disturbed_at(&self, home: &Path, n: usize, fate: Fate) -> End {
        self.disturbed(home, |call, before| if call.changes && before == n { fate } else { Fate::Passes })
    }

    /// Runs the command in a folder. `decide` is called for each system call, with the number of earlier calls that
    /// change something.
    pub fn disturbed(&self, home: &Path, mut decide: impl FnMut(&Call, usize) -> Fate) -> End {
        let mut before = 0;
        trace::run(&self.command(home), home, &mut |call, _| {
            let fate = decide(call, before);
            before += usize::from(call.changes);
            fate
        })
    }

    /// A copy of the folder before the command.
    pub fn copy(&self) -> TempDir {
        let copy = home();
        let copied = Command::new("cp").arg("-a").arg(self.before.path().join(".")).arg(copy.path()).status();
        assert!(copied.expect("cp").success());
        copy
    }

    /// The command in a folder.
    pub fn command(&self, home: &Path) -> Command {
        self.command_of(home, &self.words)
    }

    /// Runs the command once more, undisturbed.
    pub fn again(&self, home: &Path) -> Answer {
        self.call(home, &self.words)
    }

    fn call(&self, home: &Path, words: &[String]) -> Answer {
        Answer::of(self.command_of(home, words).output().expect("the program starts"))
    }

    /// A command of other words with the same settings.
    pub fn command_of(&self, home: &Path, words: &[String]) -> Command {
        let mut command = bare(home);
        command.args(&words[..1]).args(["--threads", "1", "--no-progress"]);
        command.args(SETTINGS.iter().flat_map(|setting| ["--set", setting]));
        if !self.has_glyphs {
            command.arg("--raw").arg(synthetic_raw());
        }
        command.args(&words[1..]);
        command
    }

    /// Checks that nothing was lost in a folder where the command was disturbed. All files must match their records,
    /// `status` may not report anything as fresh that is not, and the next run must complete with the result of an
    /// undisturbed run. Returns a description of what is wrong.
    pub fn judge(&self, home: &Path) -> Result<(), String> {
        let asked = |word: &str| {
            let sets = self.words.iter().filter(|word| word.contains('=')).flat_map(|set| ["--set", set]);
            [word].into_iter().chain(sets).map(str::to_owned).collect::<Vec<_>>()
        };
        let status = self.call(home, &asked("status"));
        let contents = State::of(home).contents;
        require("status ends with 0", status.code == Some(0), &status)?;
        for line in status.stdout.lines().filter(|line| line.split_whitespace().nth(1) == Some("fresh")) {
            let stage = line.split_whitespace().next().unwrap_or_default();
            let of_stage = |name: &&String| name.split('/').next() == Some(stage);
            let is_right = self
                .after
                .contents
                .keys()
                .filter(of_stage)
                .any(|name| contents.get(name) == self.after.contents.get(name));
            let says_nothing = !self.after.contents.keys().any(|name| of_stage(&name));
            require(&format!("{stage} is called fresh and is what it should be"), is_right || says_nothing, &status)?;
        }
        let verify = self.call(home, &asked("verify"));
        let passes = |verify: &Answer, stands: bool| {
            verify.code == Some(0) || !stands && verify.stderr.contains("nothing to verify")
        };
        // a folder that is partly removed lacks files, and is reported
        let is_removed = self.words.first().is_some_and(|word| word == "clean");
        require("verify passes before the next run", is_removed || passes(&verify, !contents.is_empty()), &verify)?;
        let again = self.again(home);
        require("the next run completes", again.code == Some(0), &again)?;
        let verify = self.call(home, &asked("verify"));
        require("verify passes after the next run", passes(&verify, !self.after.contents.is_empty()), &verify)?;
        let State { tree, contents } = State::of(home);
        let differences = |a: &BTreeSet<String>, b: &BTreeSet<String>| a.difference(b).cloned().collect::<Vec<_>>();
        let (more, less) = (differences(&tree, &self.after.tree), differences(&self.after.tree, &tree));
        require(
            &format!("the files are those of an undisturbed run: more {more:?}, less {less:?}"),
            more.is_empty() && less.is_empty(),
            &again,
        )?;
        let same = contents == self.after.contents;
        require(&format!("the contents {contents:?} are those of an undisturbed run"), same, &again)
    }
}

fn require(what: &str, holds: bool, answer: &Answer) -> Result<(), String> {
    match holds {
        true => Ok(()),
        false => Err(format!("not so: {what}\n{}{}", answer.stdout, answer.stderr)),
    }
}

impl State {
    pub fn of(home: &Path) -> State {
        let mut tree = BTreeSet::new();
        let mut contents = BTreeMap::new();
        let mut pending = vec![home.to_owned()];
        while let Some(folder) = pending.pop() {
            for entry in std::fs::read_dir(&folder).expect("a folder that can be listed") {
                let path = entry.unwrap().path();
                let name = path.strip_prefix(home).unwrap().to_string_lossy().into_owned();
                // a state that has not been moved to its target does not count
                let is_in_transit = name.split('/').any(|part| part.starts_with('.') || part.ends_with(".unfinished"));
                if path.ends_with("record.json") && !is_in_transit {
                    let record = std::fs::read(&path).unwrap();
                    let record: serde_json::Value = serde_json::from_slice(&record).unwrap_or_default();
                    let stage = name.trim_start_matches("artifacts/").trim_end_matches("/record.json");
                    if stage != "report" {
                        contents.insert(stage.to_owned(), record["content"].as_str().unwrap_or_default().to_owned());
                    }
                }
                // what a killed part was writing stays until the commit, as another part may be writing it
                if name.contains(".draft-") {
                    continue;
                }
                // the name of an event file contains the time at which the run began
                let is_events = name.contains("events.out.tfevents.");
                tree.insert(if is_events { name.chars().filter(|c| !c.is_ascii_digit()).collect() } else { name });
                if path.is_dir() && !path.is_symlink() {
                    pending.push(path);
                }
            }
        }
        State { tree, contents }
    }
}

/// Requires that enough disturbances took place. The order of threads varies, so that a call may not occur.
pub fn require_met(met: usize, tried: usize) {
    assert!(10 * met >= 9 * tried, "{met} of {tried} moments came");
}

/// A folder for a test, with links in its path resolved.
fn home() -> TempDir {
    let parent = std::env::temp_dir().canonicalize().expect("a folder for temporary files");
    tempfile::tempdir_in(parent).expect("a temporary folder")
}

/// The numbers of the calls that are tried: all of them in `make torture`, else one in each of `most` equal parts,
/// drawn with the given seed. Of consecutive calls that write the same file, only the first and the last count.
pub fn sample(calls: &[Call], most: usize, seed: u64) -> Vec<usize> {
    if crate::is_torture() {
        return (0..calls.len()).collect();
    }
    let is_alike = |a: usize, b: usize| calls[a].name == calls[b].name && calls[a].path == calls[b].path;
    let is_between = |n: usize| n > 0 && n + 1 < calls.len() && is_alike(n - 1, n) && is_alike(n, n + 1);
    let calls: Vec<usize> = (0..calls.len()).filter(|&n| !is_between(n)).collect();
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let most = most.min(calls.len());
    let bound = |part: usize| part * calls.len() / most;
    (0..most).map(|part| calls[rng.random_range(bound(part)..bound(part + 1))]).collect()
}
