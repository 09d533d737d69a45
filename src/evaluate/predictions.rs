//! `predictions.parquet`: the prediction of the network for each image, beside the right answer.
//!
//! Columns: `index` int64, `split` string, `label` int64, `digits` and `predicted` int64 lists, `predicted_label`
//! int64, `probabilities` lists of ten doubles per position, `probability` double (of the whole answer), `correct`
//! boolean. The rows are in the order of the shards. All other numbers of the stage can be computed from this file.

use std::path::Path;
use std::sync::Arc;

use arrow::array::{ArrayRef, BooleanArray, FixedSizeListArray, Float64Array, RecordBatch, StringArray};
use arrow::datatypes::DataType;
use parquet::arrow::ArrowWriter;

use super::forward::Predictions;
use crate::error::{Error, Result};
use crate::files;
use crate::labels::wrapping_label;
use crate::networks::CLASSES;
use crate::parquet_file::{Compression, ints, item, lists, properties};
use crate::shards::Split;

/// The maximum number of rows in a row group.
const GROUP_ROWS: usize = 1 << 16;

/// Writes the predictions for the first images of each split. `splits` holds the name, the images and the
/// predictions of each split.
pub fn write(path: &Path, splits: &[(&str, &Split, Predictions)]) -> Result<()> {
    let properties = properties(Compression::Zstd, &[]).set_max_row_group_row_count(Some(GROUP_ROWS)).build();
    let mut batches = Vec::new();
    for (name, split, predictions) in splits {
        batches.push(batch(name, split, predictions).map_err(Error::parquet(path))?);
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

fn batch(name: &str, split: &Split, predictions: &Predictions) -> Result<RecordBatch, arrow::error::ArrowError> {
    let (rows, digits) = (predictions.len(), predictions.digits);
    // no network has so many digits that their label overflows
    let predicted_labels: Vec<i64> =
        (0..rows).map(|row| wrapping_label(predictions.predicted(row).iter().copied())).collect();
    let heads = FixedSizeListArray::try_new(
        item(DataType::Float64),
        CLASSES as i32,
        Arc::new(Float64Array::from(predictions.probabilities.clone())),
        None,
    )?;
    let probabilities = FixedSizeListArray::try_new(item(heads_type(&heads)), digits as i32, Arc::new(heads), None)?;
    let joint = (0..rows).map(|row| predictions.joint(row, predictions.predicted(row)));
    let correct: BooleanArray = (0..rows).map(|row| Some(predictions.is_correct(row))).collect();
    let columns: [(&str, ArrayRef); 9] = [
        ("index", ints(split.index.get(..rows).unwrap_or_default())),
        ("split", Arc::new(StringArray::from_iter_values(std::iter::repeat_n(name, rows)))),
        ("label", ints(split.labels.get(..rows).unwrap_or_default())),
        ("digits", lists(&predictions.targets, digits)),
        ("predicted", lists(&predictions.predicted, digits)),
        ("predicted_label", ints(&predicted_labels)),
        ("probabilities", Arc::new(probabilities)),
        ("probability", Arc::new(Float64Array::from_iter_values(joint))),
        ("correct", Arc::new(correct)),
    ];
    RecordBatch::try_from_iter_with_nullable(columns.map(|(name, column)| (name, column, true)))
}

fn heads_type(heads: &FixedSizeListArray) -> DataType {
    use arrow::array::Array;
    heads.data_type().clone()
}
