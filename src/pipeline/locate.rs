//! The row that differs: where the content of a stage is not what its record says, its inputs tell which row of which
//! file is not what they give.
//!
//! Nothing is decided here. The plan is composed again from its settings, images are rendered again from the plan, and
//! augmented again from the data set, as far as those stand.

use super::{Pipeline, Record, Stage};
use crate::augment::{self, Augmenter};
use crate::dataset::render;
use crate::error::Result;
use crate::plan::rows::Rows;
use crate::plan::{self, split, table};
use crate::progress::Progress;
use crate::raw::{self, Glyphs};
use crate::shards::{DATA, Samples, Shards};
use crate::tables::Table;

impl Pipeline {
    /// The first row of a stage's tables that is not what its inputs give, in words. None where they all are, where the
    /// stage has no rows, and where an input does not stand, or is not the one that was recorded.
    pub(super) fn first_difference(&self, stage: Stage, record: &Record) -> Result<Option<String>> {
        let is_input = |stage: Stage| -> Result<bool> {
            let input = self.record(stage)?.map(|input| input.content);
            Ok(input.is_some() && input.as_ref() == record.key.inputs.get(stage.name()))
        };
        match stage {
            Stage::Plan if is_input(Stage::Raw)? => self.of_plan(),
            Stage::Dataset if is_input(Stage::Raw)? && is_input(Stage::Plan)? => self.of_dataset(),
            Stage::Augment if is_input(Stage::Dataset)? => self.of_augment(record),
            _ => Ok(None),
        }
    }

    fn of_plan(&self) -> Result<Option<String>> {
        let path = self.folder(Stage::Plan).join(plan::FILE);
        let labels = raw::Glyphs::read_labels(&raw::locate(&self.config.raw, &self.raw)?)?;
        let settings = table::facts(&Table::open(&path)?)?.plan;
        let plan = plan::compose::compose(&settings, &labels, &Progress::silent())?;
        let mut before = 0;
        for (name, expected) in split::NAMES.into_iter().zip(&plan) {
            let mut reader = table::Reader::open(&path, name)?;
            let found = reader.take(reader.len() as usize)?;
            let is_other = |row: &usize| columns(&found, *row) != columns(expected, *row);
            if let Some(row) = (0..found.len().min(expected.len())).find(is_other) {
                return Ok(Some(format!("`{}`: row {} is not what its settings give", path.display(), before + row)));
            }
            before += found.len();
        }
        Ok(None)
    }

    fn of_dataset(&self) -> Result<Option<String>> {
        let (data, plan) = (self.folder(Stage::Dataset).join(DATA), self.folder(Stage::Plan).join(plan::FILE));
        let facts = table::facts(&Table::open(&plan)?)?;
        let glyphs = Glyphs::read(&raw::locate(&self.config.raw, &self.raw)?)?;
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

    fn of_augment(&self, record: &Record) -> Result<Option<String>> {
        let Some(config) = record.settings_of(Stage::Augment) else { return Ok(None) };
        let dataset = Shards::open(&self.folder(Stage::Dataset).join(DATA), "train")?;
        for epoch in 0.. {
            let data = self.folder(Stage::Augment).join(augment::epoch_folder(epoch)).join(DATA);
            if !data.is_dir() {
                break;
            }
            let augmenter = Augmenter::new(&config, epoch);
            let mut positions = dataset.positions();
            let size = (dataset.layout().height, dataset.layout().width);
            let augment = |_: usize| match positions.next() {
                Some(position) => Ok(augmenter.augment(dataset.read(position)?, size)),
                None => Ok(Samples::default()),
            };
            let difference = compare(&Shards::open(&data, "train")?, "the data set", dataset.rows(), augment)?;
            if difference.is_some() {
                return Ok(difference);
            }
        }
        Ok(None)
    }
}

/// The values of a row of a plan.
fn columns(rows: &Rows, row: usize) -> impl PartialEq {
    let cells = row * rows.digits..(row + 1) * rows.digits;
    let places = [rows.y.get(cells.clone()), rows.x.get(cells.clone())].map(|cells| cells.map(<[_]>::to_vec));
    let sources = rows.sources.get(cells).map(<[_]>::to_vec);
    (rows.labels.get(row).copied(), rows.index.get(row).copied(), sources, places)
}

/// The first row of a split that is not what is expected. `next` gives the samples of the next row group, which holds so
/// many rows, as far as there are any; `rows` are expected in all.
fn compare(
    shards: &Shards,
    of: &str,
    rows: u64,
    mut next: impl FnMut(usize) -> Result<Samples>,
) -> Result<Option<String>> {
    let digits = shards.layout().digits;
    for (position, path, before) in shards.places() {
        let found = shards.read(position)?;
        let expected = next(found.labels.len())?;
        for row in 0..found.labels.len().min(expected.labels.len()) {
            if let Some(column) = column_that_differs(&found, &expected, digits, row) {
                let (path, row) = (path.display(), before + row);
                return Ok(Some(format!("`{path}`: row {row} has another {column} than {of} gives")));
            }
        }
    }
    let (path, found) = (shards.first().path().display(), shards.rows());
    Ok((found != rows).then(|| format!("`{path}`: {found} rows in all shards of this split; {of} gives {rows}")))
}

/// The column in which a row differs.
fn column_that_differs(a: &Samples, b: &Samples, digits: usize, row: usize) -> Option<&'static str> {
    let area = a.images.len() / a.labels.len();
    let cells = row * digits..(row + 1) * digits;
    let boxes = |samples: &Samples| samples.boxes.as_ref()?.get(4 * cells.start..4 * cells.end).map(<[_]>::to_vec);
    let parameters = |samples: &Samples| {
        let mut bytes = Vec::new();
        samples.parameters.as_ref().inspect(|parameters| parameters.put_bytes(row, &mut bytes));
        bytes
    };
    let image = |samples: &Samples| samples.images.get(row * area..(row + 1) * area).map(<[u8]>::to_vec);
    let columns = [
        ("label", a.labels.get(row) == b.labels.get(row)),
        ("index", a.index.get(row) == b.index.get(row)),
        ("digits", a.digits.get(cells.clone()) == b.digits.get(cells.clone())),
        ("source_index", a.sources.get(cells.clone()) == b.sources.get(cells.clone())),
        ("boxes", boxes(a) == boxes(b)),
        ("augmentation", parameters(a) == parameters(b)),
        ("image", image(a) == image(b)),
    ];
    columns.into_iter().find(|(_, is_same)| !is_same).map(|(name, _)| name)
}
