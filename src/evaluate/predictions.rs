//! `predictions.parquet`: what the network said of each image, beside what is right.

use std::path::Path;
use std::sync::Arc;

use arrow::array::{ArrayRef, BooleanArray, FixedSizeListArray, Int64Array, RecordBatch, StringArray};
use arrow::datatypes::{DataType, Field};
use parquet::arrow::ArrowWriter;
use parquet::basic::{Compression, ZstdLevel};
use parquet::file::properties::WriterProperties;

use crate::error::{Error, Result};
use crate::files;
use crate::shards::Split;

/// Rows in a row group.
const GROUP_ROWS: usize = 1 << 16;

/// Writes the predictions of the first images of each split; `table` holds (name, split, digits found).
pub fn write(path: &Path, table: &[(&str, &Split, Vec<u8>)]) -> Result<()> {
    let properties = WriterProperties::builder()
        .set_compression(Compression::ZSTD(ZstdLevel::try_new(1).map_err(Error::parquet(path))?))
        .set_created_by("multidigit version 1".to_owned())
        .set_max_row_group_row_count(Some(GROUP_ROWS))
        .build();
    let mut batches = Vec::new();
    for (name, split, predicted) in table {
        batches.push(batch(name, split, predicted).map_err(Error::parquet(path))?);
    }
    let Some(first) = batches.first() else {
        return Err(Error::format(path, "no split to write", "at least one"));
    };
    let writer = ArrowWriter::try_new(Vec::new(), first.schema(), Some(properties));
    let mut writer = writer.map_err(Error::parquet(path))?;
    for batch in &batches {
        writer.write(batch).map_err(Error::parquet(path))?;
    }
    files::write(path, &writer.into_inner().map_err(Error::parquet(path))?)
}

fn batch(name: &str, split: &Split, predicted: &[u8]) -> Result<RecordBatch, arrow::error::ArrowError> {
    let rows = predicted.len() / split.digits;
    let images = || predicted.chunks_exact(split.digits);
    let digits = Int64Array::from_iter_values(predicted.iter().map(|digit| i64::from(*digit)));
    let item = Arc::new(Field::new("item", DataType::Int64, true));
    let predicted = FixedSizeListArray::try_new(item, split.digits as i32, Arc::new(digits), None)?;
    // the digits read as one number, as a class is: so many digits that they overflow are no class either
    let label = |digits: &[u8]| digits.iter().fold(0i64, |n, d| n.wrapping_mul(10).wrapping_add(i64::from(*d)));
    let correct = images().zip(split.targets.chunks_exact(split.digits)).map(|(found, right)| Some(found == right));
    let columns: [(&str, ArrayRef); 6] = [
        ("index", Arc::new(Int64Array::from_iter_values(split.index.iter().take(rows).copied()))),
        ("split", Arc::new(StringArray::from_iter_values(std::iter::repeat_n(name, rows)))),
        ("label", Arc::new(Int64Array::from_iter_values(split.labels.iter().take(rows).copied()))),
        ("predicted", Arc::new(predicted)),
        ("predicted_label", Arc::new(Int64Array::from_iter_values(images().map(label)))),
        ("correct", Arc::new(correct.collect::<BooleanArray>())),
    ];
    RecordBatch::try_from_iter_with_nullable(columns.map(|(name, column)| (name, column, true)))
}
