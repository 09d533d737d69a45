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

use super::facts::{Facts, KEY};
use super::ordered::Ordered;
use super::rows::Rows;
use super::split;
use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::labels;
use crate::parquet_file::{Compression, ParquetFile, int_field, ints, list_field, lists, properties};

/// The number of rows per row group.
const ROW_GROUP: usize = 65_536;

/// The columns that the rows of a plan consist of.
const COLUMNS: [&str; 7] = ["split", "label", "digits", "index", "source_index", "y", "x"];

/// Writes the splits of a plan, a piece at a time. Returns the digest of its facts and rows.
#[expect(clippy::indexing_slicing, reason = "some rows of every column, by the number that there are in memory")]
pub fn write(path: &Path, facts: &Facts, splits: [Ordered; 3]) -> Result<Digest> {
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
    for (name, rows) in split::NAMES.iter().zip(splits) {
        for piece in rows.pieces() {
            let rows = piece?;
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
        }
    }
    writer.close().map_err(Error::write(path))?;
    digest_of(path)
}

/// The digest of the facts and rows of a plan in a file. It covers whole columns of a split, one after another, and each is
/// read on its own, so that memory does not grow with the number of rows.
///
/// # Errors
/// [`Error::Format`] if a row is not one that the facts allow.
pub fn digest_of(path: &Path) -> Result<Digest> {
    let mut content = facts(&ParquetFile::open(path)?)?.digest();
    for name in split::NAMES {
        content.bytes(name.as_bytes());
        let part = Part::open(path, name)?;
        let digits = part.facts.plan.digits as u64;
        // the columns that the digest does not cover are read and checked with the labels
        let columns: [(&[&str], u64, Values); 5] = [
            (&["split", "label", "digits"], 4, |batch| Ok(bytes(&batch.labels()?, u32::to_le_bytes))),
            (&["index"], 4, |batch| Ok(bytes(&batch.index()?, u32::to_le_bytes))),
            (&["source_index"], 4 * digits, |batch| Ok(bytes(&batch.sources()?, u32::to_le_bytes))),
            (&["y"], 2 * digits, |batch| Ok(bytes(&batch.offsets("y")?, u16::to_le_bytes))),
            (&["x"], 2 * digits, |batch| Ok(bytes(&batch.offsets("x")?, u16::to_le_bytes))),
        ];
        for (names, width, values) in columns {
            content.begin(part.rows * width);
            let mut next = part.first;
            for batch in part.file.read(names, part.groups.clone(), ROW_GROUP)? {
                let batch = batch?;
                content.piece(&values(&Batch { part: &part, batch: &batch, first: next })?);
                next += batch.num_rows();
            }
            part.require_rows(next - part.first, part.rows as usize)?;
        }
    }
    Ok(content.finish())
}

/// Reads the values of a column as bytes.
type Values = fn(&Batch) -> Result<Vec<u8>>;

fn bytes<T: Copy, const N: usize>(values: &[T], to_bytes: fn(T) -> [u8; N]) -> Vec<u8> {
    values.iter().flat_map(|&value| to_bytes(value)).collect()
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

/// The rows of one split in the file of a plan.
struct Part {
    file: ParquetFile,
    facts: Facts,
    split: &'static str,
    /// The row groups of the split.
    groups: Vec<usize>,
    /// The number, in the file, of the first row of the split.
    first: usize,
    /// The number of rows of the split.
    rows: u64,
}

impl Part {
    /// Opens one split (`train`, `val` or `test`) of a plan.
    ///
    /// # Errors
    /// [`Error::Format`] if the facts are missing or invalid, or if they contradict the number of rows.
    fn open(path: &Path, split: &str) -> Result<Part> {
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
        Ok(Part { file, facts, split, groups, first: first as usize, rows })
    }

    /// Fails if there are fewer rows than are due.
    fn require_rows(&self, found: usize, due: usize) -> Result<()> {
        match found < due {
            true => {
                let found = format!("{found} rows where {due} are due");
                Err(Error::format(self.file.path(), found, "as many rows as its metadata says"))
            }
            false => Ok(()),
        }
    }
}

/// Reads the rows of one split of a plan in order.
pub struct Reader {
    part: Part,
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
        let part = Part::open(path, split)?;
        Reader::new(part.first, part)
    }

    /// Like [`Reader::open`], but the next row is the one with the number `row` in the split. Row groups before it are not read.
    ///
    /// # Errors
    /// Those of [`Reader::open`] and of [`Reader::take`].
    pub fn open_at(path: &Path, split: &str, row: u64) -> Result<Reader> {
        let mut part = Part::open(path, split)?;
        let (sizes, mut skip) = (part.file.row_groups(), row as usize);
        let size = |group: &usize| sizes.get(*group).copied().unwrap_or(0);
        while let Some(rows) = part.groups.first().map(size).filter(|&rows| rows <= skip) {
            part.groups.remove(0);
            skip -= rows;
        }
        let mut reader = Reader::new(part.first + row as usize - skip, part)?;
        reader.take(skip)?;
        Ok(reader)
    }

    /// A reader of the row groups of a split, whose first row has the number `next` in the file.
    fn new(next: usize, part: Part) -> Result<Reader> {
        let batches = Box::new(part.file.read(&COLUMNS, part.groups.clone(), ROW_GROUP)?);
        let buffer = Rows::new(part.facts.plan.digits);
        Ok(Reader { next, part, batches, buffer })
    }

    /// The facts of the plan.
    pub fn facts(&self) -> &Facts {
        &self.part.facts
    }

    /// The number of rows of the split.
    pub fn len(&self) -> u64 {
        self.part.rows
    }

    /// Whether the split has no rows.
    pub fn is_empty(&self) -> bool {
        self.part.rows == 0
    }

    /// Returns the next `n` rows.
    ///
    /// # Errors
    /// [`Error::Format`] if fewer rows are left, or if a value is outside the range that the facts allow.
    pub fn take(&mut self, n: usize) -> Result<Rows> {
        while self.buffer.len() < n {
            let Some(batch) = self.batches.next() else { break };
            let rows = Batch { part: &self.part, batch: &batch?, first: self.next }.rows()?;
            self.next += rows.len();
            self.buffer.append(rows);
        }
        self.part.require_rows(self.buffer.len(), n)?;
        Ok(self.buffer.take_front(n))
    }
}

/// Some rows of a split. Every value is checked against the range that the facts allow.
struct Batch<'a> {
    part: &'a Part,
    batch: &'a RecordBatch,
    /// The number of the first row in the file.
    first: usize,
}

impl Batch<'_> {
    fn rows(&self) -> Result<Rows> {
        Ok(Rows {
            digits: self.part.facts.plan.digits,
            labels: self.labels()?,
            index: self.index()?,
            sources: self.sources()?,
            y: self.offsets("y")?,
            x: self.offsets("x")?,
        })
    }

    /// The labels. The columns `digits` and `split`, which say nothing new, are checked with them.
    fn labels(&self) -> Result<Vec<u32>> {
        let Part { file, facts: Facts { plan, .. }, split, .. } = self.part;
        let labels = self.values("label", file.ints(self.batch, "label")?, 1, plan.classes() as i64 - 1)?;
        for (row, (&label, digits)) in labels.iter().zip(self.cells("digits", 9)?.chunks_exact(plan.digits)).enumerate()
        {
            let expected: Vec<u32> = labels::digits(label.into(), plan.digits).map(u32::from).collect();
            if digits != expected {
                let expected = format!("digits {expected:?}, which spell the label");
                return Err(self.refuse(row, format!("label {label} and digits {digits:?}"), expected));
            }
        }
        let column = file.column(self.batch, "split")?;
        let splits = column.as_string_opt::<i32>().filter(|splits| splits.null_count() == 0);
        let splits = splits.ok_or_else(|| file.wrong("split", column, "strings without nulls"))?;
        if let Some((row, other)) = splits.iter().flatten().enumerate().find(|(_, name)| name != split) {
            let expected = format!("{split:?}, as the counts of the plan give");
            return Err(self.refuse(row, format!("split {other:?}"), expected));
        }
        Ok(labels)
    }

    fn index(&self) -> Result<Vec<u32>> {
        let Part { file, facts, .. } = self.part;
        self.values("index", file.ints(self.batch, "index")?, 1, facts.plan.samples_per_class as i64 - 1)
    }

    fn sources(&self) -> Result<Vec<u32>> {
        self.cells("source_index", self.part.facts.glyphs.count as i64 - 1)
    }

    /// The offsets in the column `y` or `x`.
    fn offsets(&self, name: &str) -> Result<Vec<u16>> {
        let plan = &self.part.facts.plan;
        let [height, width] = plan.image_size;
        let side = if name == "y" { height } else { width / plan.digits };
        let offsets = self.cells(name, (side - crate::raw::SIDE) as i64)?;
        Ok(offsets.into_iter().map(|offset| offset as u16).collect())
    }

    /// A column of lists with an integer from 0 to `max` for each digit.
    fn cells(&self, name: &str, max: i64) -> Result<Vec<u32>> {
        let Part { file, facts: Facts { plan, .. }, .. } = self.part;
        let (values, length) = file.lists(self.batch, name)?;
        if length != plan.digits {
            let found = format!("column `{name}` has lists of {length}");
            return Err(Error::format(file.path(), found, format!("lists of {}", plan.digits)));
        }
        self.values(name, values, length, max)
    }

    /// The values of a column, `length` for each row, which have to be from 0 to `max`.
    fn values(&self, name: &str, values: Vec<i64>, length: usize, max: i64) -> Result<Vec<u32>> {
        match values.iter().enumerate().find(|(_, value)| !(0..=max).contains(*value)) {
            Some((at, value)) => Err(self.refuse(at / length, format!("{name} {value}"), format!("0 to {max}"))),
            None => Ok(values.into_iter().map(|value| value as u32).collect()),
        }
    }

    fn refuse(&self, row: usize, found: String, expected: String) -> Error {
        Error::format(self.part.file.path(), format!("row {} has {found}", self.first + row), expected)
    }
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
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("plan.parquet");
        let composed = || compose(&config, &labels, home.path(), &Progress::silent()).unwrap();
        let glyphs = facts::GlyphSet { name: "toy".into(), digest: Digest::of(b""), count: labels.len() };
        let plan = composed();
        let facts = Facts::new(&config, glyphs, &plan);
        let digest = write(&path, &facts, plan.splits).unwrap();
        assert_eq!(digest_of(&path).unwrap(), digest);
        let rows = composed().splits.map(|split| split.pieces().next().unwrap().unwrap());
        assert_eq!(Reader::open(&path, "val").unwrap().take(48).unwrap(), rows[1]);
        let mut val = Reader::open(&path, "val").unwrap();
        val.take(40).unwrap();
        let message = val.take(9).err().unwrap().to_string();
        assert_eq!(
            message,
            format!("`{}`: 8 rows where 9 are due; expected as many rows as its metadata says", path.display())
        );

        let mut outside = rows.clone();
        outside[1].index[5] = 99;
        let message = write(&path, &facts, outside.map(|rows| Ordered::of(&rows))).unwrap_err().to_string();
        let expected = format!("`{}`: row 197 has index 99; expected 0 to 2", path.display());
        assert_eq!(message, expected);
        assert_eq!(Reader::open(&path, "val").unwrap().take(48).unwrap_err().to_string(), expected);

        let mut wrapping = facts;
        wrapping.counts.train = u64::MAX;
        let message = write(&path, &wrapping, composed().splits).unwrap_err().to_string();
        let found = format!("counts [{}, 48, 60]; expected [192, 48, 60], as its settings give", u64::MAX);
        assert_eq!(message, format!("`{}`: {found}", path.display()));
    }
}
