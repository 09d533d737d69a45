//! Tests of a kill, or of a signal that requests a stop, at every point at which something changes.

use nix::sys::signal::Signal;

use crate::Cases;
use crate::scenario::{self, Scenario, require_met, sample};
use crate::trace::Fate;

/// Kills a command at some of its system calls. [`Scenario::judge`] checks the required state.
fn try_kills(scenario: &Scenario, most: usize) {
    let (mut cases, mut met) = (Cases::new(format!("kills {}", scenario.name)), 0);
    let tried = sample(&scenario.moments, most, 12);
    for &n in &tried {
        let home = scenario.copy();
        let end = scenario.disturbed_at(home.path(), n, Fate::Kills);
        met += usize::from(end.is_disturbed);
        let judged = match end.code {
            // the order of threads varies, so that the call may not occur
            None | Some(0) => scenario.judge(home.path()),
            Some(code) => Err(format!("ended with {code}: {}", end.stderr)),
        };
        cases.add(judged.err().map(|loss| format!("before {}: {loss}", scenario.moments[n])));
    }
    require_met(met, tried.len());
    cases.end();
}

#[test]
fn a_kill_loses_nothing_of_a_run_from_nothing() {
    try_kills(scenario::from_nothing(), 24);
}

#[test]
fn a_kill_loses_nothing_where_stages_are_replaced() {
    try_kills(scenario::replaced(), 112);
}

#[test]
fn a_kill_loses_nothing_where_a_run_is_trained_over() {
    try_kills(scenario::trained_over(), 12);
}

#[test]
fn a_kill_loses_nothing_where_a_run_gets_more_epochs() {
    try_kills(scenario::more_epochs(), 12);
}

#[test]
fn a_kill_loses_nothing_where_a_run_goes_on() {
    try_kills(scenario::gone_on(), 8);
}

#[test]
fn a_kill_loses_nothing_where_glyphs_are_drawn() {
    try_kills(scenario::glyphs(), 5);
}

#[test]
fn a_kill_loses_nothing_where_all_is_cleaned() {
    try_kills(scenario::cleaned(), 25);
}

#[test]
fn a_kill_loses_nothing_where_a_part_is_written() {
    try_kills(scenario::part(), 10);
}

#[test]
fn a_kill_loses_nothing_where_parts_are_committed() {
    try_kills(scenario::committed(), 16);
}

/// A run that is killed repeatedly, each time at other points, still finishes.
#[test]
fn kills_in_a_row_lose_nothing() {
    let scenario = scenario::from_nothing();
    let tried = sample(&scenario.moments, 4, 13);
    let mut cases = Cases::new("three kills in a row");
    for &first in &tried {
        let home = scenario.copy();
        for n in [first, first / 2, first / 3] {
            scenario.disturbed_at(home.path(), n, Fate::Kills);
        }
        cases.add(scenario.judge(home.path()).err().map(|loss| format!("kills at {first} and before: {loss}")));
    }
    cases.end();
}

#[test]
fn a_signal_ends_the_program_cleanly_with_its_exit_code() {
    let scenario = scenario::from_nothing();
    let tried = sample(&scenario.moments, 6, 14);
    let mut cases = Cases::new("signals");
    let mut caught = 0;
    for (i, &n) in tried.iter().enumerate() {
        let (signal, expected) = [(Signal::SIGINT, 130), (Signal::SIGTERM, 143)][i % 2];
        let home = scenario.copy();
        let end = scenario.disturbed_at(home.path(), n, Fate::Signals(signal));
        let is_told = end.stderr.ends_with("error: interrupted; what was finished before stays\n");
        let ended = match end.code {
            Some(0) => Ok(()), // the signal came too late to stop anything
            Some(code) if code == expected && is_told => {
                caught += 1;
                Ok(())
            }
            code => Err(format!("{signal} ended with {code:?}: {}", end.stderr)),
        };
        let judged = ended.and_then(|()| scenario.judge(home.path()));
        cases.add(judged.err().map(|loss| format!("{signal} before {}: {loss}", scenario.moments[n])));
    }
    assert!(caught > 0, "no signal came in time");
    cases.end();
}
