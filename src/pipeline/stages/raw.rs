//! The stage `raw`: its outputs are the four glyph files, which are in the raw folder and belong to the user.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::{Value, json};

use crate::config::Config;
use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::pipeline::definition::{Definition, Done, Input};
use crate::pipeline::{Pipeline, Stage, key};
use crate::progress::Progress;
use crate::raw::{self, Files, Glyphs, Origin};
use crate::record::{self, Key, Output, Record};

/// The definition of the stage.
pub struct Raw;

impl Definition for Raw {
    fn stage(&self) -> Stage {
        Stage::Raw
    }

    fn name(&self) -> &'static str {
        "raw"
    }

    fn version(&self) -> u32 {
        1
    }

    fn inputs(&self, _: &Config) -> &'static [Input] {
        &[]
    }

    fn settings(&self, config: &Config) -> Vec<(String, Value)> {
        vec![key::section(config, "raw", &["mirrors"])]
    }

    fn has_outputs_elsewhere(&self) -> bool {
        true
    }

    fn base(&self, pipeline: &Pipeline, _: &Path, recorded: Option<&Record>) -> Result<PathBuf> {
        let config = recorded.map_or_else(|| pipeline.config.raw.clone(), |record| source_of(pipeline, record));
        Ok(base_of(&raw::locate(&config, &pipeline.raw)?))
    }

    fn outputs(&self, pipeline: &Pipeline, _: &Path) -> Result<Vec<Output>> {
        let files = locate(pipeline)?;
        let names = files.paths.iter().filter_map(|path| path.file_name().map(PathBuf::from));
        record::outputs(&base_of(&files), &names.collect::<Vec<_>>())
    }

    fn is_characteristic(&self, _: &str) -> bool {
        false
    }

    fn is_pinned(&self) -> bool {
        true
    }

    fn run(&self, pipeline: &Pipeline, _: &Key, _: &Path, progress: &Progress) -> Result<Done> {
        let config = &pipeline.config.raw;
        let output = raw::run(config, &pipeline.raw, progress)?;
        let facts = json!({"glyphs": Origin::of_content(output.digest).name()});
        let rows = output.glyphs.len() as u64;
        pipeline.memory.glyphs.replace(Some(Arc::new(output.glyphs)));
        Ok(Done { content: Some(output.digest), rows, facts })
    }

    fn amount(&self, record: &Record) -> String {
        let glyphs = record.facts.get("glyphs").and_then(Value::as_str).unwrap_or("unknown");
        format!("{} glyphs ({glyphs})", record.rows)
    }

    fn recompute(&self, pipeline: &Pipeline, record: &Record, _: &Progress) -> Result<Option<Digest>> {
        let files = raw::locate(&source_of(pipeline, record), &pipeline.raw)?;
        Ok(Some(Glyphs::read(&files)?.digest()))
    }
}

/// The glyph files that the configuration names.
pub fn locate(pipeline: &Pipeline) -> Result<Files> {
    raw::locate(&pipeline.config.raw, &pipeline.raw)
}

/// Compares the glyph files that `wanted` selects with the record, before another stage computes with them.
///
/// # Errors
/// [`Error::Format`] if a file is not as recorded, or not named in the record.
pub fn check(pipeline: &Pipeline, wanted: impl Fn(&str) -> bool) -> Result<()> {
    let Some(record) = pipeline.record(Stage::Raw)? else { return Ok(()) };
    // if the folder holds a file both packed and plain, the one that would be read may not be the recorded one
    for path in locate(pipeline)?.paths {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if record.digest_of(&name).is_none() {
            let expected = "the file that was recorded; run `multidigit run raw --force`, or move this file away";
            return Err(Error::format(&path, "a file that is not recorded", expected));
        }
    }
    pipeline.check_outputs(Stage::Raw, wanted)
}

/// The source of the glyphs that a record names, which may differ from the configured one.
fn source_of(pipeline: &Pipeline, record: &Record) -> raw::Config {
    record.settings_of("raw").unwrap_or_else(|| pipeline.config.raw.clone())
}

/// The folder that holds the files.
fn base_of(files: &Files) -> PathBuf {
    files.paths[0].parent().unwrap_or(Path::new(".")).to_owned()
}
