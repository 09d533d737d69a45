//! Nothing is lost: the built program under kills, failing system calls, power cuts, damaged files and hostile ones.
//!
//! `make faults` tries a seeded sample of the cases, `make torture` all of them. docs/reliability.md says what is promised.

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
#[allow(dead_code)] // the tests of integration use more of it
mod home;
// the tracer knows the registers of one processor
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

/// Whether every case is to be tried, and not a sample.
fn is_torture() -> bool {
    std::env::var_os("MULTIDIGIT_TORTURE").is_some()
}

/// Ends a test by its tally: how many cases were tried, and every one in which something was lost.
fn report(what: &str, tried: usize, lost: &[String]) {
    eprintln!("{what}: {tried} cases, {} lost", lost.len());
    let all = lost.join("\n");
    assert!(tried > 0 && lost.is_empty(), "{what}: something was lost in {} of {tried} cases:\n{all}", lost.len());
}
