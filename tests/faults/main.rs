//! Tests that nothing is lost: the program under kills, failing system calls, power cuts, damaged
//! files and malicious files.
//!
//! `make faults` tries a seeded sample of the cases, `make torture` all of them.
//! docs/reliability.md states the guarantees.

#![forbid(unsafe_code)]
#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::string_slice,
    clippy::unwrap_used,
    reason = "a test that panics has failed, as it should"
)]

#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
mod concurrency;
mod corruption;
#[path = "../common/home.rs"]
#[allow(dead_code)] // the integration tests use more of it
mod home;
// the tracer knows the registers of one architecture only
#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
mod failure;
mod hostile;
#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
mod kill;
mod mirrors;
#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
mod power;
#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
mod scenario;
#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
mod trace;

/// Whether every case is tried, instead of a sample.
fn is_torture() -> bool {
    std::env::var_os("MULTIDIGIT_TORTURE").is_some()
}

/// The cases of one kind of fault.
struct Cases {
    what: String,
    tried: usize,
    lost: usize,
}

impl Cases {
    fn new(what: impl ToString) -> Cases {
        Cases { what: what.to_string(), tried: 0, lost: 0 }
    }

    /// Counts a case. Losses are printed at once, because trying all cases can take hours.
    fn add(&mut self, losses: impl IntoIterator<Item = String>) {
        self.tried += 1;
        let mut is_lost = false;
        for loss in losses {
            eprintln!("{}, lost: {loss}", self.what);
            is_lost = true;
        }
        self.lost += usize::from(is_lost);
    }

    /// Prints the counts, and fails if anything was lost.
    fn end(self) {
        let Cases { what, tried, lost } = self;
        eprintln!("{what}: {tried} cases, {lost} lost");
        assert!(tried > 0 && lost == 0, "{what}: something was lost in {lost} of {tried} cases, as told above");
    }
}
