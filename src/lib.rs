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
//! | ground | [`error`], [`guard`], [`digest`], [`files`], [`rng`], [`progress`], [`tables`], [`shards`] |
//! | stages | [`raw`], [`plan`], [`dataset`], [`augment`], and [`nn`], what training is made of |
//! | | [`train`] |
//! | | [`evaluate`] |
//! | | [`runs`], what is known of a run |
//! | | [`report`] |
//! | order | [`config`], then [`pipeline`] |
//! | people | [`cli`], [`terminal`], [`results`], [`inspect`] |

pub mod augment;
pub mod cli;
pub mod config;
pub mod dataset;
pub mod digest;
pub mod error;
pub mod evaluate;
pub mod files;
pub mod guard;
pub mod inspect;
pub mod nn;
pub mod pipeline;
pub mod plan;
pub mod progress;
pub mod raw;
pub mod report;
pub mod results;
pub mod rng;
pub mod runs;
pub mod shards;
pub mod tables;
pub mod terminal;
pub mod train;
