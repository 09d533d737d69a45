//! The definition of a stage: everything that the pipeline has to know about it. Each stage implements [`Definition`]
//! in its own file in `stages/`.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::request::Request;
use super::{Pipeline, Stage, key, ownership};
use crate::config::Config;
use crate::digest::Digest;
use crate::error::Result;
use crate::files::{self, Build};
use crate::progress::Progress;
use crate::record::{self, Key, Output, Record};
use crate::shards::{ShardPlan, ShardSet, Written};

/// A stage that another one reads.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Input {
    /// The input must be fresh, and its content is in the key.
    Keyed(Stage),
    /// The input must be fresh, but its content is not in the key (in Make: an order-only prerequisite).
    OrderOnly(Stage),
    /// The existing outputs of the input are shown; none of them is needed.
    Shown(Stage),
}

impl Input {
    /// The stage that is read.
    pub fn stage(self) -> Stage {
        let (Input::Keyed(stage) | Input::OrderOnly(stage) | Input::Shown(stage)) = self;
        stage
    }
}

/// How the work of a stage begins.
#[derive(Debug, Clone, PartialEq)]
pub enum Beginning {
    /// From nothing.
    Start,
    /// From the files of an earlier build.
    GoOn {
        /// The state from which the work continues, in words.
        from: String,
        /// The number of rows that are done; the rows of a training are its epochs.
        done: u64,
    },
    /// The work is not needed, unless an input that is yet to be made differs from the input in the record.
    Unchanged,
}

impl Beginning {
    /// The state from which the work continues, in words; `None` if the work does not continue an earlier build.
    pub fn goes_on_from(&self) -> Option<&str> {
        match self {
            Beginning::GoOn { from, .. } => Some(from),
            Beginning::Start | Beginning::Unchanged => None,
        }
    }
}

/// The result of a stage, for its record.
pub struct Done {
    /// The digest of the logical content; `None` if the files themselves are the content.
    pub content: Option<Digest>,
    /// The number of samples, glyphs, epochs or runs that were made.
    pub rows: u64,
    /// Further facts for the record.
    pub facts: Value,
}

/// The work of a stage whose shards can be made in parts.
pub trait Parts: ShardSet {
    /// The paths of what stands beside the shards.
    fn beside(&self) -> &'static [&'static str];

    /// Writes into `out` what stands beside the shards.
    fn finish(&self, out: &Path, written: &[Written]) -> Result<Done>;
}

/// The definition of a stage. The defaults suit a stage with one folder that holds its outputs and nothing else.
pub trait Definition {
    /// The stage that is defined.
    fn stage(&self) -> Stage;

    /// The name of the stage: its section of the configuration, its folder, its word on the command
    /// line and its make target.
    fn name(&self) -> &'static str;

    /// The version of the stage's code. It is raised when the same inputs and settings give another output.
    fn version(&self) -> u32;

    /// The stages that this stage reads under a configuration.
    fn inputs(&self, config: &Config) -> &'static [Input];

    /// The inputs in the key that are not the configured output of a stage: a name and a content digest for each.
    fn other_inputs(&self, _: &Pipeline) -> Result<Vec<(String, Digest)>> {
        Ok(Vec::new())
    }

    /// The settings that can change the output, by section, for the key.
    fn settings(&self, config: &Config) -> Vec<(String, Value)> {
        vec![key::section(config, self.name(), &[])]
    }

    /// Whether the stage has a folder for each run. A request that names no stage does not run such a stage, and
    /// `clean` leaves its folders unless forced.
    fn is_per_run(&self) -> bool {
        false
    }

    /// The folder of the configured output.
    fn folder(&self, pipeline: &Pipeline) -> PathBuf {
        pipeline.home(self.stage())
    }

    /// Whether the outputs are files of the user in another folder. The stage's own folder then holds the record alone.
    fn has_outputs_elsewhere(&self) -> bool {
        false
    }

    /// The folder that the paths of the outputs are relative to. `folder` is the folder of the record. The outputs are
    /// those of `recorded`, if it is given, and of the configuration otherwise.
    fn base(&self, _: &Pipeline, folder: &Path, _recorded: Option<&Record>) -> Result<PathBuf> {
        Ok(folder.to_owned())
    }

    /// Whether the stage writes the file at this path in its folder.
    fn is_output(&self, _path: &str) -> bool {
        true
    }

    /// The outputs that the work left in `build`, described for the record.
    fn outputs(&self, _: &Pipeline, build: &Path) -> Result<Vec<Output>> {
        let mut files = files::walk(build)?;
        files.retain(|path| self.is_output(&record::name(path)));
        record::outputs(build, &files)
    }

    /// Whether the stage's folder may hold files that its record does not name. In other folders `verify` reports such
    /// files, since a reader may take every file there.
    fn may_hold_strays(&self) -> bool {
        self.has_outputs_elsewhere()
    }

    /// Whether a file with this path shows that the folder belongs to the stage, even if the folder has no record.
    fn is_characteristic(&self, path: &str) -> bool;

    /// Whether `pipeline.lock` pins the content.
    fn is_pinned(&self) -> bool {
        false
    }

    /// Returns an error if the stage cannot work with a configuration. It is called before any stage runs.
    fn check_config(&self, _: &Config) -> Result<()> {
        Ok(())
    }

    /// Returns an error if the inputs do not fit together. It is called if the command takes its inputs as they stand.
    /// `standing` holds the records of the inputs that the command does not make.
    fn check_standing(&self, _: &Pipeline, _standing: &BTreeMap<Stage, Option<Record>>) -> Result<()> {
        Ok(())
    }

    /// Whether an interrupted build is kept, so that a later command can continue it.
    fn is_resumable(&self) -> bool {
        false
    }

    /// How the work would begin, if the stages in `pending` run first.
    ///
    /// # Errors
    /// Fails if files of the user are in the way.
    fn beginning(&self, pipeline: &Pipeline, _force: bool, _pending: &BTreeSet<Stage>) -> Result<Beginning> {
        ownership::check_around(self.stage(), &self.folder(pipeline))?;
        Ok(Beginning::Start)
    }

    /// Tells the user, before any stage runs, what to expect of this stage. `beginning` is
    /// given if the stage is to run.
    fn announce(&self, _: &Pipeline, _: &Request, _beginning: Option<&Beginning>, _: &Progress) {}

    /// Creates the folder to build in.
    fn build(&self, _: &Pipeline, target: &Path, _: &Key, _force: bool, _: &Progress) -> Result<Build> {
        ownership::check(self.stage(), target)?;
        Build::beside(target)
    }

    /// The work of a stage whose shards can be made in parts, by several processes. `None` for other stages. The inputs are
    /// fresh.
    fn parts(&self, _: &Pipeline) -> Result<Option<Box<dyn Parts>>> {
        Ok(None)
    }

    /// The shards that [`Definition::parts`] writes. Unlike the work, they follow from little of the inputs.
    fn shards(&self, _: &Pipeline) -> Result<Vec<ShardPlan>> {
        Ok(Vec::new())
    }

    /// Whether [`Definition::parts`] returns the work.
    fn has_parts(&self) -> bool {
        false
    }

    /// Whether the stage reads the output of an input at this path.
    fn reads(&self, _input: Stage, _path: &str) -> bool {
        true
    }

    /// Does the work in the folder `out`.
    fn run(&self, pipeline: &Pipeline, key: &Key, out: &Path, progress: &Progress) -> Result<Done>;

    /// The amount of the output, in words.
    fn amount(&self, record: &Record) -> String;

    /// The sentences that `status` adds to the amount of a fresh output.
    fn remarks(&self, _: &Pipeline, _: &Record) -> Vec<String> {
        Vec::new()
    }

    /// The content digest, computed again from outputs whose bytes are as recorded; `None` if it
    /// cannot be computed from them.
    fn recompute(&self, _: &Pipeline, record: &Record, _: &Progress) -> Result<Option<Digest>> {
        Ok(Some(record::content_of(&record.outputs)))
    }

    /// The first row of the output that differs from the row that the inputs give, in words. `verify` asks for it if
    /// the content differs from the recorded content although the inputs do not.
    fn first_difference(&self, _: &Pipeline, _: &Record) -> Result<Option<String>> {
        Ok(None)
    }
}
