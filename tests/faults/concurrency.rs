//! Tests of concurrent commands on the same folders: each succeeds or reports that another is
//! running, and nothing is lost.

use std::path::Path;
use std::process::{Child, Stdio};

use crate::Cases;
use crate::home::Answer;
use crate::scenario::{self, Scenario};

/// Starts a command in a folder without waiting for it.
fn start(scenario: &Scenario, home: &Path, words: &str) -> Child {
    let words: Vec<String> = words.split(' ').map(str::to_owned).collect();
    let mut command = scenario.command_of(home, &words);
    command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the program starts")
}

/// A description of what is wrong with the end of a command that ran beside others, if anything is.
fn fault(words: &str, answer: &Answer) -> Option<String> {
    let is_told = answer.stderr.lines().last().is_some_and(|line| line.starts_with("error: "));
    match answer.code {
        Some(0) => None,
        Some(1) if is_told && !answer.stderr.contains("panicked") => None,
        code => Some(format!("{words} ended with {code:?}: {}", answer.stderr)),
    }
}

/// Starts commands at the same time, repeatedly.
fn try_at_once(what: &str, scenario: &Scenario, commands: &[&str], times: usize) {
    let times = if crate::is_torture() { 20 * times } else { times };
    let mut cases = Cases::new(what);
    for _ in 0..times {
        let home = scenario.copy();
        let started: Vec<_> = commands.iter().map(|words| (words, start(scenario, home.path(), words))).collect();
        let ended = started.into_iter().map(|(words, child)| (words, Answer::of(child.wait_with_output().unwrap())));
        let ended: Vec<_> = ended.collect();
        let mut lost: Vec<String> = ended.iter().filter_map(|(words, answer)| fault(words, answer)).collect();
        if ended.iter().all(|(_, answer)| answer.code != Some(0)) {
            lost.push("each command was kept from its work by another".to_owned());
        }
        lost.extend(scenario.judge(home.path()).err());
        cases.add(lost);
    }
    cases.end();
}

const DATA: &str = "run raw plan dataset augment report";

#[test]
fn equal_commands_at_once_lose_nothing() {
    try_at_once("four equal commands at once", scenario::replaced(), &[DATA; 4], 10);
}

#[test]
fn commands_with_other_settings_at_once_lose_nothing() {
    let other = format!("{DATA} --set plan.seed=7");
    let commands = [DATA, &other, "status", "verify", "run dataset --force"];
    try_at_once("five commands at once", scenario::replaced(), &commands, 10);
}

#[test]
fn cleaning_during_a_run_loses_nothing() {
    let commands = [DATA, "clean", "clean --force", "report"];
    try_at_once("cleaning during a run", scenario::replaced(), &commands, 10);
}

#[test]
fn a_run_that_is_trained_twice_at_once_loses_nothing() {
    let train = "run train evaluate --set train.epochs=3";
    try_at_once("a run trained twice at once", scenario::more_epochs(), &[train, train, "runs", "clean"], 3);
}
