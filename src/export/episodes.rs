//! Few-shot episodes, `episodes.parquet`: each draws some classes of a split, and of each class some samples to learn from
//! (its support) and others to be tested on (its queries).
//!
//! A row is a sample in an episode. The columns are `split` and `role`, strings (`support` or `query`); and `episode`,
//! `way`, `label`, `index` and `row`, int64. `way` numbers the classes of an episode from 0; `row` is the number of the
//! sample in the shards of its split.

use std::collections::BTreeMap;
use std::fs::File;
use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, StringArray};
use arrow::datatypes::{DataType, Field, Schema};
use parquet::arrow::ArrowWriter;
use serde::Serialize;
use serde_json::json;

use super::Job;
use crate::error::{Error, Result};
use crate::parquet_file::{Compression, int_field, ints, properties};
use crate::rng;
use crate::shards::Shards;

/// The name of the file.
pub const FILE: &str = "episodes.parquet";

/// The metadata key under which the file states its settings.
pub const KEY: &str = "episodes";

/// What is drawn.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Config {
    /// Classes per episode.
    pub ways: usize,
    /// Samples of each class in the support.
    pub shots: usize,
    /// Samples of each class in the queries.
    pub queries: usize,
    /// Episodes per split.
    pub episodes: u64,
    /// Seed of the draws.
    pub seed: u64,
}

/// Writes the file.
pub(super) fn write(config: &Config, job: &Job) -> Result<()> {
    let path = job.out.join(FILE);
    let text = |name| Field::new(name, DataType::Utf8, true);
    let numbers = ["episode", "way", "label", "index", "row"].map(int_field);
    let schema = Arc::new(Schema::new([vec![text("split"), text("role")], numbers.to_vec()].concat()));
    let about = [(KEY, json!(config).to_string())];
    let file = File::create(&path).map_err(Error::io(&path, "create it"))?;
    let properties = properties(Compression::Zstd, &about).build();
    let mut writer = ArrowWriter::try_new(file, schema.clone(), Some(properties)).map_err(Error::write(&path))?;
    for (split, shards) in job.splits {
        let classes = Classes::read(config, split, shards)?;
        for episode in 0..config.episodes {
            let columns = classes.episode(config, split, episode);
            let batch = RecordBatch::try_new(schema.clone(), columns).map_err(Error::write(&path))?;
            writer.write(&batch).map_err(Error::write(&path))?;
        }
        job.progress.advance(shards.rows())?;
    }
    writer.close().map(drop).map_err(Error::write(&path))
}

/// The samples of a split by class.
struct Classes {
    /// The label of each class, and the rows of its samples.
    rows: Vec<(i64, Vec<usize>)>,
    /// The number of each row in its class.
    index: Vec<i64>,
}

impl Classes {
    /// Reads a split, whose classes must suffice for the episodes.
    fn read(config: &Config, split: &str, shards: &Shards) -> Result<Classes> {
        let (mut rows, mut row) = (BTreeMap::<i64, Vec<usize>>::new(), 0);
        shards.each_label(|label| {
            rows.entry(label).or_default().push(row);
            row += 1;
        })?;
        let least = rows.values().map(Vec::len).min().unwrap_or(0);
        if rows.len() < config.ways {
            let expected = format!("at most {}, the classes of {split}", rows.len());
            return Err(Error::value("--ways", config.ways, expected));
        }
        if least < config.shots + config.queries {
            let found = format!("{} and {}", config.shots, config.queries);
            let expected = format!("at most {least} in all, the samples of a class of {split}");
            return Err(Error::value("--shots and --queries", found, expected));
        }
        Ok(Classes { rows: rows.into_iter().collect(), index: shards.index()? })
    }

    /// The rows of an episode, as columns.
    fn episode(&self, config: &Config, split: &str, episode: u64) -> Vec<ArrayRef> {
        let mut rng = rng::stream(config.seed, &format!("export/episodes/{split}"), 0, episode);
        let mut classes: Vec<&(i64, Vec<usize>)> = self.rows.iter().collect();
        rng::shuffle(&mut rng, &mut classes);
        let (mut roles, mut numbers) = (Vec::new(), [const { Vec::<i64>::new() }; 4]);
        for (way, (label, rows)) in classes.into_iter().take(config.ways).enumerate() {
            let mut rows = rows.clone();
            rng::shuffle(&mut rng, &mut rows);
            for (drawn, row) in rows.into_iter().take(config.shots + config.queries).enumerate() {
                roles.push(if drawn < config.shots { "support" } else { "query" });
                let index = self.index.get(row).copied().unwrap_or_default();
                for (column, number) in numbers.iter_mut().zip([way as i64, *label, index, row as i64]) {
                    column.push(number);
                }
            }
        }
        let text = |values: Vec<&str>| Arc::new(StringArray::from(values)) as ArrayRef;
        let rows = roles.len();
        let before = [text(vec![split; rows]), text(roles), ints(&vec![episode as i64; rows])];
        before.into_iter().chain(numbers.iter().map(|column| ints(column))).collect()
    }
}
