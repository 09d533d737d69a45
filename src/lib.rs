//! Multi-digit MNIST, exact, staged and reproducible: from the official files to published
//! Parquet and trained networks.
//!
//! ```text
//! raw ──> plan ──> dataset ──> augment ──> train ──> evaluate ──> report
//! ```
//!
//! A stage has one name: its module here, its section in `pipeline.yaml`, its folder in `artifacts/` and its word on
//! the command line. Each stage computes files from files. Everything random is drawn in one place, in
//! [`plan`] or from the streams of [`rng`], and applied in another.
//!
//! A program brings stages up to date and reads what they made:
//!
//! ```no_run
//! use multidigit::{Config, Pipeline, Progress, Request, Stage, read_split};
//!
//! # fn main() -> multidigit::Result<()> {
//! let config = Config::default().with("raw.source=synthetic")?.with("plan.samples_per_class=10")?;
//! let pipeline = Pipeline::new(config, Vec::new(), "raw".into(), "artifacts".into(), "pipeline.lock".into());
//! let request = Request { stages: vec![Stage::Dataset], ..Request::default() };
//! pipeline.run(&request, &Progress::silent(), &mut |stage, outcome| {
//!     println!("{stage}: {outcome:?}");
//!     Ok(())
//! })?;
//! let train = read_split(&pipeline.folder(Stage::Dataset).join(multidigit::shards::DATA), "train", None)?;
//! println!("{} images of {}x{} pixels", train.len(), train.height, train.width);
//! # Ok(())
//! # }
//! ```
//!
//! The floors, ground first; a module imports its own folder and lower floors only (a test reads the imports):
//!
//! | floor | modules |
//! |---|---|
//! | ground | [`error`], [`guard`], [`digest`], [`files`], [`rng`], [`progress`], [`labels`], [`documents`], [`record`], [`parquet_file`], [`shards`], and `store` with the feature `cloud` |
//! | stages | [`raw`], [`plan`], [`dataset`], [`augment`], and [`networks`] |
//! | | [`train`] |
//! | | [`evaluate`] |
//! | | [`runs`], which reads the files of runs |
//! | | [`report`] |
//! | order | [`config`], then [`pipeline`] |
//! | people | [`inspect`], [`predict`], [`preview`], [`recipe`], [`sweep`], [`export`], and the program's own modules: command line, terminal, output as text |

#![deny(missing_docs)]

pub mod augment;
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
pub mod export;
#[forbid(unsafe_code)]
pub mod files;
#[forbid(unsafe_code)]
pub mod guard;
#[forbid(unsafe_code)]
pub mod inspect;
#[forbid(unsafe_code)]
pub mod labels;
#[forbid(unsafe_code)]
pub mod networks;
#[forbid(unsafe_code)]
pub mod parquet_file;
#[forbid(unsafe_code)]
pub mod pipeline;
#[forbid(unsafe_code)]
pub mod plan;
#[forbid(unsafe_code)]
pub mod predict;
#[forbid(unsafe_code)]
pub mod preview;
#[forbid(unsafe_code)]
pub mod progress;
#[forbid(unsafe_code)]
pub mod raw;
#[forbid(unsafe_code)]
pub mod recipe;
#[forbid(unsafe_code)]
pub mod record;
#[forbid(unsafe_code)]
pub mod report;
#[forbid(unsafe_code)]
pub mod rng;
#[forbid(unsafe_code)]
pub mod runs;
#[forbid(unsafe_code)]
pub mod shards;
#[cfg(feature = "cloud")]
#[forbid(unsafe_code)]
pub mod store;
#[forbid(unsafe_code)]
pub mod sweep;
pub mod train;

pub use config::Config;
pub use error::{Error, Result};
pub use pipeline::{Freshness, Outcome, Pipeline, Request, Stage};
pub use progress::{Event, Progress};
pub use shards::{Shards, Split, read_split};
