//! Tables that are valid but wrong: changed rows, columns, types, order, images, metadata and whole shards.
//!
//! Each table is tried in three ways: with the original record, so that digests detect the change; with a record
//! adjusted to the damaged file, so that only its meaning can reveal the change; and as external data without a record.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, BinaryArray, FixedSizeListArray, Int64Array, RecordBatch, StringArray};
use arrow::array::{StructArray, UInt64Array};
use arrow::compute::{concat_batches, take_record_batch};
use arrow::datatypes::{Field, Int64Type, Schema};
use multidigit::digest::Digest;
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use parquet::file::metadata::KeyValue;
use parquet::file::properties::WriterProperties;
use serde_json::Value;

use super::{Tally, copy, empty, finished, judge, scene};
use crate::home::Home;

/// The row of a shard that is damaged.
const ROW: usize = 3;

/// A Parquet file in memory.
#[derive(Clone)]
struct Table {
    rows: RecordBatch,
    groups: Vec<usize>,
    metadata: Vec<KeyValue>,
}

impl Table {
    fn read(path: &Path) -> Table {
        let reader = ParquetRecordBatchReaderBuilder::try_new(File::open(path).unwrap()).unwrap();
        let file = reader.metadata().clone();
        let groups = file.row_groups().iter().map(|group| group.num_rows() as usize).collect();
        let mut metadata = file.file_metadata().key_value_metadata().cloned().unwrap_or_default();
        metadata.retain(|pair| pair.key != "ARROW:schema"); // the writer adds this entry
        let schema = reader.schema().clone();
        let batches: Vec<RecordBatch> = reader.build().unwrap().collect::<Result<_, _>>().unwrap();
        Table { rows: concat_batches(&schema, &batches).unwrap(), groups, metadata }
    }

    fn write(&self, path: &Path) {
        let properties = WriterProperties::builder()
            .set_key_value_metadata(Some(self.metadata.clone()))
            .set_max_row_group_row_count(None)
            .build();
        // the metadata of the schema are already in the pairs
        let schema = Arc::new(Schema::new(self.rows.schema().fields().clone()));
        let rows = RecordBatch::try_new(schema.clone(), self.rows.columns().to_vec()).unwrap();
        let mut writer = ArrowWriter::try_new(File::create(path).unwrap(), schema, Some(properties)).unwrap();
        let mut first = 0;
        for (number, &n) in self.groups.iter().enumerate() {
            let last = number + 1 == self.groups.len();
            let n = if last { rows.num_rows() - first } else { n };
            writer.write(&rows.slice(first, n)).and_then(|()| writer.flush()).unwrap();
            first += n;
        }
        writer.close().unwrap();
    }

    fn column(&self, name: &str) -> ArrayRef {
        self.rows.column_by_name(name).unwrap().clone()
    }

    /// The same table with another column under a name, of any type.
    fn with(&self, name: &str, column: ArrayRef) -> Table {
        let schema = self.rows.schema();
        let columns = schema.fields().iter().zip(self.rows.columns()).map(|(field, old)| {
            let column = if field.name() == name { column.clone() } else { old.clone() };
            (Arc::new(Field::new(field.name(), column.data_type().clone(), true)), column)
        });
        let (fields, columns): (Vec<_>, Vec<_>) = columns.unzip();
        Table { rows: RecordBatch::try_new(Arc::new(Schema::new(fields)), columns).unwrap(), ..self.clone() }
    }

    /// The table of the rows in `order`.
    fn rows(&self, order: impl IntoIterator<Item = usize>) -> Table {
        let order = UInt64Array::from_iter_values(order.into_iter().map(|row| row as u64));
        Table { rows: take_record_batch(&self.rows, &order).unwrap(), ..self.clone() }
    }

    /// The table with one integer of a column changed, in a column of numbers or of lists.
    fn changed(&self, name: &str, at: usize, change: impl Fn(i64) -> i64) -> Table {
        let column = self.column(name);
        self.with(name, changed(&column, at, &change))
    }

    /// The table with one image changed.
    fn image(&self, row: usize, change: impl Fn(&BinaryArray) -> Vec<u8>) -> Table {
        let column = self.column("image");
        let image = column.as_struct();
        let pngs: &BinaryArray = image.column_by_name("bytes").unwrap().as_binary();
        let other = change(pngs);
        let bytes = (0..pngs.len()).map(|i| if i == row { other.clone() } else { pngs.value(i).to_vec() });
        let bytes: ArrayRef = Arc::new(BinaryArray::from_iter_values(bytes));
        let columns = vec![bytes, image.column_by_name("path").unwrap().clone()];
        self.with("image", Arc::new(StructArray::new(image.fields().clone(), columns, None)))
    }

    fn without(&self, name: &str) -> Table {
        let mut rows = self.rows.clone();
        rows.remove_column(rows.schema().index_of(name).unwrap());
        Table { rows, ..self.clone() }
    }

    fn renamed(&self, name: &str, to: &str) -> Table {
        let rename = |field: &Arc<Field>| match field.name() == name {
            true => field.as_ref().clone().with_name(to),
            false => field.as_ref().clone(),
        };
        let fields: Vec<Field> = self.rows.schema().fields().iter().map(rename).collect();
        let rows = RecordBatch::try_new(Arc::new(Schema::new(fields)), self.rows.columns().to_vec()).unwrap();
        Table { rows, ..self.clone() }
    }

    /// The table with a metadata entry changed, or removed if `change` returns `None`.
    fn about(&self, key: &str, change: impl Fn(&str) -> Option<String>) -> Table {
        let mut table = self.clone();
        let change = |pair: KeyValue| match pair.key == key {
            true => change(pair.value.as_deref().unwrap()).map(|value| KeyValue::new(pair.key, value)),
            false => Some(pair),
        };
        table.metadata = table.metadata.into_iter().filter_map(change).collect();
        table
    }
}

/// A column with one of its integers changed, within lists of any kind.
fn changed(column: &ArrayRef, at: usize, change: &dyn Fn(i64) -> i64) -> ArrayRef {
    match column.as_fixed_size_list_opt() {
        Some(list) => {
            let (values, length) = (changed(list.values(), at, change), list.value_length());
            let item = Arc::new(Field::new("item", values.data_type().clone(), true));
            Arc::new(FixedSizeListArray::new(item, length, values, list.nulls().cloned()))
        }
        None => {
            let values = column.as_primitive::<Int64Type>().iter().enumerate();
            Arc::new(Int64Array::from_iter(values.map(|(i, value)| if i == at { value.map(change) } else { value })))
        }
    }
}

fn png(colour: image::ExtendedColorType, width: u32, height: u32, bytes: &[u8]) -> Vec<u8> {
    use image::ImageEncoder;
    let mut out = Vec::new();
    image::codecs::png::PngEncoder::new(&mut out).write_image(bytes, width, height, colour).unwrap();
    out
}

// ---- cases

/// A damaged table, and the words with which it must be reported.
struct Case {
    name: &'static str,
    table: Table,
    /// The words of the command that reads the file.
    reader: &'static [&'static str],
    /// The words of `verify` after the record was adjusted to the file.
    verify: &'static [&'static str],
}

/// The words of a reader that accepts the file, because only the record could reveal the change.
const RIGHT: &[&str] = &[];

fn case(name: &'static str, table: Table, reader: &'static [&'static str], verify: &'static [&'static str]) -> Case {
    Case { name, table, reader, verify }
}

/// Damages to a shard of 16 rows of two digits.
fn of_shard(sound: &Table) -> Vec<Case> {
    let rows = sound.rows.num_rows();
    let all = || 0..rows;
    let pixels = |pngs: &BinaryArray| {
        let image = image::load_from_memory(pngs.value(ROW)).unwrap().to_luma8();
        (image.width(), image.height(), image.into_raw())
    };
    let text: ArrayRef = Arc::new(StringArray::from_iter_values(all().map(|row| row.to_string())));
    let sparse: ArrayRef = Arc::new(Int64Array::from_iter((0..rows as i64).map(|row| (row != 3).then_some(row))));
    let spelled = sound.changed("label", ROW, |label| label / 10 * 10 + (label % 10 + 1) % 10);
    let spelled = spelled.changed("digits", 2 * ROW + 1, |digit| (digit + 1) % 10);
    vec![
        case(
            "two rows change places",
            sound.rows(all().map(|row| row ^ usize::from(row / 2 == 1))),
            RIGHT,
            &["row 2 has another "],
        ),
        case(
            "the last two rows change places",
            sound.rows(all().map(|row| row ^ usize::from(row / 2 == 7))),
            RIGHT,
            &["row 14 has"],
        ),
        case("a row is dropped", sound.rows(all().filter(|&row| row != ROW)), RIGHT, &["row 3 has another "]),
        case(
            "the last row is dropped",
            sound.rows(0..rows - 1),
            RIGHT,
            &["15 rows in all shards of this split; the plan gives 16"],
        ),
        case(
            "a row stands twice",
            sound.rows(all().flat_map(|row| vec![row; 1 + usize::from(row == ROW)])),
            RIGHT,
            &["row 4 has"],
        ),
        case(
            "the last row stands twice",
            sound.rows(all().chain([rows - 1])),
            RIGHT,
            &["17 rows in all shards of this split; the plan gives 16"],
        ),
        case("no column label", sound.without("label"), &["no column `label`"], &["no column `label`"]),
        case("no column image", sound.without("image"), &["no column `image`"], &["no column `image`"]),
        case("no column digits", sound.without("digits"), RIGHT, &["no column `digits`"]),
        case(
            "label under another name",
            sound.renamed("label", "class"),
            &["no column `label`"],
            &["no column `label`"],
        ),
        case("labels as text", sound.with("label", text.clone()), &["`label` is Utf8"], &["`label` is Utf8"]),
        case(
            "digits as numbers",
            sound.with("digits", sound.column("label")),
            &["`digits` is Int64"],
            &["`digits` is Int64"],
        ),
        case("images as text", sound.with("image", text), &["`image` is Utf8"], &["`image` is Utf8"]),
        case(
            "a label is null",
            sound.with("label", sparse),
            &["`label` is Int64 with 1 nulls"],
            &["`label` is Int64 with 1 nulls"],
        ),
        case(
            "another label",
            sound.changed("label", ROW, |label| (label + 1) % 100),
            &["row 3 has label "],
            &["row 3 has label "],
        ),
        case(
            "another digit",
            sound.changed("digits", 2 * ROW, |digit| (digit + 1) % 10),
            &["row 3 has label "],
            &["row 3 has label "],
        ),
        case(
            "a digit that is none",
            sound.changed("digits", 2 * ROW, |_| 10),
            &["row 3 has digit 10"],
            &["row 3 has digit 10"],
        ),
        case("another label with its digits", spelled, RIGHT, &["row 3 has another label than the plan gives"]),
        case("another index", sound.changed("index", ROW, |index| index + 1), RIGHT, &["row 3 has another index"]),
        case(
            "another glyph",
            sound.changed("source_index", 2 * ROW, |glyph| glyph + 1),
            RIGHT,
            &["row 3 has another source_index"],
        ),
        case("another box", sound.changed("boxes", 8 * ROW, |x| x + 1), RIGHT, &["row 3 has another boxes"]),
        case(
            "the image of another row",
            sound.image(ROW, |pngs| pngs.value(ROW + 1).to_vec()),
            RIGHT,
            &["row 3 has another image"],
        ),
        case(
            "another pixel",
            sound.image(ROW, |pngs| {
                let (width, height, mut grey) = pixels(pngs);
                grey[77] ^= 1;
                png(image::ExtendedColorType::L8, width, height, &grey)
            }),
            RIGHT,
            &["row 3 has another image"],
        ),
        case(
            "an image of another size",
            sound.image(ROW, |_| png(image::ExtendedColorType::L8, 59, 60, &[0; 59 * 60])),
            &["row 3 has an image of 59x60 pixels"],
            &["row 3 has an image of 59x60 pixels"],
        ),
        case(
            "a coloured image",
            sound.image(ROW, |_| png(image::ExtendedColorType::Rgb8, 60, 60, &[0; 3 * 60 * 60])),
            &["row 3 has an image in Rgb8"],
            &["row 3 has an image in Rgb8"],
        ),
        case(
            "half an image",
            sound.image(ROW, |pngs| pngs.value(ROW)[..pngs.value(ROW).len() / 2].to_vec()),
            &["row 3 has an image that is not readable"],
            &["row 3 has an image that is not readable"],
        ),
        case(
            "an image with a flipped bit",
            sound.image(ROW, |pngs| {
                let mut png = pngs.value(ROW).to_vec();
                let middle = png.len() / 2;
                png[middle] ^= 1;
                png
            }),
            &["row 3 has an image that is not readable"],
            &["row 3 has an image that is not readable"],
        ),
        case(
            "the facts of another plan",
            sound.about("multidigit", |facts| Some(facts.replace("\"seed\":123", "\"seed\":124"))),
            RIGHT,
            &["the facts of another plan"],
        ),
        case("no facts", sound.about("multidigit", |_| None), RIGHT, &["no metadata `multidigit`"]),
    ]
}

/// Damages to a plan of 64, 16 and 20 rows of two digits.
fn of_plan(sound: &Table) -> Vec<Case> {
    let rows = sound.rows.num_rows();
    let all = || 0..rows;
    let at = 64 + ROW; // a row of the validation split
    let text: ArrayRef = Arc::new(StringArray::from_iter_values(all().map(|row| row.to_string())));
    let val: ArrayRef = Arc::new(StringArray::from_iter_values(all().map(|row| match row {
        67 => "test",
        0..64 => "train",
        64..80 => "val",
        _ => "test",
    })));
    let spelled = sound.changed("label", at, |label| label / 10 * 10 + (label % 10 + 1) % 10);
    let spelled = spelled.changed("digits", 2 * at + 1, |digit| (digit + 1) % 10);
    let facts = |from: &'static str, to: &'static str| {
        sound.about("multidigit", move |facts| {
            assert!(facts.contains(from), "{facts}");
            Some(facts.replacen(from, to, 1))
        })
    };
    vec![
        case(
            "two rows change places",
            sound.rows(all().map(|row| row ^ usize::from(row / 2 == 33))),
            RIGHT,
            &["row 66 is not what"],
        ),
        case(
            "a row is dropped",
            sound.rows(all().filter(|&row| row != 99)),
            &["99 rows; expected 100 rows"],
            &["99 rows; expected 100 rows"],
        ),
        case(
            "a row stands twice",
            sound.rows(all().chain([99])),
            &["101 rows; expected 100 rows"],
            &["101 rows; expected 100 rows"],
        ),
        case(
            "rows of two splits change places",
            sound.rows(all().map(|row| match row {
                63 => 64,
                64 => 63,
                row => row,
            })),
            &["row 63 has split \"val\""],
            &["row 63 has split \"val\""],
        ),
        case("no column y", sound.without("y"), &["no column `y`"], &["no column `y`"]),
        case("no column split", sound.without("split"), &["no column `split`"], &["no column `split`"]),
        case(
            "label under another name",
            sound.renamed("label", "class"),
            &["no column `label`"],
            &["no column `label`"],
        ),
        case("labels as text", sound.with("label", text), &["`label` is Utf8"], &["`label` is Utf8"]),
        case("another split", sound.with("split", val), &["row 67 has split \"test\""], &["row 67 has split \"test\""]),
        case(
            "another label",
            sound.changed("label", at, |label| (label + 1) % 100),
            &["row 67 has label "],
            &["row 67 has label "],
        ),
        case(
            "another digit",
            sound.changed("digits", 2 * at, |digit| (digit + 1) % 10),
            &["row 67 has label "],
            &["row 67 has label "],
        ),
        case("another label with its digits", spelled, RIGHT, &["row 67 is not what its settings give"]),
        case(
            "an index outside",
            sound.changed("index", at, |_| 1),
            &["row 67 has index 1; expected 0 to 0"],
            &["row 67 has index 1"],
        ),
        case(
            "another glyph",
            sound.changed("source_index", 2 * at, |glyph| (glyph + 1) % 70_000),
            RIGHT,
            &["row 67 is not what"],
        ),
        case(
            "a glyph that is none",
            sound.changed("source_index", 2 * at, |_| 70_000),
            &["row 67 has source_index 70000"],
            &["row 67 has source_index 70000"],
        ),
        case("another place", sound.changed("y", 2 * at, |y| (y + 1) % 33), RIGHT, &["row 67 is not what"]),
        case(
            "a place outside",
            sound.changed("x", 2 * at, |_| 3),
            &["row 67 has x 3; expected 0 to 2"],
            &["row 67 has x 3"],
        ),
        case(
            "another seed in the facts",
            facts("\"seed\":123", "\"seed\":124"),
            RIGHT,
            &["row 0 is not what its settings give"],
        ),
        case(
            "other glyphs in the facts",
            facts("\"digest\":\"", "\"digest\":\"0"),
            &["metadata `multidigit` is not readable"],
            &["metadata `multidigit` is not readable"],
        ),
        case(
            "another count in the facts",
            facts("\"val\":16", "\"val\":15"),
            &["counts [64, 15, 20]"],
            &["counts [64, 15, 20]"],
        ),
        case(
            "no facts",
            sound.about("multidigit", |_| None),
            &["no metadata `multidigit`"],
            &["no metadata `multidigit`"],
        ),
    ]
}

/// Adjusts the record of a stage, in an earlier version without its own digest, to the current files.
fn adjust(home: &Home, stage: &str, names: &[&str]) {
    let folder = home.path("artifacts").join(stage);
    let path = folder.join("record.json");
    let mut record: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    for output in record["outputs"].as_array_mut().unwrap() {
        if names.contains(&output["path"].as_str().unwrap()) {
            let bytes = fs::read(folder.join(output["path"].as_str().unwrap())).unwrap();
            output["digest"] = Digest::of(&bytes).to_string().into();
            output["stamp"]["bytes"] = bytes.len().into();
        }
    }
    record.as_object_mut().unwrap().remove("digest");
    fs::write(path, record.to_string()).unwrap();
}

/// A home with stages of [`finished`], and the file that is damaged.
fn patient(stages: &[&str], stage: &str, name: &str) -> (Home, PathBuf, Table) {
    let home = scene(stages);
    let path = home.path("artifacts").join(stage).join(name);
    let sound = Table::read(&path);
    sound.write(&path);
    adjust(&home, stage, &[name]);
    home.ok(&["verify"]); // the meaning is the same after another writer has written the file
    (home, path, sound)
}

/// Tries all cases with the original record, and with one adjusted to the damaged file.
fn tried(kind: &str, stages: &[&str], stage: &str, name: &str, cases: fn(&Table) -> Vec<Case>, reader: &[&str]) {
    let (home, path, sound) = patient(stages, stage, name);
    let file = Path::new(name).file_name().unwrap().to_str().unwrap();
    let [mut known, mut unknown, mut read] = [
        "the record as it was, verify",
        "a record of the damage, verify",
        "a record of the damage, the stage that reads it",
    ]
    .map(|mode| Tally::new(format!("{kind}, {mode}")));
    for Case { name: what, table, reader: told, verify } in cases(&sound) {
        sound.write(&path);
        adjust(&home, stage, &[name]);
        table.write(&path);
        known.add(&what, judge(&home.call(&["verify"]), &[name, "was changed"]));
        adjust(&home, stage, &[name]);
        unknown.add(&what, judge(&home.call(&["verify"]), &[&[file][..], verify].concat()));
        if !told.is_empty() {
            read.add(&what, judge(&home.call(reader), &[&[file][..], told].concat()));
        }
    }
    [known, unknown, read].into_iter().filter(|tally| tally.found + tally.lost.len() > 0).for_each(Tally::end);
}

#[test]
fn a_damaged_table_of_a_shard_is_found_with_its_path_and_row() {
    let stages = ["raw", "plan", "dataset", "train"];
    let command = ["run", "evaluate", "--single", "--force"];
    let name = "data/val-00000-of-00001.parquet";
    let cases = |sound: &Table| -> Vec<Case> {
        let mut cases = of_shard(sound);
        // every column of the data set's own shards is read
        let own = cases.iter_mut().find(|case| case.name == "no column digits").unwrap();
        own.reader = &["no column `digits`"];
        cases
    };
    tried("a shard", &stages, "dataset", name, cases, &command);
}

#[test]
fn a_damaged_table_of_a_plan_is_found_with_its_path_and_row() {
    tried("a plan", &["raw", "plan"], "plan", "plan.parquet", of_plan, &["run", "dataset", "--single", "--force"]);
}

#[test]
fn a_damaged_table_of_a_stored_epoch_is_found_with_its_path_and_row() {
    fn cases(sound: &Table) -> Vec<Case> {
        let spelled = sound.changed("label", ROW, |label| label / 10 * 10 + (label % 10 + 1) % 10);
        let spelled = spelled.changed("digits", 2 * ROW + 1, |digit| (digit + 1) % 10);
        let angle: ArrayRef = Arc::new(arrow::array::Float64Array::from(vec![1.5; sound.rows.num_rows()]));
        vec![
            case("another label with its digits", spelled, RIGHT, &["row 3 has another label"]),
            case("another angle", sound.with("angle", angle), RIGHT, &["row 0 has another augmentation"]),
            case(
                "the image of another row",
                sound.image(ROW, |pngs| pngs.value(ROW + 1).to_vec()),
                RIGHT,
                &["row 3 has another image"],
            ),
            case(
                "half an image",
                sound.image(63, |pngs| pngs.value(63)[..40].to_vec()),
                RIGHT,
                &["row 63 has an image that is not readable"],
            ),
            case("no column shear", sound.without("shear"), RIGHT, &["no column `shear`"]),
            case(
                "other settings in the metadata",
                sound.about("augment", |text| Some(text.replace("\"seed\":0", "\"seed\":1"))),
                RIGHT,
                &["metadata `augment` {\"seed\":1"],
            ),
            case("no settings in the metadata", sound.about("augment", |_| None), RIGHT, &["metadata `augment` none"]),
        ]
    }
    let name = "epoch-000/data/train-00000-of-00001.parquet";
    tried("a stored epoch", &["raw", "plan", "dataset", "augment"], "augment", name, cases, &["verify"]);
}

#[test]
fn a_damaged_table_of_others_is_found_with_its_path_and_row_or_is_a_right_one() {
    let home = scene(&["train", "dataset"]);
    let sound = Table::read(&home.path("artifacts/dataset/data/val-00000-of-00001.parquet"));
    let path = home.path("val.parquet");
    let ask = |table: &Table| {
        table.write(&path);
        home.call(&["run", "evaluate", "--run", "small", "--set", "evaluate.data=[val.parquet]"])
    };
    assert_eq!(ask(&sound).code, Some(0));
    let mut tally = Tally::new("a shard as data of others");
    for Case { name, table, reader, .. } in of_shard(&sound) {
        let answer = ask(&table);
        let verdict = match reader.is_empty() {
            true if answer.code == Some(0) => super::Verdict::Harmless, // the file is valid as external data
            _ => judge(&answer, &[&["`val.parquet`: "][..], reader].concat()),
        };
        tally.add(&name, verdict);
    }
    tally.end();
}

/// A home for each of two data sets whose plans differ in the seed, each divided into shards of 8 rows.
fn two_plans() -> [Home; 2] {
    [123, 7].map(|seed| {
        let mut home = empty();
        let settings = [format!("plan.seed={seed}"), "dataset.rows_per_shard=8".into(), "dataset.pixels=true".into()];
        home.settings.extend(settings.into_iter().flat_map(|setting| ["--set".to_owned(), setting]));
        home.ok(&["run", "dataset"]);
        home
    })
}

#[test]
fn a_shard_of_another_plan_among_the_right_ones_is_found() {
    let [home, other] = two_plans();
    copy(&finished().path("artifacts/train"), &home.path("artifacts/train"));
    let data = |home: &Home| home.path("artifacts/dataset/data");
    let shards: Vec<String> = (0..2).map(|number| format!("val-{number:05}-of-00002.parquet")).collect();
    let names: Vec<String> = shards.iter().map(|shard| format!("data/{shard}")).collect();
    let sound: Vec<Vec<u8>> = shards.iter().map(|shard| fs::read(data(&home).join(shard)).unwrap()).collect();
    let theirs: Vec<Vec<u8>> = shards.iter().map(|shard| fs::read(data(&other).join(shard)).unwrap()).collect();
    let folder = format!("evaluate.data=[{}]", data(&home).display());
    let foreign = ["run", "evaluate", "--run", "small", "--set", &folder];
    let mut tally = Tally::new("shards of another plan, and renamed ones");
    let cases = [
        ("one of two", [&sound[0], &theirs[1]], "val-00001-of-00002.parquet`: metadata other than those of", true),
        (
            "the other of two",
            [&theirs[0], &sound[1]],
            "val-00001-of-00002.parquet`: metadata other than those of",
            true,
        ),
        // as external data, the last two are valid
        ("all of a split", [&theirs[0], &theirs[1]], "val-00000-of-00002.parquet`: the facts of another plan", false),
        (
            "two that changed their names",
            [&sound[1], &sound[0]],
            "val-00000-of-00002.parquet`: row 0 has another",
            false,
        ),
    ];
    for (what, bytes, told, as_foreign) in cases {
        let put = |bytes: [&Vec<u8>; 2]| {
            for (shard, bytes) in shards.iter().zip(bytes) {
                fs::write(data(&home).join(shard), bytes).unwrap();
            }
        };
        put(bytes);
        tally.add(&what, judge(&home.call(&["verify"]), &["data/val-0000", "-of-00002.parquet was changed"]));
        adjust(&home, "dataset", &names.iter().map(String::as_str).collect::<Vec<_>>());
        tally.add(&what, judge(&home.call(&["verify"]), &[told]));
        if as_foreign {
            tally.add(&what, judge(&home.call(&foreign), &[told]));
        }
        put([&sound[0], &sound[1]]);
        adjust(&home, "dataset", &names.iter().map(String::as_str).collect::<Vec<_>>());
    }
    // a name that is not part of the set
    let (from, to) = (data(&home).join(&shards[1]), data(&home).join("val-00001-of-00003.parquet"));
    fs::rename(&from, &to).unwrap();
    let told = [&names[1], "is missing", "data/val-00001-of-00003.parquet is not in the record"];
    tally.add(&"renamed", judge(&home.call(&["verify"]), &told));
    tally.add(&"renamed", judge(&home.call(&foreign), &["2 files of `val` whose names do not form one set"]));
    fs::rename(&to, &from).unwrap();
    home.ok(&["verify"]);
    tally.end();
}

#[test]
fn raw_bytes_that_are_not_the_images_are_found_with_their_row() {
    let [home, _] = two_plans();
    let name = "data/val-00000-of-00002.parquet";
    let path = home.path("artifacts/dataset").join(name);
    let sound = Table::read(&path);
    let column = sound.column("pixels");
    let raw: &BinaryArray = column.as_binary();
    let other = (0..raw.len())
        .map(|row| raw.value(row).iter().map(move |&grey| grey ^ u8::from(row == ROW)).collect::<Vec<_>>());
    let mut tally = Tally::new("raw bytes beside images");
    sound.with("pixels", Arc::new(BinaryArray::from_iter_values(other))).write(&path);
    adjust(&home, "dataset", &[name]);
    tally.add(&"another pixel", judge(&home.call(&["verify"]), &["row 3 has other `pixels` than its image"]));
    tally.end();
}

#[test]
fn files_of_a_run_that_changed_places_are_found() {
    let home = scene(&["train", "evaluate"]);
    let mut tally = Tally::new("files of a run, a record of the damage, verify");
    let weights = ["weights/best.safetensors", "weights/last.safetensors"];
    let path = |name: &str| home.path("artifacts/train/small").join(name);
    // the best weights may be those of the first epoch, or those of the second, which are then also the last
    let mut bytes = fs::read(path(weights[0])).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    fs::write(path(weights[0]), bytes).unwrap();
    adjust(&home, "train/small", &weights);
    tally.add(&"weights", judge(&home.call(&["verify"]), &["train/small", "its record says"]));
    for name in ["metrics.json", "predictions.parquet"] {
        let home = scene(&["evaluate"]);
        let path = home.path("artifacts/evaluate/small").join(name);
        let mut bytes = fs::read(&path).unwrap();
        bytes[1000] ^= 1;
        fs::write(&path, bytes).unwrap();
        adjust(&home, "evaluate/small", &[name]);
        tally.add(&name, judge(&home.call(&["verify"]), &["evaluate/small", "its record says"]));
    }
    tally.end();
}
