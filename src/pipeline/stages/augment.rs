//! The stage `augment`: epochs of augmented training images as shards, for training with other software.

use std::path::Path;

use serde_json::Value;

use crate::augment::{self, Images, Maker};
use crate::config::Config;
use crate::dataset::is_shard_of;
use crate::digest::Digest;
use crate::error::Result;
use crate::pipeline::definition::{Definition, Done, Input, Parts};
use crate::pipeline::{Pipeline, Stage};
use crate::progress::Progress;
use crate::record::{Key, Record};
use crate::shards::{DATA, Samples, ShardPlan, Shards, Written, compare};

/// The definition of the stage.
pub struct Augment;

/// The augmentation of the training images, whose files are compared with their record first.
fn work(pipeline: &Pipeline) -> Result<augment::Work> {
    pipeline.check_outputs(Stage::Dataset, |path| Augment.reads(Stage::Dataset, path))?;
    augment::Work::open(&pipeline.config.augment, &pipeline.folder(Stage::Dataset), pipeline.disk())
}

impl Parts for augment::Work {
    fn beside(&self) -> &'static [&'static str] {
        &[augment::CARD]
    }

    fn finish(&self, out: &Path, written: &[Written]) -> Result<Done> {
        Ok(done(self, self.finish(out, written)?))
    }
}

fn done(work: &augment::Work, content: Digest) -> Done {
    Done { content: Some(content), rows: work.rows(), facts: Value::Null }
}

impl Definition for Augment {
    fn stage(&self) -> Stage {
        Stage::Augment
    }

    fn name(&self) -> &'static str {
        "augment"
    }

    fn version(&self) -> u32 {
        3
    }

    fn inputs(&self, _: &Config) -> &'static [Input] {
        &[Input::Keyed(Stage::Dataset)]
    }

    fn settings(&self, config: &Config) -> Vec<(String, Value)> {
        vec![(self.name().to_owned(), Value::Object(augment::settings(&config.augment)))]
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

    fn reads(&self, _: Stage, path: &str) -> bool {
        is_shard_of(path, "train")
    }

    fn shards(&self, pipeline: &Pipeline) -> Result<Vec<ShardPlan>> {
        let train = Shards::open(&pipeline.folder(Stage::Dataset).join(DATA), "train")?;
        augment::shards(&pipeline.config.augment, &train)
    }

    fn run(&self, pipeline: &Pipeline, _: &Key, out: &Path, progress: &Progress) -> Result<Done> {
        let work = work(pipeline)?;
        Ok(done(&work, augment::run(&work, out, progress)?))
    }

    fn amount(&self, record: &Record) -> String {
        format!("{} images", record.rows)
    }

    fn recompute(&self, pipeline: &Pipeline, record: &Record, progress: &Progress) -> Result<Option<Digest>> {
        progress.begin("verify augment", record.rows, "rows")?;
        let settings = record.settings_of("augment").filter(|_| record.key.version == self.version());
        let content = augment::digest_of(&self.folder(pipeline), settings.as_ref(), progress)?;
        progress.end();
        Ok(Some(content))
    }

    /// Augments the images again from the data set.
    fn first_difference(&self, pipeline: &Pipeline, record: &Record) -> Result<Option<String>> {
        let Some(config) = record.settings_of("augment") else { return Ok(None) };
        let folder = pipeline.folder(Stage::Dataset);
        let dataset = Shards::open(&folder.join(DATA), "train")?;
        let images = Images::read(&config, &folder)?;
        for epoch in 0.. {
            let data = self.folder(pipeline).join(augment::epoch_folder(epoch)).join(DATA);
            if !data.is_dir() {
                break;
            }
            let stored = Shards::open(&data, "train")?;
            if stored.groups().concat() != dataset.groups().concat() {
                return Ok(None); // another cut, by which no row can be compared with its image
            }
            let maker = Maker::new(&config, epoch, dataset.layout(), images.as_ref());
            let (mut positions, mut first) = (dataset.positions(), 0);
            let augment = |rows: usize| {
                first += rows;
                match positions.next() {
                    Some(position) => Ok(maker.make(dataset.read(position)?, first - rows)),
                    None => Ok(Samples::default()),
                }
            };
            let difference = compare(&stored, "the data set", dataset.rows(), augment)?;
            if difference.is_some() {
                return Ok(difference);
            }
        }
        Ok(None)
    }
}
