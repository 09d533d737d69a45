//! Converts a library's panic on an untrusted file into an error that names the file.
//!
//! The libraries that read Parquet, PNG, YAML and similar formats may panic on a file that is damaged or malicious.
//! Only calls of such libraries are guarded: a panic in this crate's own code is a defect, and ends the program.

use std::any::Any;
use std::cell::Cell;
use std::panic::{self, AssertUnwindSafe};
use std::path::Path;
use std::sync::Once;

use crate::error::{Error, Result};

thread_local! {
    /// Whether this thread is in a guarded call, whose panic becomes an error and is not printed.
    static IS_GUARDED: Cell<bool> = const { Cell::new(false) };
}

/// Calls a library on the content of the file `path`. The call must not pass work to other threads, whose panics would
/// be printed, and its reader must not be used again after an error.
///
/// # Errors
/// [`Error::Broke`] if the library panics.
pub fn guarded<T>(path: &Path, call: impl FnOnce() -> T) -> Result<T> {
    keep_quiet();
    let outer = IS_GUARDED.replace(true);
    let done = panic::catch_unwind(AssertUnwindSafe(call));
    IS_GUARDED.set(outer);
    done.map_err(|panic| Error::Broke { path: path.to_owned(), message: message(&*panic) })
}

/// Installs a panic hook that does not print the panics of guarded calls. All other panics are printed as before.
fn keep_quiet() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let print = panic::take_hook();
        panic::set_hook(Box::new(move |panic| {
            if !IS_GUARDED.get() {
                print(panic);
            }
        }));
    });
}

/// The message of a panic.
fn message(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("it does not say why").to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_becomes_an_error_that_names_the_file() {
        let path = Path::new("a.png");
        assert_eq!(guarded(path, || 7).unwrap(), 7);
        let row = 3;
        let error = guarded(path, || panic!("row {row}")).unwrap_err();
        assert_eq!(error.to_string(), "`a.png`: a reader of this format broke on it (row 3); expected a sound file");
        let error = guarded(path, || panic!("no row")).unwrap_err();
        assert!(matches!(error, Error::Broke { message, .. } if message == "no row"));
    }

    #[test]
    fn each_worker_of_a_pool_answers_for_its_own_call() {
        use rayon::prelude::*;
        let broken = |n: i32| guarded(Path::new("a"), || assert!(n % 2 == 0, "{n} is odd")).is_err();
        let odd: Vec<i32> = (0..100).into_par_iter().filter(|&n| broken(n)).collect();
        assert_eq!(odd, (0..100).filter(|n| n % 2 == 1).collect::<Vec<i32>>());
        assert!(!IS_GUARDED.get());
    }

    #[test]
    fn a_panic_outside_of_a_guarded_call_goes_on() {
        let nested = || guarded(Path::new("outer"), || guarded(Path::new("inner"), || panic!("x")).is_err());
        assert!(nested().unwrap(), "the inner call's error is a value to the outer one");
        assert!(panic::catch_unwind(|| panic!("printed by this test")).is_err());
    }
}
