//! Tests with outputs that cannot be written.

use std::fs::{File, OpenOptions};
use std::path::Path;
use std::process::{Command, Stdio};

use super::{Answer, Home, bare};

/// The device that fails every write like a full disk. If there is none, prints a message and returns `None`.
fn full(test: &str) -> Option<File> {
    if !Path::new("/dev/full").exists() {
        use std::io::Write;
        let _ = writeln!(std::io::stderr(), "skipped {test}: this system has no /dev/full");
        return None;
    }
    Some(OpenOptions::new().write(true).open("/dev/full").unwrap())
}

#[test]
fn a_full_disk_under_stderr_changes_no_exit_code() {
    let Some(full) = full("a_full_disk_under_stderr_changes_no_exit_code") else { return };
    let code = |mut command: Command| command.stderr(full.try_clone().unwrap()).output().unwrap().status.code();
    let home = Home::new();
    assert_eq!(code(home.command(&["run", "dataset"])), Some(0), "its notes go to stderr");
    assert_eq!(home.ok(&["run", "dataset"]).matches(" fresh ").count(), 3, "every stage has run");
    assert_eq!(code(home.command(&["inspect", "absent"])), Some(1));
    assert_eq!(code(home.command(&["status", "--set", "plan.sed=1"])), Some(2));
    assert_eq!(code(home.command(&["status", "--nonsense"])), Some(2));
    for (word, expected) in [("--help", 0), ("--nonsense", 2)] {
        let mut command = bare(home.folder.path());
        command.arg(word);
        assert_eq!(code(command), Some(expected), "{word}");
    }
}

#[test]
fn a_full_disk_under_stdout_is_an_error_and_no_panic() {
    let Some(full) = full("a_full_disk_under_stdout_is_an_error_and_no_panic") else { return };
    let home = Home::new();
    for arguments in [&["run", "plan"][..], &["status"], &["show-config"], &["schema"], &["man"]] {
        let mut command = home.command(arguments);
        let command = command.stdout(full.try_clone().unwrap()).stderr(Stdio::piped());
        let answer = Answer::of(command.spawn().unwrap().wait_with_output().unwrap());
        assert_eq!(answer.code, Some(1), "{arguments:?}: {}", answer.stderr);
        let message = "error: `standard output`: cannot write to it: No space left on device (os error 28); free some space, \
                       or work on another disk\n";
        assert!(answer.stderr.ends_with(message), "{arguments:?}: {}", answer.stderr);
    }
}
