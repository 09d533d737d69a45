//! Integration tests: most run the binary in a folder of its own and check its output and files; the others call the library.

#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::string_slice,
    clippy::unwrap_used,
    reason = "a test that panics has failed, as it should"
)]

mod augment;
mod candle;
mod circles;
mod command_line;
#[path = "../../crates/nn/tests/operators/compare.rs"]
mod compare;
mod evaluation;
mod export;
mod floors;
mod golden;
#[cfg(feature = "cuda")]
#[allow(unsafe_code, reason = "calls kernels on addresses of the device")]
mod gpu;
#[path = "../common/home.rs"]
mod home;
mod hostile;
#[cfg(unix)]
mod kept;
mod learning;
mod networks;
mod parts;
mod pipeline;
mod raw;
mod records;
mod report;
mod resume;
#[cfg(feature = "cloud")]
mod store;
mod sweep;
mod torchvision;
mod training;

use std::path::PathBuf;

use home::{Answer, Home, bare, synthetic_raw};

/// The folder of the official MNIST files. If it is not available, prints a message and returns `None`.
fn mnist(test: &str) -> Option<PathBuf> {
    match std::env::var_os("MULTIDIGIT_TEST_MNIST") {
        Some(folder) => Some(PathBuf::from(folder)),
        None if std::env::var_os("MULTIDIGIT_REQUIRE_MNIST").is_some() => {
            panic!("{test}: MULTIDIGIT_TEST_MNIST names no folder, and MULTIDIGIT_REQUIRE_MNIST is set")
        }
        None => {
            use std::io::Write;
            let _ = writeln!(std::io::stderr(), "skipped {test}: MULTIDIGIT_TEST_MNIST names no folder with MNIST");
            None
        }
    }
}
