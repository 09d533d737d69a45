//! Multi-digit MNIST, exact, staged and reproducible: from the official files to published Parquet and trained networks.
//!
//! ```text
//! raw ──> plan ──> dataset ──> augment ──> train ──> evaluate ──> report
//! ```
//!
//! A stage has one name: its module here, its section in `pipeline.yaml`, its folder in `artifacts/`, its word on the
//! command line. Each is a pure function from files to files; whatever is random is drawn once, in [`plan`] or from the
//! streams of [`rng`], and applied elsewhere.
//!
//! The floors, ground first; a module imports its own folder and lower floors only (a test reads the imports):
//!
//! | floor | modules |
//! |---|---|
//! | ground | [`error`], [`guard`], [`digest`], [`files`], [`rng`], [`progress`], [`labels`], [`documents`], [`tables`], [`shards`] |
//! | stages | [`raw`], [`plan`], [`dataset`], [`augment`], and [`nn`], what training is made of |
//! | | [`train`] |
//! | | [`evaluate`] |
//! | | [`runs`], what is known of a run |
//! | | [`report`] |
//! | order | [`config`], then [`pipeline`] |
//! | people | [`cli`], [`terminal`], [`results`], [`inspect`] |

pub mod augment;
#[forbid(unsafe_code)]
pub mod cli;
#[forbid(unsafe_code)]
pub mod config;
#[forbid(unsafe_code)]
pub mod dataset;
#[forbid(unsafe_code)]
pub mod digest;
#[forbid(unsafe_code)]
pub mod documents;
#[forbid(unsafe_code)]
pub mod error;
#[forbid(unsafe_code)]
pub mod evaluate;
#[forbid(unsafe_code)]
pub mod files;
#[forbid(unsafe_code)]
pub mod guard;
#[forbid(unsafe_code)]
pub mod inspect;
#[forbid(unsafe_code)]
pub mod labels;
pub mod nn;
#[forbid(unsafe_code)]
pub mod pipeline;
#[forbid(unsafe_code)]
pub mod plan;
#[forbid(unsafe_code)]
pub mod progress;
#[forbid(unsafe_code)]
pub mod raw;
#[forbid(unsafe_code)]
pub mod report;
#[forbid(unsafe_code)]
pub mod results;
#[forbid(unsafe_code)]
pub mod rng;
#[forbid(unsafe_code)]
pub mod runs;
#[forbid(unsafe_code)]
pub mod shards;
#[forbid(unsafe_code)]
pub mod tables;
#[forbid(unsafe_code)]
pub mod terminal;
pub mod train;
