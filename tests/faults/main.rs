//! Nothing is lost: the built program under kills, failing system calls, power cuts, damaged files and hostile ones.
//!
//! `make faults` tries a seeded sample of the cases, `make torture` all of them. docs/reliability.md says what is promised.

mod corruption;
#[path = "../common/home.rs"]
#[allow(dead_code)] // the tests of integration use more of it
mod home;

/// Whether every case is to be tried, and not a sample.
fn is_torture() -> bool {
    std::env::var_os("MULTIDIGIT_TORTURE").is_some()
}
