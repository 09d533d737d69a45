//! Parquet code shared by all tables of this program: writer settings, integer columns, and readers of columns whose
//! errors name the file, the column, what was found and what was expected.
//!
//! All fields are nullable and all integers are `int64`, forms that every Parquet reader supports.

mod bounds;
mod thrift;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, FixedSizeListArray, Int64Array, RecordBatch};
use arrow::compute::{CastOptions, cast_with_options};
use arrow::datatypes::{DataType, Field, FieldRef, Int64Type};
use arrow::error::ArrowError;
use parquet::arrow::arrow_reader::{ArrowReaderMetadata, ArrowReaderOptions, ParquetRecordBatchReaderBuilder};
use parquet::arrow::{ARROW_SCHEMA_META_KEY, ProjectionMask};
use parquet::basic::{self, ZstdLevel};
use parquet::file::metadata::KeyValue;
use parquet::file::properties::{WriterProperties, WriterPropertiesBuilder};
use serde::{Deserialize, Serialize};

pub use self::bounds::LISTS;
use crate::error::{Error, Result};
use crate::files;
use crate::guard::guarded;

/// The writer's name in the files of this program. It names the format, not the crate's version, so that an upgrade
/// does not change the bytes of a file.
pub const CREATED_BY: &str = "multidigit version 1";

/// The metadata key under which plans and shards store the facts of the plan.
pub const FACTS: &str = "multidigit";

/// How Parquet pages are compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Compression {
    /// Zstandard, level 1.
    Zstd,
    /// Snappy: faster, with larger files.
    Snappy,
    /// No compression.
    Uncompressed,
}

/// Writer settings: the writer's name, the compression, and metadata as (key, value).
pub fn properties(compression: Compression, metadata: &[(&str, String)]) -> WriterPropertiesBuilder {
    let pairs = metadata.iter().map(|(key, value)| KeyValue::new((*key).to_owned(), value.clone())).collect();
    WriterProperties::builder()
        .set_created_by(CREATED_BY.to_owned())
        .set_compression(match compression {
            Compression::Zstd => basic::Compression::ZSTD(ZstdLevel::default()),
            Compression::Snappy => basic::Compression::SNAPPY,
            Compression::Uncompressed => basic::Compression::UNCOMPRESSED,
        })
        .set_key_value_metadata(Some(pairs))
}

/// A column of integers.
pub fn int_field(name: &str) -> Field {
    Field::new(name, DataType::Int64, true)
}

/// A column of integer lists of equal length.
pub fn list_field(name: &str, length: usize) -> Field {
    Field::new(name, list_type(length), true)
}

fn list_type(length: usize) -> DataType {
    DataType::FixedSizeList(item(DataType::Int64), length as i32)
}

/// The element of a list, under the name that Arrow uses.
pub fn item(data_type: DataType) -> FieldRef {
    Arc::new(Field::new("item", data_type, true))
}

/// Values for an [`int_field`].
pub fn ints<T: Into<i64> + Copy>(values: &[T]) -> ArrayRef {
    Arc::new(Int64Array::from_iter_values(values.iter().map(|&value| value.into())))
}

/// Values for a [`list_field`], row by row.
pub fn lists<T: Into<i64> + Copy>(values: &[T], length: usize) -> ArrayRef {
    Arc::new(FixedSizeListArray::new(item(DataType::Int64), length as i32, ints(values), None))
}

/// Checks that the arrays of a batch match their types. The library assumes without a check that the text of some
/// columns, such as JSON, is UTF-8.
fn checked(batch: Result<RecordBatch, ArrowError>) -> Result<RecordBatch, ArrowError> {
    let batch = batch?;
    batch.columns().iter().try_for_each(|column| column.to_data().validate_full())?;
    Ok(batch)
}

/// Reserves memory for the content of a file. A failure is an error and does not abort the program.
///
/// # Errors
/// [`Error::Format`] if there is not enough memory.
pub fn make_room<T>(path: &Path, items: &mut Vec<T>, count: usize, width: usize) -> Result<()> {
    let more = count.checked_mul(width);
    more.and_then(|more| items.try_reserve(more).ok()).ok_or_else(|| {
        Error::format(path, format!("{count} rows, which do not fit into the memory"), "fewer rows, or more memory")
    })
}

/// The column cast to another type; `None` if it already has that type, or if a value does not fit.
pub fn widened(column: &ArrayRef, to: &DataType) -> Option<ArrayRef> {
    let options = CastOptions { safe: false, ..CastOptions::default() };
    if column.data_type() == to { None } else { cast_with_options(column, to, &options).ok() }
}

/// An open Parquet file. Its footer is read once.
#[derive(Clone)]
pub struct ParquetFile {
    path: PathBuf,
    metadata: ArrowReaderMetadata,
}

impl ParquetFile {
    /// Opens a file and reads its footer.
    pub fn open(path: &Path) -> Result<ParquetFile> {
        let file = files::open(path)?;
        bounds::check_footer(path, &file)?;
        let load = || ArrowReaderMetadata::load(&file, ArrowReaderOptions::default());
        let metadata = guarded(path, load)?.map_err(Error::parquet(path))?;
        Ok(ParquetFile { path: path.to_owned(), metadata })
    }

    /// The path of the file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The metadata of the file: schema, row groups, key-value pairs.
    pub fn metadata(&self) -> &ArrowReaderMetadata {
        &self.metadata
    }

    /// The number of rows in the file.
    pub fn rows(&self) -> u64 {
        self.metadata.metadata().file_metadata().num_rows().max(0) as u64
    }

    /// The number of rows of each row group.
    pub fn row_groups(&self) -> Vec<usize> {
        self.metadata.metadata().row_groups().iter().map(|group| group.num_rows().max(0) as usize).collect()
    }

    /// The value of a metadata key.
    pub fn value(&self, key: &str) -> Option<&str> {
        let pairs = self.metadata.metadata().file_metadata().key_value_metadata()?;
        pairs.iter().find(|pair| pair.key == key)?.value.as_deref()
    }

    /// The metadata as (key, value), without the schema that Arrow stores there.
    pub fn pairs(&self) -> impl Iterator<Item = (&str, Option<&str>)> {
        let pairs = self.metadata.metadata().file_metadata().key_value_metadata().into_iter().flatten();
        pairs.map(|pair| (pair.key.as_str(), pair.value.as_deref())).filter(|(key, _)| *key != ARROW_SCHEMA_META_KEY)
    }

    /// Whether the file has a column of this name.
    pub fn has(&self, column: &str) -> bool {
        self.metadata.schema().column_with_name(column).is_some()
    }

    /// Reads columns of row groups in batches of at most `batch` rows, or fewer if more rows might exceed a fixed
    /// amount of memory.
    pub fn read(
        &self,
        columns: &[&str],
        row_groups: Vec<usize>,
        batch: usize,
    ) -> Result<impl Iterator<Item = Result<RecordBatch>> + use<>> {
        if let Some(missing) = columns.iter().find(|column| !self.has(column)) {
            let expected = format!("the columns {}", columns.join(", "));
            return Err(Error::format(&self.path, format!("no column `{missing}`"), expected));
        }
        let path = self.path.clone();
        let file = files::open(&path)?;
        // columns are selected by position, since a dot in a name would be read as a path
        let fields = self.metadata.schema().fields().iter();
        let wanted = fields.enumerate().filter(|(_, field)| columns.contains(&field.name().as_str()));
        let schema = self.metadata.parquet_schema();
        let mask = ProjectionMask::roots(schema, wanted.map(|(position, _)| position));
        let leaves: Vec<usize> = (0..schema.num_columns()).filter(|&leaf| mask.leaf_included(leaf)).collect();
        let batch = batch.min(bounds::rows_at_a_time(&path, &self.metadata, &leaves, &row_groups)?);
        let build = || {
            let builder = ParquetRecordBatchReaderBuilder::new_with_metadata(file, self.metadata.clone());
            builder.with_projection(mask).with_row_groups(row_groups).with_batch_size(batch).build()
        };
        let mut reader = guarded(&path, build)?.map_err(Error::parquet(&path))?;
        let mut is_sound = true;
        Ok(std::iter::from_fn(move || {
            // a reader cannot be used after an error
            let next = is_sound.then(|| guarded(&path, || reader.next().map(checked)).transpose())??;
            let batch = next.and_then(|batch| batch.map_err(Error::parquet(&path)));
            is_sound = batch.is_ok();
            Some(batch)
        }))
    }

    /// The integers of a column without nulls, whatever their width.
    pub fn ints(&self, batch: &RecordBatch, name: &str) -> Result<Vec<i64>> {
        let column = self.column(batch, name)?;
        let wide = if column.data_type().is_integer() { widened(column, &DataType::Int64) } else { None };
        let values = wide.as_ref().unwrap_or(column).as_primitive_opt::<Int64Type>();
        match values.filter(|values| values.null_count() == 0) {
            Some(values) => Ok(values.values().to_vec()),
            None => Err(self.wrong(name, column, "int64 without nulls")),
        }
    }

    /// The integers of a column of lists without nulls, row by row, and the length of the lists. Any Arrow list type is
    /// accepted if all lists have the same length.
    pub fn lists(&self, batch: &RecordBatch, name: &str) -> Result<(Vec<i64>, usize)> {
        let column = self.column(batch, name)?;
        let refuse = || self.wrong(name, column, "lists of int64 of one length, without nulls");
        let small = match column.data_type() {
            DataType::LargeList(_) => widened(column, &DataType::List(item(DataType::Int64))),
            _ => None,
        };
        let column = small.as_ref().unwrap_or(column);
        let (values, length) = if let Some(list) = column.as_fixed_size_list_opt() {
            let length = list.value_length() as usize;
            (list.values().slice(list.value_offset_at(0), list.len() * length), length)
        } else if let Some(list) = column.as_list_opt::<i32>() {
            let length = if list.is_empty() { 0 } else { list.value_length(0) as usize };
            if (0..list.len()).any(|row| list.value_length(row) as usize != length) {
                return Err(refuse());
            }
            let first = list.value_offsets().first().copied().unwrap_or(0) as usize;
            (list.values().slice(first, list.len() * length), length)
        } else {
            return Err(refuse());
        };
        let wide = if values.data_type().is_integer() { widened(&values, &DataType::Int64) } else { None };
        match wide.as_ref().unwrap_or(&values).as_primitive_opt::<Int64Type>() {
            Some(ints) if ints.null_count() == 0 && column.null_count() == 0 => Ok((ints.values().to_vec(), length)),
            _ => Err(refuse()),
        }
    }

    /// The column of this name.
    pub fn column<'a>(&self, batch: &'a RecordBatch, name: &str) -> Result<&'a ArrayRef> {
        batch
            .column_by_name(name)
            .ok_or_else(|| Error::format(&self.path, format!("no column `{name}`"), format!("a column `{name}`")))
    }

    /// The error for a column of an unexpected type.
    pub fn wrong(&self, name: &str, column: &ArrayRef, expected: &str) -> Error {
        let found = format!("column `{name}` is {} with {} nulls", column.data_type(), column.null_count());
        Error::format(&self.path, found, expected)
    }
}
