//! The columns of an augmented shard that hold the augmentation parameters of each sample, so that other programs can
//! replay the augmentation.
//!
//! There is one set of columns if whole images were augmented, and one for each slot otherwise. No value is null, because
//! readers make tensors of columns without nulls only: if an operator is off or was not drawn for the sample, its columns
//! hold the values that change no pixel. How parameters are drawn and applied is not part of this module.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, FixedSizeListArray, Float64Array, PrimitiveArray, RecordBatch};
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
    /// Rotation in degrees, counter-clockwise. 0 without a rotation.
    pub angle: Vec<f64>,
    /// Shift along x and y in pixels. 0 without an affine map.
    pub translate: Vec<[i64; 2]>,
    /// Magnification. 1 without an affine map.
    pub scale: Vec<f64>,
    /// Shear along x and y in degrees. 0 without an affine map.
    pub shear: Vec<[f64; 2]>,
    /// The erased rectangle: x, y, width, height in pixels. Four zeros if nothing is erased.
    pub erased: Vec<[i64; 4]>,
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

    /// Appends the values of one sample as bytes for its digest, in the order of the columns.
    #[expect(clippy::indexing_slicing, reason = "a row of every column, all as long as the sample's other columns")]
    pub fn put_bytes(&self, row: usize, out: &mut Vec<u8>) {
        let Parameters { angle, translate, scale, shear, erased } = self;
        out.extend(angle[row].to_le_bytes());
        out.extend(translate[row].map(i64::to_le_bytes).as_flattened());
        out.extend(scale[row].to_le_bytes());
        out.extend(shear[row].map(f64::to_le_bytes).as_flattened());
        out.extend(erased[row].map(i64::to_le_bytes).as_flattened());
    }
}

fn lists<P: ArrowPrimitiveType, const N: usize>(rows: &[[P::Native; N]]) -> Result<ArrayRef, arrow::error::ArrowError> {
    let values = Arc::new(PrimitiveArray::<P>::from_iter_values(rows.as_flattened().iter().copied()));
    Ok(Arc::new(FixedSizeListArray::try_new(item(P::DATA_TYPE), N as i32, values, None)?))
}

fn read_values(file: &ParquetFile, batch: &RecordBatch, name: &str) -> Result<Vec<f64>> {
    let column = file.column(batch, name)?;
    match column.as_primitive_opt::<Float64Type>().filter(|values| values.null_count() == 0) {
        Some(values) => Ok(values.values().to_vec()),
        None => Err(file.wrong(name, column, "double without nulls")),
    }
}

fn read_lists<P: ArrowPrimitiveType, const N: usize>(
    file: &ParquetFile,
    batch: &RecordBatch,
    name: &str,
) -> Result<Vec<[P::Native; N]>> {
    let column = file.column(batch, name)?;
    let refuse = || file.wrong(name, column, &format!("lists of {N} {} without nulls", P::DATA_TYPE));
    let is_list = |list: &&FixedSizeListArray| list.value_length() as usize == N && list.null_count() == 0;
    let list = column.as_fixed_size_list_opt().filter(is_list).ok_or_else(refuse)?;
    let values = list.values().slice(list.value_offset_at(0), list.len() * N);
    let values = values.as_primitive_opt::<P>().filter(|values| values.null_count() == 0).ok_or_else(refuse)?;
    Ok(values.values().as_chunks::<N>().0.to_vec())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bytes_of_a_sample_are_those_of_all_its_values() {
        let plain = Parameters {
            angle: vec![0.0],
            translate: vec![[0; 2]],
            scale: vec![0.0],
            shear: vec![[0.0; 2]],
            erased: vec![[0; 4]],
        };
        let bytes = |parameters: &Parameters| {
            let mut out = Vec::new();
            parameters.put_bytes(0, &mut out);
            out
        };
        assert_eq!(bytes(&plain).len(), 10 * 8);
        let all = [
            Parameters { angle: vec![1.0], ..plain.clone() },
            Parameters { translate: vec![[0, 1]], ..plain.clone() },
            Parameters { scale: vec![1.0], ..plain.clone() },
            Parameters { shear: vec![[0.0, 1.0]], ..plain.clone() },
            Parameters { erased: vec![[0, 0, 0, 1]], ..plain.clone() },
            plain,
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
