//! The columns of an augmented shard that hold the augmentation parameters of each sample, so that other programs can
//! replay the augmentation.
//!
//! There is one set of columns if whole images were augmented, and one for each slot otherwise. A value is null if its
//! operator is off or was not drawn for the sample. How parameters are drawn and applied is not part of this module.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, FixedSizeListArray, Float64Array, PrimitiveArray, RecordBatch};
use arrow::buffer::NullBuffer;
use arrow::datatypes::{ArrowPrimitiveType, DataType, Field, Float64Type, Int64Type};
use serde_json::{Value, json};

use crate::error::Result;
use crate::parquet_file::{ParquetFile, item, list_field};

/// The names of the columns of the parameters of whole images, in order.
const NAMES: [&str; 5] = ["angle", "translate", "scale", "shear", "erased"];

/// The names of the columns of one of `sets` sets of columns, in order. A file has all of them if it has the first. A slot
/// is numbered from 0, from the left.
pub fn names(set: usize, sets: usize) -> [String; 5] {
    NAMES.map(|name| if sets == 1 { name.to_owned() } else { format!("{name}_{set}") })
}

/// The parameters of the samples of one row group. Each column has one value per sample.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Parameters {
    /// Rotation in degrees, counter-clockwise.
    pub angle: Vec<Option<f64>>,
    /// Shift along x and y in pixels.
    pub translate: Vec<Option<[i64; 2]>>,
    /// Magnification.
    pub scale: Vec<Option<f64>>,
    /// Shear along x and y in degrees.
    pub shear: Vec<Option<[f64; 2]>>,
    /// The erased rectangle: x, y, width, height in pixels.
    pub erased: Vec<Option<[i64; 4]>>,
}

/// The Arrow fields of the columns of a set.
pub fn fields(set: usize, sets: usize) -> [Field; 5] {
    let pair = DataType::FixedSizeList(item(DataType::Float64), 2);
    let [angle, translate, scale, shear, erased] = names(set, sets);
    [
        Field::new(angle, DataType::Float64, true),
        list_field(&translate, 2),
        Field::new(scale, DataType::Float64, true),
        Field::new(shear, pair, true),
        list_field(&erased, 4),
    ]
}

/// The features of `datasets` for each column of a set.
pub fn features(set: usize, sets: usize) -> [(String, Value); 5] {
    let value = |dtype: &str| json!({"dtype": dtype, "_type": "Value"});
    let sequence = |dtype: &str, length: usize| json!({"feature": value(dtype), "length": length, "_type": "Sequence"});
    let [angle, translate, scale, shear, erased] = names(set, sets);
    [
        (angle, value("float64")),
        (translate, sequence("int64", 2)),
        (scale, value("float64")),
        (shear, sequence("float64", 2)),
        (erased, sequence("int64", 4)),
    ]
}

impl Parameters {
    /// The columns as arrays, in the order of [`fields`].
    pub fn arrays(&self) -> Result<[ArrayRef; 5], arrow::error::ArrowError> {
        Ok([
            Arc::new(Float64Array::from(self.angle.clone())),
            lists::<Int64Type, 2>(&self.translate)?,
            Arc::new(Float64Array::from(self.scale.clone())),
            lists::<Float64Type, 2>(&self.shear)?,
            lists::<Int64Type, 4>(&self.erased)?,
        ])
    }

    /// Reads the columns of a set from a batch.
    ///
    /// # Errors
    /// [`Error::Format`](crate::error::Error::Format) if a column is missing or has another type.
    pub fn read(file: &ParquetFile, batch: &RecordBatch, set: usize, sets: usize) -> Result<Parameters> {
        let [angle, translate, scale, shear, erased] = names(set, sets);
        Ok(Parameters {
            angle: read_values(file, batch, &angle)?,
            translate: read_lists::<Int64Type, 2>(file, batch, &translate)?,
            scale: read_values(file, batch, &scale)?,
            shear: read_lists::<Float64Type, 2>(file, batch, &shear)?,
            erased: read_lists::<Int64Type, 4>(file, batch, &erased)?,
        })
    }

    /// Appends the parameters of further samples.
    pub fn append(&mut self, more: Parameters) {
        let Parameters { angle, translate, scale, shear, erased } = more;
        self.angle.extend(angle);
        self.translate.extend(translate);
        self.scale.extend(scale);
        self.shear.extend(shear);
        self.erased.extend(erased);
    }

    /// Appends the values of one sample as bytes for its digest: per column one byte that says whether the value is not
    /// null, then the value.
    #[expect(clippy::indexing_slicing, reason = "a row of every column, all as long as the sample's other columns")]
    pub fn put_bytes(&self, row: usize, out: &mut Vec<u8>) {
        let Parameters { angle, translate, scale, shear, erased } = self;
        let mut put = |values: Option<&[[u8; 8]]>| {
            out.push(u8::from(values.is_some()));
            out.extend_from_slice(values.unwrap_or_default().as_flattened());
        };
        put(angle[row].map(|v| [v.to_le_bytes()]).as_ref().map(|v| &v[..]));
        put(translate[row].map(|v| v.map(i64::to_le_bytes)).as_ref().map(|v| &v[..]));
        put(scale[row].map(|v| [v.to_le_bytes()]).as_ref().map(|v| &v[..]));
        put(shear[row].map(|v| v.map(f64::to_le_bytes)).as_ref().map(|v| &v[..]));
        put(erased[row].map(|v| v.map(i64::to_le_bytes)).as_ref().map(|v| &v[..]));
    }
}

fn lists<P: ArrowPrimitiveType, const N: usize>(
    rows: &[Option<[P::Native; N]>],
) -> Result<ArrayRef, arrow::error::ArrowError> {
    let values = rows.iter().flat_map(|row| row.unwrap_or([P::Native::default(); N]));
    let values = Arc::new(PrimitiveArray::<P>::from_iter_values(values));
    let valid: NullBuffer = rows.iter().map(Option::is_some).collect::<Vec<bool>>().into();
    Ok(Arc::new(FixedSizeListArray::try_new(item(P::DATA_TYPE), N as i32, values, Some(valid))?))
}

fn read_values(file: &ParquetFile, batch: &RecordBatch, name: &str) -> Result<Vec<Option<f64>>> {
    let column = file.column(batch, name)?;
    match column.as_primitive_opt::<Float64Type>() {
        Some(values) => Ok(values.iter().collect()),
        None => Err(file.wrong(name, column, "double")),
    }
}

fn read_lists<P: ArrowPrimitiveType, const N: usize>(
    file: &ParquetFile,
    batch: &RecordBatch,
    name: &str,
) -> Result<Vec<Option<[P::Native; N]>>> {
    let column = file.column(batch, name)?;
    let refuse = || file.wrong(name, column, &format!("lists of {N} {}, or null", P::DATA_TYPE));
    let list = column.as_fixed_size_list_opt().filter(|list| list.value_length() as usize == N).ok_or_else(refuse)?;
    let values = list.values().as_primitive_opt::<P>().ok_or_else(refuse)?;
    let row = |row: usize| {
        if list.is_null(row) {
            return Ok(None);
        }
        let first = list.value_offset_at(row);
        match (first..first + N).all(|i| values.is_valid(i)) {
            true => Ok(Some(std::array::from_fn(|i| values.value(first + i)))),
            false => Err(refuse()),
        }
    };
    (0..list.len()).map(row).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_null_and_a_value_of_zeros_have_different_bytes() {
        let zeros = Parameters {
            angle: vec![Some(0.0)],
            translate: vec![Some([0; 2])],
            scale: vec![Some(0.0)],
            shear: vec![Some([0.0; 2])],
            erased: vec![Some([0; 4])],
        };
        let bytes = |parameters: &Parameters| {
            let mut out = Vec::new();
            parameters.put_bytes(0, &mut out);
            out
        };
        assert_eq!(bytes(&zeros).len(), 5 + 10 * 8);
        let all = [
            Parameters { angle: vec![None], ..zeros.clone() },
            Parameters { translate: vec![None], ..zeros.clone() },
            Parameters { scale: vec![None], ..zeros.clone() },
            Parameters { shear: vec![None], ..zeros.clone() },
            Parameters { erased: vec![None], ..zeros.clone() },
            zeros,
        ];
        for (i, a) in all.iter().enumerate() {
            assert!(all[i + 1..].iter().all(|b| bytes(a) != bytes(b)), "{a:?}");
        }
    }

    #[test]
    fn fields_and_features_have_the_names_in_order() {
        assert_eq!(names(0, 1), NAMES);
        assert_eq!(names(1, 2), ["angle_1", "translate_1", "scale_1", "shear_1", "erased_1"]);
        for (set, sets) in [(0, 1), (0, 2), (1, 2)] {
            assert_eq!(fields(set, sets).map(|field| field.name().clone()), names(set, sets));
            assert_eq!(features(set, sets).map(|(name, _)| name), names(set, sets));
        }
    }
}
