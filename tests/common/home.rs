//! A folder of its own for a test, and the program in it.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::OnceLock;

use tempfile::TempDir;

/// A folder to work in, with artifacts of its own and synthetic glyphs shared by all tests.
pub struct Home {
    pub folder: TempDir,
    /// Arguments that every call gets.
    pub settings: Vec<String>,
}

/// What a call of the program left behind.
pub struct Answer {
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

impl Home {
    /// A home with 20 samples per class of synthetic glyphs.
    pub fn new() -> Home {
        Home::with(&["raw.source=synthetic", "plan.samples_per_class=20"])
    }

    /// A home with settings.
    pub fn with(settings: &[&str]) -> Home {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let raw = synthetic_raw().display().to_string();
        let mut all = vec!["--raw".to_owned(), raw];
        all.extend(settings.iter().flat_map(|setting| ["--set".to_owned(), (*setting).to_owned()]));
        Home { folder, settings: all }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub fn command<S: AsRef<OsStr>>(&self, arguments: &[S]) -> Command {
        let mut command = bare(self.folder.path());
        let (word, rest) = arguments.split_at(1);
        command.args(word).args(&self.settings).args(rest); // of two settings of one key the later holds
        command
    }

    /// Runs the program with the home's settings.
    pub fn call<S: AsRef<OsStr>>(&self, arguments: &[S]) -> Answer {
        Answer::of(self.command(arguments).output().expect("the program starts"))
    }

    /// Runs the program and expects success; returns its stdout.
    pub fn ok<S: AsRef<OsStr>>(&self, arguments: &[S]) -> String {
        let answer = self.call(arguments);
        assert_eq!(answer.code, Some(0), "{}{}", answer.stdout, answer.stderr);
        answer.stdout
    }
}

impl Answer {
    pub fn of(output: Output) -> Answer {
        let text = |bytes| String::from_utf8(bytes).expect("output is UTF-8");
        Answer { code: output.status.code(), stdout: text(output.stdout), stderr: text(output.stderr) }
    }
}

/// The program in a folder, away from the mirrors of whoever runs the tests.
pub fn bare(folder: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_multidigit"));
    command.current_dir(folder).env_remove("MULTIDIGIT_MIRRORS").stdin(Stdio::null());
    command
}

/// A raw folder whose synthetic glyphs stand, drawn once for all tests.
pub fn synthetic_raw() -> &'static Path {
    static RAW: OnceLock<PathBuf> = OnceLock::new();
    RAW.get_or_init(|| {
        let home = Path::new(env!("CARGO_TARGET_TMPDIR")).join("integration");
        std::fs::create_dir_all(&home).expect("a folder for the glyphs");
        let answer = Answer::of(
            bare(&home).args(["run", "raw", "--set", "raw.source=synthetic"]).output().expect("the program starts"),
        );
        assert_eq!(answer.code, Some(0), "{}", answer.stderr);
        home.join("raw")
    })
}
