//! The schema of the shards, as an Arrow schema and as features of Hugging Face `datasets`.
//!
//! `datasets` decodes a column by itself only if the Arrow field is exactly what `datasets` would write: every field
//! is nullable, `image` is a struct of `bytes` and `path` in that order, and labels are `int64`. Other readers
//! accept this as well.

use arrow::datatypes::{DataType, Field, Metadata, Schema};
use serde_json::{Value, json};

use super::parameters;
use crate::labels;
use crate::parquet_file::{int_field, item, list_field};

/// The metadata key under which `datasets` looks for the features.
pub const FEATURES_KEY: &str = "huggingface";

/// The properties that all samples of a set of shards have in common.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layout {
    /// Digits per image.
    pub digits: usize,
    /// Image height in pixels.
    pub height: usize,
    /// Image width in pixels.
    pub width: usize,
    /// Whether there is a column `pixels` with raw bytes in addition to the PNG.
    pub pixels: bool,
    /// The number of sets of columns of augmentation parameters: 0 for plain images, 1 for whole images that are augmented,
    /// `digits` for slots. Augmented images have a column `epoch`, too.
    pub parameters: usize,
    /// Whether there are columns that name the image that each slot is taken from.
    pub donors: bool,
}

/// The maximum number of classes whose names stand in every shard and in the card. The names of more would exceed the images
/// of a shard in size; the name of a class is its label with leading zeros.
const MOST_NAMES: u64 = 1000;

/// The column of the number of a stored epoch.
pub const EPOCH: &str = "epoch";

/// The columns of the class and the index of the image that each slot is taken from.
pub const DONORS: [&str; 2] = ["donor_label", "donor_index"];

/// The size in bytes of all lists in a row with `digits` digits: digits, glyphs and boxes, `parameters` sets of
/// augmentation parameters, and `donors`, if there are any.
pub fn list_bytes(digits: usize, parameters: usize, donors: bool) -> usize {
    8 * (6 * digits + 8 * parameters + if donors { 2 * digits } else { 0 })
}

impl Layout {
    /// The names of all classes, in order: the digits that their labels spell. `None` if there are more than 1000.
    pub fn class_names(&self) -> Option<Vec<String>> {
        let classes = labels::classes(self.digits).filter(|&classes| classes <= MOST_NAMES)?;
        Some((0..classes).map(|label| self.class_name(label as i64)).collect())
    }

    /// The name of the class `label`.
    pub fn class_name(&self, label: i64) -> String {
        labels::class_name(label, self.digits)
    }

    /// Whether the samples are those of a stored epoch.
    pub fn is_augmented(&self) -> bool {
        self.parameters > 0
    }

    /// The Arrow schema, with the features of `datasets` in its metadata.
    pub fn schema(&self) -> Schema {
        let image = vec![Field::new("bytes", DataType::Binary, true), Field::new("path", DataType::Utf8, true)];
        let boxes = DataType::FixedSizeList(item(list_field("", 4).data_type().clone()), self.digits as i32);
        let mut fields = vec![
            Field::new("image", DataType::Struct(image.into()), true),
            int_field("label"),
            list_field("digits", self.digits),
            int_field("index"),
            list_field("source_index", self.digits),
            Field::new("boxes", boxes, true),
        ];
        if self.pixels {
            fields.push(Field::new("pixels", DataType::Binary, true));
        }
        if self.is_augmented() {
            fields.push(int_field(EPOCH));
        }
        if self.donors {
            fields.extend(DONORS.map(|name| list_field(name, self.digits)));
        }
        (0..self.parameters).for_each(|set| fields.extend(parameters::fields(set, self.parameters)));
        Schema::new_with_metadata(
            fields,
            [(FEATURES_KEY.to_owned(), self.features())].into_iter().collect::<Metadata>(),
        )
    }

    /// The features of `datasets` as JSON, the value of [`FEATURES_KEY`]. They use the type `Sequence`, because the
    /// newer `List` breaks versions of `datasets` before 4.
    pub fn features(&self) -> String {
        let digit_names: Vec<String> = (0..10).map(|digit| digit.to_string()).collect();
        let int = json!({"dtype": "int64", "_type": "Value"});
        let sequence =
            |feature: Value, length: usize| json!({"feature": feature, "length": length, "_type": "Sequence"});
        let class_label = |names: Vec<String>| json!({"names": names, "_type": "ClassLabel"});
        let mut features = json!({
            "image": {"mode": "L", "_type": "Image"},
            "label": self.class_names().map_or(int.clone(), class_label),
            "digits": sequence(class_label(digit_names), self.digits),
            "index": int,
            "source_index": sequence(int.clone(), self.digits),
            "boxes": sequence(sequence(int.clone(), 4), self.digits),
        });
        let mut more = Vec::new();
        if self.pixels {
            more.push(("pixels".to_owned(), json!({"dtype": "binary", "_type": "Value"})));
        }
        if self.is_augmented() {
            more.push((EPOCH.to_owned(), int.clone()));
        }
        if self.donors {
            more.extend(DONORS.map(|name| (name.to_owned(), sequence(int.clone(), self.digits))));
        }
        (0..self.parameters).for_each(|set| more.extend(parameters::features(set, self.parameters)));
        if let Value::Object(features) = &mut features {
            features.extend(more);
        }
        json!({"info": {"features": features}}).to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn class_names_are_padded_to_the_number_of_digits() {
        let layout = Layout { digits: 3, height: 28, width: 84, pixels: false, parameters: 0, donors: false };
        let classes = layout.class_names().unwrap();
        assert_eq!((classes.len(), classes[7].as_str(), classes[999].as_str()), (1000, "007", "999"));
    }

    #[test]
    fn more_than_a_thousand_classes_have_no_names_in_the_features() {
        let layout = Layout { digits: 4, height: 28, width: 112, pixels: false, parameters: 0, donors: false };
        assert_eq!(layout.class_names(), None);
        let features: Value = serde_json::from_str(&layout.features()).unwrap();
        assert_eq!(features["info"]["features"]["label"], json!({"dtype": "int64", "_type": "Value"}));
    }

    #[test]
    fn the_features_are_those_that_datasets_understands() {
        let layout = Layout { digits: 1, height: 28, width: 28, pixels: true, parameters: 1, donors: false };
        let names = r#"["0","1","2","3","4","5","6","7","8","9"]"#;
        let expected = format!(
            "{{\"info\":{{\"features\":{{\
             \"image\":{{\"mode\":\"L\",\"_type\":\"Image\"}},\
             \"label\":{{\"names\":{names},\"_type\":\"ClassLabel\"}},\
             \"digits\":{{\"feature\":{{\"names\":{names},\"_type\":\"ClassLabel\"}},\"length\":1,\"_type\":\"Sequence\"}},\
             \"index\":{{\"dtype\":\"int64\",\"_type\":\"Value\"}},\
             \"source_index\":{{\"feature\":{{\"dtype\":\"int64\",\"_type\":\"Value\"}},\"length\":1,\"_type\":\"Sequence\"}},\
             \"boxes\":{{\"feature\":{{\"feature\":{{\"dtype\":\"int64\",\"_type\":\"Value\"}},\"length\":4,\"_type\":\"Sequence\"}},\
             \"length\":1,\"_type\":\"Sequence\"}},\
             \"pixels\":{{\"dtype\":\"binary\",\"_type\":\"Value\"}},\
             \"epoch\":{{\"dtype\":\"int64\",\"_type\":\"Value\"}},\
             \"angle\":{{\"dtype\":\"float64\",\"_type\":\"Value\"}},\
             \"translate\":{{\"feature\":{{\"dtype\":\"int64\",\"_type\":\"Value\"}},\"length\":2,\"_type\":\"Sequence\"}},\
             \"scale\":{{\"dtype\":\"float64\",\"_type\":\"Value\"}},\
             \"shear\":{{\"feature\":{{\"dtype\":\"float64\",\"_type\":\"Value\"}},\"length\":2,\"_type\":\"Sequence\"}},\
             \"erased\":{{\"feature\":{{\"dtype\":\"int64\",\"_type\":\"Value\"}},\"length\":4,\"_type\":\"Sequence\"}}}}}}}}"
        );
        assert_eq!(layout.features(), expected);
    }
}
