//! `multidigit export`: the data set in the forms that other tools expect.
//!
//! A trained network is exported as an ONNX file ([`onnx`]) or as a page that reads drawn digits ([`demo`]). An export of the
//! data set reads the shards of the data set as it stands, a few row groups at a time, and writes a folder of its own. The same
//! data set gives the same bytes, and so does the same network.

use std::path::{Path, PathBuf};

use rayon::prelude::*;

use crate::dataset::is_shard_of;
use crate::error::{Error, Result};
use crate::files::{self, Build, FolderLock, Hold};
use crate::labels;
use crate::pipeline::{Pipeline, Stage};
use crate::plan::split;
use crate::progress::Progress;
use crate::record::Record;
use crate::runs::WeightsFile;
use crate::shards::{DATA, Samples, Shards};

mod coco;
pub mod demo;
pub mod episodes;
pub mod npz;
pub mod onnx;
mod tree;
mod webdataset;

/// The folder of all exports, in the folder of artifacts.
pub const FOLDER: &str = "export";

/// The form of an export.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Form {
    /// PNG files by split and class, with the names of the reference generator.
    Tree,
    /// Tar files for WebDataset.
    Webdataset,
    /// PNG files with boxes and categories in the forms of COCO and YOLO.
    Coco,
    /// NumPy arrays in one file.
    Npz,
    /// A table of few-shot episodes.
    Episodes(episodes::Config),
}

impl Form {
    /// The name of the form, and of its folder.
    pub fn name(&self) -> &'static str {
        match self {
            Form::Tree => "tree",
            Form::Webdataset => "webdataset",
            Form::Coco => "coco",
            Form::Npz => "npz",
            Form::Episodes(_) => "episodes",
        }
    }
}

/// Writes the data set of a pipeline in another form into the folder `out`, or into the folder of the form in
/// [`FOLDER`] if `out` is `None`. `splits` are the names of the splits; if there are none, all are written. Returns the
/// folder.
///
/// # Errors
/// [`Error::Format`] if there is no data set, if it is damaged, or if `out` holds files or lies in the folder of a stage.
/// [`Error::ConfigValue`] if there is no split of a name, or if a split has too few classes or samples for episodes.
pub fn export(
    pipeline: &Pipeline,
    form: &Form,
    splits: &[String],
    out: Option<PathBuf>,
    progress: &Progress,
) -> Result<PathBuf> {
    let names = chosen(splits)?;
    let dataset = pipeline.folder(Stage::Dataset);
    if Record::read(&dataset)?.is_none() {
        return Err(Error::format(&dataset, "no data set", "one; make it with `multidigit run dataset`"));
    }
    pipeline.check_outputs(Stage::Dataset, |path| names.iter().any(|name| is_shard_of(path, name)))?;
    let open = |name: &&'static str| Ok((*name, Shards::open(&dataset.join(DATA), name)?));
    let splits: Vec<(&'static str, Shards)> = names.iter().map(open).collect::<Result<_>>()?;

    let out = out.unwrap_or_else(|| pipeline.artifacts().join(FOLDER).join(form.name()));
    pipeline.require_apart(&out)?;
    if let Some(parent) = out.parent() {
        files::create_dir(parent)?;
    }
    let folder = files::resolve(&out)?;
    let _writing = FolderLock::beside(&folder, Hold::Write)?;
    if !files::entries(&folder)?.is_empty() {
        let expected = "an empty folder, or none; move it away, or name another folder with --out";
        return Err(Error::format(&out, "a folder with files in it", expected));
    }
    let build = Build::beside(&folder)?;
    progress.begin("export", splits.iter().map(|(_, shards)| shards.rows()).sum(), "images")?;
    let job = Job { splits: &splits, out: build.path(), progress };
    match form {
        Form::Tree => tree::write(&job),
        Form::Webdataset => webdataset::write(&job),
        Form::Coco => coco::write(&job),
        Form::Npz => npz::write(&job),
        Form::Episodes(config) => episodes::write(config, &job),
    }?;
    progress.end();
    let written = files::walk(build.path())?;
    if folder.exists() {
        files::remove_if_empty(&folder)?;
    }
    build.commit(&written)?;
    Ok(out)
}

/// Writes what was made of the network in a file of weights as the file `out`, or with the name of the run and an ending in
/// [`FOLDER`] if `out` is `None`. Returns the path.
///
/// # Errors
/// [`Error::Format`] if `out` exists or lies in the folder of a stage; then nothing is made.
fn write_of_network(
    pipeline: &Pipeline,
    file: &WeightsFile,
    ending: &str,
    out: Option<PathBuf>,
    make: impl FnOnce() -> Result<Vec<u8>>,
) -> Result<PathBuf> {
    let out = out.unwrap_or_else(|| pipeline.artifacts().join(FOLDER).join(format!("{}{ending}", file.name())));
    pipeline.require_apart(&out)?;
    if out.symlink_metadata().is_ok() {
        let expected = "a name that is not taken; move it away, or name another file with --out";
        return Err(Error::format(&out, "a file or a folder that stands already", expected));
    }
    let bytes = make()?;
    if let Some(parent) = out.parent() {
        files::create_dir(parent)?;
    }
    files::write_among_users(&out, &bytes)?;
    Ok(out)
}

/// The names of the splits that `given` selects, in the order train, val, test.
fn chosen(given: &[String]) -> Result<Vec<&'static str>> {
    if let Some(unknown) = given.iter().find(|name| !split::NAMES.contains(&name.as_str())) {
        return Err(Error::value("--splits", unknown, format!("one or more of {}", split::NAMES.join(", "))));
    }
    let is_chosen = |name: &&'static str| given.is_empty() || given.iter().any(|given| given == name);
    Ok(split::NAMES.into_iter().filter(is_chosen).collect())
}

/// An export under way.
struct Job<'a> {
    /// The names of the splits and their shards.
    splits: &'a [(&'static str, Shards)],
    /// The folder under construction.
    out: &'a Path,
    progress: &'a Progress<'a>,
}

impl Job<'_> {
    /// Calls `read` with the position of each row group of a split, several at a time, and passes the results to `take` in
    /// order.
    fn in_order<T: Send>(
        &self,
        shards: &Shards,
        read: impl Fn((usize, usize)) -> Result<T> + Sync,
        mut take: impl FnMut(T) -> Result<()>,
    ) -> Result<()> {
        let groups: Vec<_> = shards.positions().zip(shards.groups().concat()).collect();
        for wave in groups.chunks(2 * rayon::current_num_threads()) {
            let results: Vec<T> = wave.par_iter().map(|(position, _)| read(*position)).collect::<Result<_>>()?;
            results.into_iter().try_for_each(&mut take)?;
            self.progress.advance(wave.iter().map(|(_, rows)| *rows as u64).sum())?;
        }
        Ok(())
    }
}

/// A row group with the PNG files of its images.
struct Group {
    samples: Samples,
    pngs: Vec<Vec<u8>>,
    digits: usize,
}

/// A sample of a row group.
struct Sample<'a> {
    label: i64,
    /// The number of the sample in its class.
    index: i64,
    /// The name of the class: the digits that the label spells.
    class: String,
    digits: &'a [i64],
    sources: &'a [i64],
    /// The box around each digit's ink: x, y, width and height in pixels.
    boxes: Vec<[i64; 4]>,
    png: &'a [u8],
}

impl Group {
    /// Reads a row group of shards.
    fn read(shards: &Shards, position: (usize, usize)) -> Result<Group> {
        let (samples, pngs) = shards.read_encoded(position)?;
        Ok(Group { samples, pngs, digits: shards.layout().digits })
    }

    /// The samples in order.
    fn iter(&self) -> impl Iterator<Item = Sample<'_>> {
        let Samples { labels, index, digits, sources, boxes, .. } = &self.samples;
        let mut boxes = boxes.as_chunks().0.chunks(self.digits);
        let lists = digits.chunks(self.digits).zip(sources.chunks(self.digits));
        labels.iter().zip(index).zip(lists).zip(&self.pngs).map(move |(((label, index), (digits, sources)), png)| {
            Sample {
                label: *label,
                index: *index,
                class: labels::class_name(*label, self.digits),
                digits,
                sources,
                boxes: boxes.next().unwrap_or_default().to_vec(),
                png,
            }
        })
    }
}

impl Sample<'_> {
    /// The name of the sample in its split, as the reference generator forms it: the index and the class.
    fn name(&self) -> String {
        format!("{}_{}", self.index, self.class)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn splits_are_chosen_by_name_in_their_own_order() {
        let of = |names: &[&str]| chosen(&names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>());
        assert_eq!(of(&[]).unwrap(), ["train", "val", "test"]);
        assert_eq!(of(&["test", "train", "test"]).unwrap(), ["train", "test"]);
        let message = "`--splits`: found dev; expected one or more of train, val, test";
        assert_eq!(of(&["val", "dev"]).unwrap_err().to_string(), message);
    }
}
