//! Tests of failing system calls, at every point and with every possible error; and of a full disk.

use std::process::Command;

use nix::libc::{EACCES, EINTR, EIO, EMFILE, ENOSPC};

use crate::Cases;
use crate::scenario::{self, Scenario, State, require_met, sample};
use crate::trace::{Call, Fate};

/// An error of the system, and the calls that can return it.
struct Failure {
    error: i32,
    name: &'static str,
    of: fn(&Call) -> bool,
}

const FAILURES: [Failure; 5] = [
    Failure {
        error: ENOSPC,
        name: "no space",
        of: |call| call.changes && !matches!(call.name, "flock" | "rmdir" | "unlink"),
    },
    Failure { error: EIO, name: "input/output error", of: |_| true },
    Failure {
        error: EACCES,
        name: "permission denied",
        of: |call| !matches!(call.name, "read" | "write" | "fsync" | "flock"),
    },
    Failure { error: EMFILE, name: "too many open files", of: |call| call.name == "openat" },
    Failure {
        error: EINTR,
        name: "interrupted",
        of: |call| matches!(call.name, "read" | "write" | "openat" | "fsync"),
    },
];

/// Injects each kind of failure into some of the calls that can return it.
fn try_failures(scenario: &Scenario, most: usize) {
    FAILURES.iter().for_each(|failure| try_failure(scenario, failure, most));
}

fn try_failure(scenario: &Scenario, &Failure { error, name, of }: &Failure, most: usize) {
    let (mut cases, mut met) = (Cases::new(format!("{name} {}", scenario.name)), 0);
    let candidates = scenario.calls.iter().filter(|call| of(call)).cloned().collect::<Vec<_>>();
    let tried = sample(&candidates, most, 15);
    for &n in &tried {
        let home = scenario.copy();
        let mut seen = 0;
        let end = scenario.disturbed(home.path(), |call, _| {
            seen += usize::from(of(call));
            if of(call) && seen == n + 1 { Fate::Fails(error) } else { Fate::Passes }
        });
        met += usize::from(end.is_disturbed);
        // the message must name a file; some failures are no reason to stop
        let last = end.stderr.lines().last().unwrap_or_default();
        let is_told = last.starts_with("error: `") && (last.contains("artifacts") || last.contains("raw"));
        let ended = match end.code {
            Some(0) => Ok(()),
            Some(1) if is_told && error != EINTR && !end.stderr.contains("panicked") => Ok(()),
            code => Err(format!("ended with {code:?}: {}", end.stderr)),
        };
        let judged = ended.and_then(|()| scenario.judge(home.path()));
        cases.add(judged.err().map(|loss| format!("at {}: {loss}", candidates[n])));
    }
    require_met(met, tried.len());
    cases.end();
}

#[test]
fn a_failing_call_loses_nothing_of_a_run_from_nothing() {
    try_failures(scenario::from_nothing(), 3);
}

#[test]
fn a_failing_call_loses_nothing_where_stages_are_replaced() {
    try_failures(scenario::replaced(), 8);
}

#[test]
fn a_failing_call_loses_nothing_where_a_run_is_trained_over() {
    try_failures(scenario::trained_over(), 2);
}

#[test]
fn a_failing_call_loses_nothing_where_a_run_goes_on() {
    try_failures(scenario::gone_on(), 2);
}

#[test]
fn a_folder_that_cannot_be_removed_goes_with_the_next_run() {
    let failure = Failure { error: EIO, name: "no folder is removed", of: |call| call.name == "rmdir" };
    try_failure(scenario::replaced(), &failure, usize::MAX);
}

/// Runs a command on a small disk of its own: checks the message when the disk is full, and the
/// result once there is space.
const SMALL_DISK: &str = r#"
mount -t tmpfs -o size="$1"k none disk && cd disk && shift || exit 9
"$@" >../first.out 2>../first.err; echo $? >../first
eval "$VERIFY" >../verify.out 2>&1; echo $? >../verify
mount -o remount,size=400m . || exit 9
"$@" >../second.out 2>&1; echo $? >../second
cp -a . ../whole
"#;

#[test]
fn a_full_disk_loses_nothing_and_the_message_says_what_is_needed() {
    let scenario = scenario::from_nothing();
    let sizes: &[usize] = match crate::is_torture() {
        true => &[
            4, 8, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024, 2048, 8192, 32768, 49152, 65536, 81920,
            98304,
        ],
        false => &[8, 64, 128, 512, 1024, 32768, 81920],
    };
    let mut cases = Cases::new("full disks");
    for size in sizes {
        let home = scenario.copy();
        std::fs::create_dir(home.path().join("disk")).unwrap();
        let program = scenario.command(home.path());
        let verify = scenario.command_of(home.path(), &["verify".to_owned()]);
        let words = [verify.get_program()].into_iter().chain(verify.get_args());
        let verify: Vec<String> = words.map(|word| format!("'{}'", word.to_string_lossy())).collect();
        // root may mount; other users may if the system allows them to be root in a namespace
        let ran = ["-m", "-rm"].iter().any(|how| {
            let mut small = Command::new("unshare");
            small.env("VERIFY", verify.join(" "));
            small.arg(how).args(["sh", "-c", SMALL_DISK]).arg(program.get_program()).arg(size.to_string());
            small.arg(program.get_program()).args(program.get_args()).current_dir(home.path());
            small.status().expect("unshare, of util-linux").success()
        });
        assert!(ran, "no small disk could be mounted; this test needs root, or user namespaces");
        let read = |name: &str| std::fs::read_to_string(home.path().join(name)).unwrap();
        let code = |name: &str| read(name).trim().parse::<i32>().unwrap();
        let mut lost = Vec::new();
        let mut require = |what: &str, holds: bool| {
            if !holds {
                let outputs = ["first.err", "verify.out", "second.out"].map(read).concat();
                lost.push(format!("{size} kB: not so: {what}\n{outputs}"));
            }
        };
        let told = read("first.err");
        let says =
            told.lines().last().is_some_and(|line| line.starts_with("error: `") && line.contains("; free some space"));
        require(
            "the run ends, or the message names a path and says what is needed",
            code("first") == 0 || code("first") == 1 && says,
        );
        let nothing_stands = read("verify.out").contains("nothing to verify");
        require("verify passes", code("verify") == 0 || nothing_stands && code("first") != 0);
        require("the next run completes", code("second") == 0);
        require("all is as if nothing had happened", State::of(&home.path().join("whole")) == scenario.after);
        cases.add(lost);
    }
    cases.end();
}
