//! A folder for one test, in which it runs the program.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::OnceLock;

use tempfile::TempDir;

/// A folder for a test, with its own artifacts and synthetic glyphs shared by all tests.
pub struct Home {
    pub folder: TempDir,
    /// The arguments of every call.
    pub settings: Vec<String>,
}

/// The output of a call of the program.
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

    /// A home with the given settings.
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
        command.args(word).args(&self.settings).args(rest); // of two settings of the same key, the later one applies
        command
    }

    /// Runs the program with the settings of the home.
    pub fn call<S: AsRef<OsStr>>(&self, arguments: &[S]) -> Answer {
        Answer::of(self.command(arguments).output().expect("the program starts"))
    }

    /// Runs the program and expects success. Returns its stdout.
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

/// The program in a folder, without the mirrors of the user who runs the tests.
pub fn bare(folder: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_multidigit"));
    command.current_dir(folder).env_remove("MULTIDIGIT_MIRRORS").stdin(Stdio::null());
    command
}

/// A raw folder with synthetic glyphs, which are drawn once for all tests.
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
