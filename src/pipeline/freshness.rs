//! Freshness: whether the output of a stage is the one that its configuration and its inputs give.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::json;

use super::{Pipeline, Stage};
use crate::config::{self, Config};
use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::pipeline::PipelineError;
use crate::record::{Change, Record};

/// Whether a stage has to run.
#[derive(Debug, Clone, PartialEq)]
pub enum Freshness {
    /// The output is up to date, and this is its record.
    Fresh(Box<Record>),
    /// The stage has to run, for these reasons.
    Stale(Vec<String>),
}

/// The status of a stage, as `multidigit status` shows it.
#[derive(Debug, Clone, PartialEq)]
pub struct Status {
    /// The stage.
    pub stage: Stage,
    /// Whether the stage is fresh.
    pub freshness: Freshness,
    /// Further facts about a fresh output, a sentence each, and how far the parts of a stale one are.
    pub remarks: Vec<String>,
    /// The overrides, such as `plan.seed=7`, with which a stale output has the settings that it was made with. Empty if it
    /// was made with the present ones, and for a run, which has a name of its own for other settings.
    pub made_with: Vec<String>,
}

impl Pipeline {
    /// The status of every stage, in order.
    pub fn status(&self) -> Result<Vec<Status>> {
        let mut stale = BTreeSet::new();
        let mut all = Vec::new();
        for stage in Stage::ALL {
            let definition = stage.definition();
            // a stage that only shows an input does not need it, so that input need not be fresh
            let stale_inputs = stale.iter().copied().filter(|&input| !stage.shows(input, &self.config)).collect();
            let mut freshness = self.freshness(stage, &stale_inputs)?;
            let (mut remarks, mut made_with) = (Vec::new(), Vec::new());
            match &mut freshness {
                Freshness::Fresh(record) => remarks = definition.remarks(self, record),
                Freshness::Stale(reasons) => {
                    if definition.is_resumable() {
                        match definition.beginning(self, false, &stale) {
                            Ok(beginning) => reasons.extend(beginning.goes_on_from().map(str::to_owned)),
                            Err(error) => reasons.push(format!("would be refused: {error}")),
                        }
                    }
                    if !definition.is_per_run() {
                        made_with = self.made_with(stage);
                    }
                    if !stage.keyed(&self.config).any(|input| stale.contains(&input)) {
                        remarks.extend(self.parts_under_way(stage)?);
                    }
                    stale.insert(stage);
                }
            }
            all.push(Status { stage, freshness, remarks, made_with });
        }
        Ok(all)
    }

    /// The overrides with which the settings are those that the existing output of a stage was made with.
    fn made_with(&self, stage: Stage) -> Vec<String> {
        let (Ok(Some(record)), Ok((key, _))) = (self.record(stage), self.key(stage)) else { return Vec::new() };
        let defaults = json!(Config::default());
        let text = |Change { path, old, .. }: &Change| {
            let default = || defaults.pointer(&format!("/{}", path.replace('.', "/"))).cloned();
            Some(format!("{path}={}", config::scalar(&old.clone().or_else(default)?)))
        };
        let changes = key.changes_since(&record.key);
        // a key may have more than settings, and a record those of another version
        changes.iter().filter_map(text).filter(|text| self.config.with(text).is_ok()).collect()
    }

    /// Whether a stage is fresh, given that the stages in `pending` are not.
    pub(super) fn freshness(&self, stage: Stage, pending: &BTreeSet<Stage>) -> Result<Freshness> {
        let mut record = match self.record(stage) {
            Ok(Some(record)) => record,
            Ok(None) => return Ok(Freshness::Stale(vec!["has not run yet".to_owned()])),
            Err(error) => return Ok(Freshness::Stale(vec![error.to_string()])),
        };
        let mut reasons = match self.differences(stage, &record, pending) {
            Ok(reasons) => reasons,
            Err(error) => return Ok(Freshness::Stale(vec![error.to_string()])),
        };
        if reasons.is_empty() {
            reasons = self.damages(stage, &mut record)?;
        }
        match reasons.is_empty() {
            true => Ok(Freshness::Fresh(Box::new(record))),
            false => Ok(Freshness::Stale(reasons)),
        }
    }

    /// The differences between the current key and the recorded one, and the inputs that are stale, in words.
    pub(super) fn differences(&self, stage: Stage, record: &Record, pending: &BTreeSet<Stage>) -> Result<Vec<String>> {
        let (key, missing) = self.key(stage)?;
        let mut reasons = key.reasons_against(&record.key);
        for input in stage.keyed(&self.config) {
            if missing.contains(&input) {
                reasons.retain(|reason| !reason.starts_with(&format!("input {input}")));
                reasons.push(format!("input {input} is not there"));
            } else if pending.contains(&input) {
                reasons.push(format!("input {input} is stale"));
            }
        }
        let shown = stage.inputs(&self.config).filter(|&input| stage.shows(input, &self.config));
        reasons.extend(shown.filter(|input| pending.contains(input)).map(|input| format!("input {input} is stale")));
        Ok(reasons)
    }

    /// The differences between the existing outputs and the recorded ones, in words. Renews the stamps in the record.
    fn damages(&self, stage: Stage, record: &mut Record) -> Result<Vec<String>> {
        let (definition, folder) = (stage.definition(), self.folder(stage));
        let base = match definition.base(self, &folder, None) {
            Ok(base) => base,
            Err(error) => return Ok(vec![error.to_string()]),
        };
        let mut reasons = record.look(&base);
        if !definition.has_outputs_elsewhere() {
            // readers take every shard in a folder, even a shard that no record names
            let strays = record.strays(&folder)?.filter(|stray| stray.ends_with(".parquet"));
            reasons.extend(strays.map(|stray| format!("{stray} is not in the record")));
        }
        Ok(reasons)
    }

    /// Returns an error if an input of the stages is stale, except for inputs that the same command makes.
    pub(super) fn require_fresh_inputs(&self, stages: &[Stage]) -> Result<()> {
        for &stage in stages {
            let inputs: Vec<Stage> = stage.needed(&self.config).filter(|input| !stages.contains(input)).collect();
            self.require_fresh(&inputs, stage.name())?;
        }
        Ok(())
    }

    /// Returns an error if one of the stages is stale. `wanted_by` is the command or the stage that reads them.
    pub fn require_fresh(&self, stages: &[Stage], wanted_by: &'static str) -> Result<()> {
        for Status { stage, freshness, .. } in self.status()? {
            if let Freshness::Stale(reasons) = freshness
                && stages.contains(&stage)
            {
                return Err(Error::from(PipelineError::InputStale {
                    stage: wanted_by,
                    input: stage.name(),
                    why: reasons.join("; "),
                }));
            }
        }
        Ok(())
    }

    /// For the stages that take their inputs as they stand: returns an error if inputs are damaged or do not fit
    /// together. Inputs that are among `stages` are made by the same command and are not checked.
    pub(super) fn require_standing(&self, stages: &[Stage]) -> Result<()> {
        let readers: Vec<Stage> = stages.iter().copied().filter(|stage| stage.reads_runs(&self.config)).collect();
        let inputs: BTreeSet<Stage> = readers.iter().flat_map(|stage| stage.keyed(&self.config)).collect();
        let mut standing = BTreeMap::new();
        for input in inputs.into_iter().filter(|input| !stages.contains(input)) {
            standing.insert(input, self.require_whole(input)?);
        }
        readers.iter().try_for_each(|stage| stage.definition().check_standing(self, &standing))
    }

    /// The record of a stage, if one exists. Returns an error if an output is not as recorded.
    fn require_whole(&self, stage: Stage) -> Result<Option<Record>> {
        let Some(mut record) = self.record(stage)? else { return Ok(None) };
        let (definition, folder) = (stage.definition(), self.folder(stage));
        match record.look(&definition.base(self, &folder, None)?)[..] {
            [] => Ok(Some(record)),
            [ref first, ..] => {
                // no command makes the same run again
                let again = match definition.is_per_run() {
                    true => String::new(),
                    false => format!(", or make them again with `multidigit run {stage}`"),
                };
                let expected = format!("the files as they were recorded; restore them from a copy{again}");
                Err(Error::format(&folder, first.clone(), expected))
            }
        }
    }

    /// Reads the outputs of a stage that `wanted` selects, and compares them with the record, before
    /// anything is computed from them.
    ///
    /// # Errors
    /// [`Error::Format`] if a file is not as recorded.
    pub fn check_outputs(&self, stage: Stage, wanted: impl Fn(&str) -> bool) -> Result<()> {
        let Some(record) = self.record(stage)? else { return Ok(()) };
        let base = stage.definition().base(self, &self.folder(stage), None)?;
        record.check(&base, &make_again(stage), wanted)
    }

    /// The record of a stage, if one exists.
    pub(super) fn record(&self, stage: Stage) -> Result<Option<Record>> {
        Record::read(&self.folder(stage))
    }

    /// The content of a stage. Returns an error if the stage has no record.
    pub(super) fn content(&self, stage: Stage) -> Result<Digest> {
        match self.record(stage)? {
            Some(record) => Ok(record.content),
            None => Err(Error::format(&self.folder(stage), "no record", "the output of a run")),
        }
    }

    /// Writes the record of a fresh stage again if the stamps of its outputs were renewed, so that the next command
    /// does not have to read the outputs. The caller holds the folder's lock, so that no other record is overwritten.
    pub(super) fn keep_stamps(&self, stage: Stage, record: &Record) {
        if !matches!(self.record(stage), Ok(Some(stored)) if stored == *record) {
            record.renew(&self.folder(stage));
        }
    }
}

/// The advice for a file of a stage that is not as recorded.
pub(super) fn make_again(stage: Stage) -> String {
    format!("restore the file from a copy, or make it again with `multidigit run {stage} --force`")
}
