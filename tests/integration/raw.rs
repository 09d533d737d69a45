//! Tests of the stage `raw` through the program: a mirror that falls silent, and a folder that holds files of the user.

use std::fs;

use super::{Answer, bare};

#[test]
#[cfg(unix)]
fn ctrl_c_is_answered_while_a_mirror_keeps_silent() {
    use std::net::TcpListener;
    use std::process::{Command, Stdio};
    use std::time::{Duration, Instant};

    let home = tempfile::tempdir().unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let mirror = format!("HTTP://{}/", listener.local_addr().unwrap());
    let mut run = bare(home.path());
    run.args(["run", "raw"]).env("MULTIDIGIT_MIRRORS", mirror).stdout(Stdio::null()).stderr(Stdio::null());
    let mut run = run.spawn().unwrap();
    let _connection = listener.accept().unwrap(); // nothing is ever sent on this connection
    let interrupted = Instant::now();
    assert!(Command::new("kill").args(["-INT", &run.id().to_string()]).status().unwrap().success());
    assert_eq!(run.wait().unwrap().code(), Some(130));
    assert!(interrupted.elapsed() < Duration::from_secs(2), "{:?}", interrupted.elapsed());
    let left = fs::read_dir(home.path().join("raw")).unwrap().map(|entry| entry.unwrap().file_name());
    assert_eq!(left.collect::<Vec<_>>(), [".lock"]);
}

#[test]
fn what_the_user_has_in_the_raw_folder_stays() {
    let home = tempfile::tempdir().unwrap();
    let folder = home.path().join("raw/synthetic");
    fs::create_dir_all(&folder).unwrap();
    for name in [".notes.new", ".notes.old", "t10k-labels.idx1-ubyte"] {
        fs::write(folder.join(name), name).unwrap();
    }
    let output = bare(home.path()).args(["run", "raw", "--set", "raw.source=synthetic"]).output().unwrap();
    let answer = Answer::of(output);
    assert_eq!(answer.code, Some(1));
    let expected = "other files stand there under the synthetic set's names (`raw/synthetic/t10k-labels.idx1-ubyte`: ";
    assert!(answer.stderr.contains(expected), "{}", answer.stderr);
    for name in [".notes.new", ".notes.old", "t10k-labels.idx1-ubyte"] {
        assert_eq!(fs::read_to_string(folder.join(name)).unwrap(), name);
    }
}
