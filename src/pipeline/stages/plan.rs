//! The stage `plan`: the table of all images, with their glyphs and the places of these, drawn from the labels of the
//! glyphs.

use std::path::Path;

use serde_json::{Value, json};

use super::raw as glyphs;
use crate::config::Config;
use crate::digest::Digest;
use crate::error::Result;
use crate::parquet_file::ParquetFile;
use crate::pipeline::definition::{Definition, Done, Input};
use crate::pipeline::{Pipeline, Stage, key};
use crate::plan::rows::Rows;
use crate::plan::{self, Facts, split, table};
use crate::progress::Progress;
use crate::raw::Glyphs;
use crate::record::{Key, Record};

/// The definition of the stage.
pub struct Plan;

impl Definition for Plan {
    fn stage(&self) -> Stage {
        Stage::Plan
    }

    fn name(&self) -> &'static str {
        "plan"
    }

    fn version(&self) -> u32 {
        1
    }

    fn inputs(&self, _: &Config) -> &'static [Input] {
        &[Input::Keyed(Stage::Raw)]
    }

    fn settings(&self, config: &Config) -> Vec<(String, Value)> {
        vec![key::section(config, "plan", &[])]
    }

    fn is_characteristic(&self, path: &str) -> bool {
        path == plan::FILE
    }

    fn is_pinned(&self) -> bool {
        true
    }

    fn run(&self, pipeline: &Pipeline, _: &Key, out: &Path, progress: &Progress) -> Result<Done> {
        glyphs::check(pipeline, |path| path.contains("labels"))?;
        let labels = Glyphs::read_labels(&glyphs::locate(pipeline)?)?;
        let glyphs = plan::GlyphSet::new(pipeline.content(Stage::Raw)?, labels.len());
        let (facts, content) = plan::run(&pipeline.config.plan, glyphs, &labels, out, progress)?;
        let rows = facts.counts.as_array().into_iter().sum();
        Ok(Done { content: Some(content), rows, facts: json!(facts) })
    }

    fn amount(&self, record: &Record) -> String {
        format!("{} samples", record.rows)
    }

    fn remarks(&self, _: &Pipeline, record: &Record) -> Vec<String> {
        let Ok(facts) = serde_json::from_value::<Facts>(record.facts.clone()) else { return Vec::new() };
        let [train, val, test] = facts.counts.as_array();
        let counts = format!("train {train}, val {val}, test {test}; glyphs: {}", facts.glyphs.name);
        vec![counts, facts.leakage_sentence()]
    }

    fn recompute(&self, pipeline: &Pipeline, _: &Record, _: &Progress) -> Result<Option<Digest>> {
        plan::table::digest_of(&self.folder(pipeline).join(plan::FILE)).map(Some)
    }

    /// Composes the plan again from its settings.
    fn first_difference(&self, pipeline: &Pipeline, _: &Record) -> Result<Option<String>> {
        let path = self.folder(pipeline).join(plan::FILE);
        let labels = Glyphs::read_labels(&glyphs::locate(pipeline)?)?;
        let settings = table::facts(&ParquetFile::open(&path)?)?.plan;
        let plan = plan::compose::compose(&settings, &labels, &std::env::temp_dir(), &Progress::silent())?;
        let mut before = 0;
        for (name, split) in split::NAMES.into_iter().zip(plan.splits) {
            let mut reader = table::Reader::open(&path, name)?;
            for piece in split.pieces() {
                let expected = piece?;
                let found = reader.take(expected.len())?;
                let is_other = |row: &usize| columns(&found, *row) != columns(&expected, *row);
                if let Some(row) = (0..expected.len()).find(is_other) {
                    return Ok(Some(format!(
                        "`{}`: row {} is not what its settings give",
                        path.display(),
                        before + row
                    )));
                }
                before += expected.len();
            }
        }
        Ok(None)
    }
}

/// The values in a row of a plan.
fn columns(rows: &Rows, row: usize) -> impl PartialEq {
    let cells = row * rows.digits..(row + 1) * rows.digits;
    let places = [rows.y.get(cells.clone()), rows.x.get(cells.clone())].map(|cells| cells.map(<[_]>::to_vec));
    let sources = rows.sources.get(cells).map(<[_]>::to_vec);
    (rows.labels.get(row).copied(), rows.index.get(row).copied(), sources, places)
}
