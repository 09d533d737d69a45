//! The stage `dataset`: the images of the plan, rendered from the glyphs into shards.

use std::path::Path;
use std::sync::Arc;

use serde_json::Value;

use super::raw as glyphs;
use crate::config::Config;
use crate::dataset::{self, render};
use crate::digest::Digest;
use crate::error::Result;
use crate::parquet_file::ParquetFile;
use crate::pipeline::definition::{Definition, Done, Input, Parts};
use crate::pipeline::{Pipeline, Stage};
use crate::plan::{self, split, table};
use crate::progress::Progress;
use crate::raw::Glyphs;
use crate::record::{Key, Record};
use crate::shards::{DATA, ShardPlan, Shards, Written, compare};

/// The definition of the stage.
pub struct Dataset;

/// The rendering of the plan. The files of the inputs are compared with their records first.
fn work(pipeline: &Pipeline) -> Result<dataset::Work> {
    pipeline.check_outputs(Stage::Plan, |_| true)?;
    let plan = pipeline.folder(Stage::Plan).join(plan::FILE);
    // they are in memory if `raw` ran in this process; no later stage needs them
    let glyphs = match pipeline.memory.glyphs.take() {
        Some(glyphs) => glyphs,
        None => {
            glyphs::check(pipeline, |_| true)?;
            Arc::new(Glyphs::read(&glyphs::locate(pipeline)?)?)
        }
    };
    dataset::Work::open(&pipeline.config.dataset, (&plan, pipeline.content(Stage::Plan)?), glyphs)
}

impl Parts for dataset::Work {
    fn beside(&self) -> &'static [&'static str] {
        &dataset::BESIDE
    }

    fn finish(&self, out: &Path, written: &[Written]) -> Result<Done> {
        Ok(done(self, self.finish(out, written)?))
    }
}

fn done(work: &dataset::Work, content: Digest) -> Done {
    Done { content: Some(content), rows: work.rows(), facts: Value::Null }
}

impl Definition for Dataset {
    fn stage(&self) -> Stage {
        Stage::Dataset
    }

    fn name(&self) -> &'static str {
        "dataset"
    }

    fn version(&self) -> u32 {
        2
    }

    fn inputs(&self, _: &Config) -> &'static [Input] {
        &[Input::Keyed(Stage::Raw), Input::Keyed(Stage::Plan)]
    }

    fn is_characteristic(&self, path: &str) -> bool {
        path.ends_with(".parquet")
    }

    fn is_pinned(&self) -> bool {
        true
    }

    fn has_parts(&self) -> bool {
        true
    }

    fn parts(&self, pipeline: &Pipeline) -> Result<Option<Box<dyn Parts>>> {
        Ok(Some(Box::new(work(pipeline)?)))
    }

    fn shards(&self, pipeline: &Pipeline) -> Result<Vec<ShardPlan>> {
        let plan = pipeline.folder(Stage::Plan).join(plan::FILE);
        dataset::shards(&pipeline.config.dataset, &table::facts(&ParquetFile::open(&plan)?)?)
    }

    fn run(&self, pipeline: &Pipeline, _: &Key, out: &Path, progress: &Progress) -> Result<Done> {
        let work = work(pipeline)?;
        Ok(done(&work, dataset::run(&work, out, progress)?))
    }

    fn amount(&self, record: &Record) -> String {
        format!("{} images", record.rows)
    }

    fn recompute(&self, pipeline: &Pipeline, record: &Record, progress: &Progress) -> Result<Option<Digest>> {
        progress.begin("verify dataset", record.rows, "rows")?;
        let content = dataset::digest_of(&self.folder(pipeline), progress)?;
        progress.end();
        Ok(Some(content))
    }

    /// Renders the images again from the plan.
    fn first_difference(&self, pipeline: &Pipeline, _: &Record) -> Result<Option<String>> {
        let (data, plan) = (self.folder(pipeline).join(DATA), pipeline.folder(Stage::Plan).join(plan::FILE));
        let facts = table::facts(&ParquetFile::open(&plan)?)?;
        let glyphs = Glyphs::read(&glyphs::locate(pipeline)?)?;
        let [height, width] = facts.plan.image_size;
        for name in split::NAMES {
            let mut rows = table::Reader::open(&plan, name)?;
            let shards = Shards::open(&data, name)?;
            if table::facts(shards.first())? != facts {
                return Ok(Some(format!("`{}`: holds the facts of another plan", shards.first().path().display())));
            }
            let (total, mut left) = (rows.len(), rows.len() as usize);
            let render = |n: usize| {
                let rows = rows.take(n.min(left))?;
                left -= rows.len();
                Ok(render::render(&rows, height, width, &glyphs))
            };
            let difference = compare(&shards, "the plan", total, render)?;
            if difference.is_some() {
                return Ok(difference);
            }
        }
        Ok(None)
    }
}
