//! Tests of power cuts: the program ends at some point, and content that was not flushed to disk is missing or zero.
//!
//! The model: names reach the disk in the order in which they were given, as on file systems with a journal (ext4, XFS,
//! btrfs, APFS). The content of a file is on disk once it has been flushed; before that, it may be anything.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::Cases;
use crate::scenario::{self, Scenario, require_met, sample};
use crate::trace::{self, Fate};

/// The fate of content that was not flushed to disk.
#[derive(Debug, Clone, Copy)]
enum Loss {
    /// The file has its size, and contains zeros.
    Zeros,
    /// The file is empty.
    Empty,
    /// The file has only its first half.
    Half,
}

/// Removes the content that was not flushed to disk from the files with these inodes.
fn cut(home: &Path, unsynced: &BTreeSet<u64>, loss: Loss) {
    for path in files(home) {
        let meta = fs::metadata(&path).unwrap();
        if unsynced.contains(&meta.ino()) {
            let file = File::options().write(true).open(&path).unwrap();
            match loss {
                Loss::Empty => file.set_len(0).unwrap(),
                Loss::Half => file.set_len(meta.len() / 2).unwrap(),
                Loss::Zeros => {
                    file.set_len(0).unwrap();
                    file.set_len(meta.len()).unwrap();
                }
            }
        }
    }
}

/// Every file below a folder.
fn files(folder: &Path) -> Vec<PathBuf> {
    multidigit::files::walk_all(folder).unwrap().into_iter().map(|path| folder.join(path)).collect()
}

fn try_cuts(scenario: &Scenario, most: usize) {
    let (mut cases, mut met) = (Cases::new(format!("power cuts {}", scenario.name)), 0);
    let tried = sample(&scenario.moments, most, 16);
    for (i, &n) in tried.iter().enumerate() {
        let losses = [Loss::Zeros, Loss::Empty, Loss::Half];
        let losses = if crate::is_torture() { &losses[..] } else { &losses[i % 3..][..1] };
        for &loss in losses {
            let home = scenario.copy();
            let end = scenario.disturbed_at(home.path(), n, Fate::Kills);
            met += usize::from(end.is_disturbed);
            cut(home.path(), &end.unsynced, loss);
            let judged = scenario.judge(home.path());
            cases.add(judged.err().map(|what| format!("{loss:?} before {}: {what}", scenario.moments[n])));
        }
    }
    require_met(met, cases.tried);
    cases.end();
}

#[test]
fn a_power_cut_loses_nothing_of_a_run_from_nothing() {
    try_cuts(scenario::from_nothing(), 7);
}

#[test]
fn a_power_cut_loses_nothing_where_stages_are_replaced() {
    try_cuts(scenario::replaced(), 24);
}

#[test]
fn a_power_cut_loses_nothing_where_a_run_is_trained_over() {
    try_cuts(scenario::trained_over(), 5);
}

#[test]
fn a_power_cut_loses_nothing_where_a_run_gets_more_epochs() {
    try_cuts(scenario::more_epochs(), 5);
}

#[test]
fn a_power_cut_loses_nothing_where_a_run_goes_on() {
    try_cuts(scenario::gone_on(), 5);
}

#[test]
fn a_power_cut_loses_nothing_where_glyphs_are_drawn() {
    try_cuts(scenario::glyphs(), 4);
}

/// Whether a path belongs to an unfinished folder or file.
fn is_in_transit(path: &Path) -> bool {
    path.file_name().is_some_and(|name| {
        let name = name.to_string_lossy();
        name.starts_with('.') && name.ends_with(".new") || name.ends_with(".unfinished")
    })
}

#[test]
fn whatever_gets_its_name_is_on_the_disk_before_and_all_of_it_after_the_command() {
    for scenario in [scenario::from_nothing(), scenario::replaced(), scenario::more_epochs(), scenario::glyphs()] {
        let home = scenario.copy();
        let mut early = Vec::new();
        let mut exchanges = 0;
        let end = trace::run(&scenario.command(home.path()), home.path(), &mut |call, unsynced| {
            let is_finished = matches!(call.name, "rename" | "renameat2") && is_in_transit(&call.path);
            if is_finished && call.to.as_ref().is_some_and(|to| !is_in_transit(to)) {
                exchanges += 1;
                let dirty = |path: &PathBuf| fs::metadata(path).is_ok_and(|meta| unsynced.contains(&meta.ino()));
                let within = if call.path.is_dir() { files(&call.path) } else { vec![call.path.clone()] };
                early.extend(within.into_iter().filter(dirty));
            }
            Fate::Passes
        });
        assert_eq!(end.code, Some(0), "{}", end.stderr);
        assert!(early.is_empty() && exchanges > 0, "{} {exchanges} {early:?}", scenario.name);
        let left: Vec<PathBuf> = files(home.path())
            .into_iter()
            .filter(|path| end.unsynced.contains(&fs::metadata(path).unwrap().ino()))
            .collect();
        assert!(left.is_empty(), "{} {left:?}", scenario.name);
    }
}

#[test]
fn a_hurried_run_waits_for_no_disk() {
    let scenario = scenario::from_nothing();
    let home = scenario.copy();
    let mut command = scenario.command(home.path());
    command.arg("--no-sync");
    let mut waits = 0;
    let end = trace::run(&command, home.path(), &mut |call, _| {
        waits += usize::from(call.name == "fsync" || call.name == "fdatasync");
        Fate::Passes
    });
    assert_eq!((end.code, waits), (Some(0), 0), "{}", end.stderr);
}
