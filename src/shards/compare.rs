//! Compares shards with the samples that their inputs give, row by row.

use super::reader::Shards;
use super::writer::{Donors, Samples};
use crate::error::Result;

/// The first row of a split that differs from the row that its input gives, in words. `of` is the name of the input and
/// `rows` the number of its rows. `next` is called with the number of rows of each row group of the shards, and returns
/// the samples that the input gives for it.
pub fn compare(
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

/// The name of the first column in which two rows differ.
fn column_that_differs(a: &Samples, b: &Samples, digits: usize, row: usize) -> Option<&'static str> {
    let area = a.images.len() / a.labels.len();
    let cells = row * digits..(row + 1) * digits;
    let boxes = |samples: &Samples| samples.boxes.get(4 * cells.start..4 * cells.end).map(<[_]>::to_vec);
    let parameters = |samples: &Samples| {
        let mut bytes = Vec::new();
        samples.parameters.iter().for_each(|parameters| parameters.put_bytes(row, &mut bytes));
        bytes
    };
    let donors = |samples: &Samples| {
        let Donors { labels, index } = samples.donors.as_ref()?;
        Some([labels, index].map(|list| list.get(cells.clone()).map(<[_]>::to_vec)))
    };
    let image = |samples: &Samples| samples.images.get(row * area..(row + 1) * area).map(<[u8]>::to_vec);
    let columns = [
        ("label", a.labels.get(row) == b.labels.get(row)),
        ("index", a.index.get(row) == b.index.get(row)),
        ("digits", a.digits.get(cells.clone()) == b.digits.get(cells.clone())),
        ("source_index", a.sources.get(cells.clone()) == b.sources.get(cells.clone())),
        ("boxes", boxes(a) == boxes(b)),
        ("epoch", a.epochs.get(row) == b.epochs.get(row)),
        ("donor", donors(a) == donors(b)),
        ("augmentation", parameters(a) == parameters(b)),
        ("image", image(a) == image(b)),
    ];
    columns.into_iter().find(|(_, is_same)| !is_same).map(|(name, _)| name)
}
