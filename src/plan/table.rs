//! Writes `plan.parquet`, and reads it in pieces, so that reading a long plan takes little memory.
//!
//! The columns are `split`, a string; `label` and `index`, int64; and `digits`, `source_index`, `y` and `x`, lists of
//! int64. Rows are ordered by split (train, val, test), and no row group contains rows of two splits.

use std::fs::File;
use std::path::Path;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch, StringArray};
use arrow::datatypes::{DataType, Field, Schema};
use parquet::arrow::ArrowWriter;

use super::compose::Plan;
use super::facts::{Facts, KEY};
use super::rows::Rows;
use super::split;
use crate::digest::{Digest, Parts};
use crate::error::{Error, Result};
use crate::labels;
use crate::parquet_file::{Compression, ParquetFile, int_field, ints, list_field, lists, properties};

/// The number of rows per row group.
const ROW_GROUP: usize = 65_536;

/// Writes a whole plan. Returns the digest of its facts and rows.
#[expect(clippy::indexing_slicing, reason = "some rows of every column, by the number that there are in memory")]
pub fn write(path: &Path, facts: &Facts, plan: &Plan) -> Result<Digest> {
    let digits = facts.plan.digits;
    let schema = Arc::new(Schema::new(vec![
        Field::new("split", DataType::Utf8, true),
        int_field("label"),
        list_field("digits", digits),
        int_field("index"),
        list_field("source_index", digits),
        list_field("y", digits),
        list_field("x", digits),
    ]));
    let properties = properties(Compression::Zstd, &[(KEY, facts.text())]).set_max_row_group_row_count(None).build();
    let file = File::create(path).map_err(Error::io(path, "create it"))?;
    let mut writer = ArrowWriter::try_new(file, schema.clone(), Some(properties)).map_err(Error::write(path))?;
    let mut content = facts.digest();
    for (name, rows) in split::NAMES.iter().zip(plan) {
        for first in (0..rows.len()).step_by(ROW_GROUP) {
            let n = ROW_GROUP.min(rows.len() - first);
            let (own, cells) = (first..first + n, first * digits..(first + n) * digits);
            let spelled: Vec<u8> =
                rows.labels[own.clone()].iter().flat_map(|&label| labels::digits(label.into(), digits)).collect();
            let columns: Vec<ArrayRef> = vec![
                Arc::new(StringArray::from_iter_values(std::iter::repeat_n(name, n))),
                ints(&rows.labels[own.clone()]),
                lists(&spelled, digits),
                ints(&rows.index[own]),
                lists(&rows.sources[cells.clone()], digits),
                lists(&rows.y[cells.clone()], digits),
                lists(&rows.x[cells], digits),
            ];
            let batch = RecordBatch::try_new(schema.clone(), columns).map_err(Error::write(path))?;
            writer.write(&batch).and_then(|()| writer.flush()).map_err(Error::write(path))?;
        }
        digest(&mut content, name, rows);
    }
    writer.close().map_err(Error::write(path))?;
    Ok(content.finish())
}

/// The digest of the facts and rows of a plan in a file.
pub fn digest_of(path: &Path) -> Result<Digest> {
    let mut content = facts(&ParquetFile::open(path)?)?.digest();
    for name in split::NAMES {
        let mut reader = Reader::open(path, name)?;
        let rows = reader.take(reader.len() as usize)?;
        digest(&mut content, name, &rows);
    }
    Ok(content.finish())
}

fn digest(content: &mut Parts, name: &str, rows: &Rows) {
    content.bytes(name.as_bytes());
    for column in [&rows.labels, &rows.index, &rows.sources] {
        content.bytes(&column.iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<u8>>());
    }
    for column in [&rows.y, &rows.x] {
        content.bytes(&column.iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<u8>>());
    }
}

/// Reads the facts from the metadata of a Parquet file of this program: a plan or a shard.
///
/// # Errors
/// [`Error::Format`] if the metadata has no facts, or if they are not those of this version.
pub fn facts(file: &ParquetFile) -> Result<Facts> {
    let expected = format!("metadata `{KEY}` as this version writes it; make the file again");
    let text = file.value(KEY).ok_or_else(|| Error::format(file.path(), format!("no metadata `{KEY}`"), &expected))?;
    serde_json::from_str(text)
        .map_err(|e| Error::format(file.path(), format!("metadata `{KEY}` is not readable ({e})"), expected))
}

/// Reads the rows of one split of a plan in order.
pub struct Reader {
    file: ParquetFile,
    facts: Facts,
    split: &'static str,
    rows: u64,
    /// The number, in the file, of the next row to read.
    next: usize,
    batches: Box<dyn Iterator<Item = Result<RecordBatch>> + Send>,
    buffer: Rows,
}

impl Reader {
    /// Opens one split (`train`, `val` or `test`) of a plan.
    ///
    /// # Errors
    /// [`Error::Format`] if the facts are missing or invalid, or if they contradict the number of rows.
    pub fn open(path: &Path, split: &str) -> Result<Reader> {
        let file = ParquetFile::open(path)?;
        let facts = facts(&file)?;
        facts.plan.validate().map_err(|e| Error::format(path, e.to_string(), "a plan that this program wrote"))?;
        let position = split::NAMES.iter().position(|&name| name == split).unwrap_or(split::NAMES.len());
        let counts = facts.counts.as_array().map(|&n| n);
        if counts != facts.plan.counts() {
            let (found, expected) = (format!("counts {counts:?}"), format!("{:?}", facts.plan.counts()));
            return Err(Error::format(path, found, format!("{expected}, as its settings give")));
        }
        let (first, rows) = (counts.iter().take(position).sum::<u64>(), counts.get(position).copied().unwrap_or(0));
        let split = split::NAMES.get(position).copied().unwrap_or_default();
        // the row groups of this split follow from the counts
        let (mut groups, mut at) = (Vec::new(), 0);
        for (group, n) in file.row_groups().into_iter().enumerate() {
            if at >= first && at < first + rows {
                groups.push(group);
            }
            at += n as u64;
        }
        if at != counts.iter().sum::<u64>() {
            return Err(Error::format(path, format!("{at} rows"), format!("{} rows", counts.iter().sum::<u64>())));
        }
        let columns = ["split", "label", "digits", "index", "source_index", "y", "x"];
        let batches = Box::new(file.read(&columns, groups, ROW_GROUP)?);
        let buffer = Rows::new(facts.plan.digits);
        Ok(Reader { file, facts, split, rows, next: first as usize, batches, buffer })
    }

    /// The facts of the plan.
    pub fn facts(&self) -> &Facts {
        &self.facts
    }

    /// The number of rows of the split.
    pub fn len(&self) -> u64 {
        self.rows
    }

    /// Whether the split has no rows.
    pub fn is_empty(&self) -> bool {
        self.rows == 0
    }

    /// Returns the next `n` rows.
    ///
    /// # Errors
    /// [`Error::Format`] if fewer rows are left, or if a value is outside the range that the facts allow.
    pub fn take(&mut self, n: usize) -> Result<Rows> {
        while self.buffer.len() < n {
            match self.batches.next() {
                Some(batch) => {
                    let rows = decode(&self.file, &batch?, &self.facts, self.split, self.next)?;
                    self.next += rows.len();
                    self.buffer.append(rows);
                }
                None => {
                    let found = format!("{} rows where {n} are due", self.buffer.len());
                    return Err(Error::format(self.file.path(), found, "as many rows as its metadata says"));
                }
            }
        }
        Ok(self.buffer.take_front(n))
    }
}

/// Decodes a batch of rows of a split. Every value is checked against the range that the facts allow. `first` is the
/// number of the batch's first row in the file.
fn decode(file: &ParquetFile, batch: &RecordBatch, facts: &Facts, split: &str, first: usize) -> Result<Rows> {
    let plan = &facts.plan;
    let [height, width] = plan.image_size;
    let room = [height, width / plan.digits].map(|size| (size - crate::raw::SIDE) as i64);
    let refuse = |row: usize, found: String, expected: String| {
        Error::format(file.path(), format!("row {} has {found}", first + row), expected)
    };
    let small = |name: &str, values: Vec<i64>, length: usize, max: i64| -> Result<Vec<u32>> {
        match values.iter().enumerate().find(|(_, value)| !(0..=max).contains(*value)) {
            Some((at, value)) => Err(refuse(at / length, format!("{name} {value}"), format!("0 to {max}"))),
            None => Ok(values.into_iter().map(|value| value as u32).collect()),
        }
    };
    let cells = |name: &str, max: i64| -> Result<Vec<u32>> {
        let (values, length) = file.lists(batch, name)?;
        if length != plan.digits {
            let found = format!("column `{name}` has lists of {length}");
            return Err(Error::format(file.path(), found, format!("lists of {}", plan.digits)));
        }
        small(name, values, length, max)
    };
    let narrow = |values: Vec<u32>| values.into_iter().map(|value| value as u16).collect();
    let labels = small("label", file.ints(batch, "label")?, 1, plan.classes() as i64 - 1)?;
    for (row, (&label, digits)) in labels.iter().zip(cells("digits", 9)?.chunks_exact(plan.digits)).enumerate() {
        let expected: Vec<u32> = labels::digits(label.into(), plan.digits).map(u32::from).collect();
        if digits != expected {
            let expected = format!("digits {expected:?}, which spell the label");
            return Err(refuse(row, format!("label {label} and digits {digits:?}"), expected));
        }
    }
    let column = file.column(batch, "split")?;
    let splits = column.as_string_opt::<i32>().filter(|splits| splits.null_count() == 0);
    let splits = splits.ok_or_else(|| file.wrong("split", column, "strings without nulls"))?;
    if let Some((row, other)) = splits.iter().flatten().enumerate().find(|(_, name)| *name != split) {
        return Err(refuse(row, format!("split {other:?}"), format!("{split:?}, as the counts of the plan give")));
    }
    Ok(Rows {
        digits: plan.digits,
        labels,
        index: small("index", file.ints(batch, "index")?, 1, plan.samples_per_class as i64 - 1)?,
        sources: cells("source_index", facts.glyphs.count as i64 - 1)?,
        y: narrow(cells("y", room[0])?),
        x: narrow(cells("x", room[1])?),
    })
}

#[cfg(test)]
mod tests {
    use super::super::compose::compose;
    use super::super::{Config, facts};
    use super::*;
    use crate::progress::Progress;

    #[test]
    fn a_plan_reads_back_and_counts_that_its_settings_do_not_give_are_refused() {
        let labels: Vec<u8> = (0..100).map(|glyph| glyph % 10).collect();
        let config = Config { samples_per_class: 3, ..Config::default() };
        let plan = compose(&config, &labels, &Progress::silent()).unwrap();
        let glyphs = facts::GlyphSet { name: "toy".into(), digest: Digest::of(b""), count: labels.len() };
        let facts = Facts::new(&config, glyphs, &plan);
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("plan.parquet");
        let digest = write(&path, &facts, &plan).unwrap();
        assert_eq!(digest_of(&path).unwrap(), digest);
        assert_eq!(Reader::open(&path, "val").unwrap().take(48).unwrap(), plan[1]);

        let mut outside = plan.clone();
        outside[1].index[5] = 99;
        write(&path, &facts, &outside).unwrap();
        let message = Reader::open(&path, "val").unwrap().take(48).err().unwrap().to_string();
        assert_eq!(message, format!("`{}`: row 197 has index 99; expected 0 to 2", path.display()));

        let mut wrapping = facts;
        wrapping.counts.train = u64::MAX;
        write(&path, &wrapping, &plan).unwrap();
        let message = Reader::open(&path, "val").err().unwrap().to_string();
        let found = format!("counts [{}, 48, 60]; expected [192, 48, 60], as its settings give", u64::MAX);
        assert_eq!(message, format!("`{}`: {found}", path.display()));
    }
}
