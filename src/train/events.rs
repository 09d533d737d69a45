//! A training in TensorBoard's format: a file of records, each of which is an event.
//!
//! The horizontal axis is the number of steps of the optimiser. `loss/train` and `learning_rate` have points within the
//! epochs ([`Point`]); all other curves have one after each epoch, as `metrics.csv` has. The first event holds the settings,
//! for the tab HPARAMS, and a picture of the augmentation.
//!
//! The file is written anew when a training is resumed, from `metrics.csv` and from the points in the checkpoint. It is then
//! the file of a training that was never interrupted. What neither of them holds is therefore not in the file: TensorBoard
//! would show it until the first interruption only.
//!
//! A record (TFRecord) consists of its length, a checksum of the length, its bytes, and a checksum of the bytes. An
//! event is a protocol buffer of TensorBoard's `compat/proto/event.proto`; the messages below have the fields used here.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};

use crc::{CRC_32_ISCSI, Crc};
use image::RgbImage;
use prost::Message;
use serde_json::Value;

use super::checkpoint::Point;
use super::metrics::Epoch;
use crate::augment::preview;
use crate::error::{Error, Result};

/// The checksum algorithm CRC-32C.
const CRC: Crc<u32> = Crc::<u32>::new(&CRC_32_ISCSI);

/// The parts of an event file's name before and after the start time of the run in seconds since 1970.
const PREFIX: &str = "events.out.tfevents.";
const SUFFIX: &str = ".multidigit";

/// The number of colours of an RGB image, as TensorBoard counts them.
const RGB: i32 = 3;

/// The plug-in of the tab HPARAMS, its two tags, and its status of a training that has ended well.
const HPARAMS: &str = "hparams";
const SESSION_START: &str = "_hparams_/session_start_info";
const SESSION_END: &str = "_hparams_/session_end_info";
const SUCCESS: i32 = 1;

/// The settings of `train` that change no weight.
const WITHOUT: [&str; 2] = ["train.run", "train.checkpoint_every_steps"];

/// Whether a file has a name of the form used here.
pub fn is_file(name: &str) -> bool {
    let started = name.strip_prefix(PREFIX).and_then(|name| name.strip_suffix(SUFFIX));
    started.is_some_and(|started| !started.is_empty() && started.bytes().all(|byte| byte.is_ascii_digit()))
}

/// What is known of a training before its first step.
pub struct Start<'a> {
    /// The start time of the run in seconds since 1970.
    pub time: u64,
    /// The number of steps in an epoch.
    pub steps: u64,
    /// The settings, by section.
    pub settings: &'a Value,
    /// A picture of the augmentation.
    pub picture: Option<&'a RgbImage>,
}

/// The event file of a run in progress.
pub struct Events {
    path: PathBuf,
    file: File,
    /// The start time of the run in seconds since 1970.
    started: f64,
    /// The number of steps in an epoch.
    steps: u64,
    /// The time that the finished epochs have taken, in seconds.
    seconds: f64,
}

impl Events {
    /// Writes the events so far to a file in `folder`, to which later ones are added. The file is named after the start
    /// time of the run, so that a resumed run keeps its file.
    pub fn create(folder: &Path, start: &Start, points: &[Point], epochs: &[Epoch]) -> Result<Events> {
        let path = folder.join(format!("{PREFIX}{}{SUFFIX}", start.time));
        let file = File::create(&path).map_err(Error::io(&path, "create it"))?;
        let mut events = Events { path, file, started: start.time as f64, steps: start.steps, seconds: 0.0 };
        let version = Some("brain.Event:2".to_owned());
        events.write(&Event { wall_time: events.started, file_version: version, ..Event::default() })?;
        events.write(&Event { wall_time: events.started, summary: Some(first(start)), ..Event::default() })?;
        let mut points = points.iter().peekable();
        for (epoch, number) in epochs.iter().zip(1..) {
            while let Some(point) = points.next_if(|point| point.step <= number * start.steps) {
                events.add_point(point)?;
            }
            events.add_epoch(epoch)?;
        }
        points.try_for_each(|point| events.add_point(point))?;
        Ok(events)
    }

    /// Adds a point within an epoch.
    pub fn add_point(&mut self, point: &Point) -> Result<()> {
        let values = [("loss/train", point.loss), ("learning_rate", point.rate)];
        let summary = Summary { value: values.map(|(tag, value)| scalar(tag, value)).to_vec() };
        self.write(&Event {
            wall_time: self.started + self.seconds + point.seconds,
            step: point.step as i64,
            summary: Some(summary),
            ..Event::default()
        })
    }

    /// Adds the metrics of an epoch, at its last step.
    pub fn add_epoch(&mut self, epoch: &Epoch) -> Result<()> {
        self.seconds += epoch.seconds;
        self.write(&Event {
            wall_time: self.started + self.seconds,
            step: (epoch.epoch as u64 * self.steps) as i64,
            summary: Some(Summary { value: scalars(epoch) }),
            ..Event::default()
        })
    }

    /// Adds the end of the training.
    pub fn end(&mut self) -> Result<()> {
        let time = self.started + self.seconds;
        let end = SessionEnd { status: SUCCESS, end_time_secs: time };
        let value = hparams(SESSION_END, HParams { session_end_info: Some(end), ..HParams::default() });
        self.write(&Event { wall_time: time, summary: Some(Summary { value: vec![value] }), ..Event::default() })
    }

    fn write(&mut self, event: &Event) -> Result<()> {
        let event = event.encode_to_vec();
        let length = (event.len() as u64).to_le_bytes();
        let mut record = Vec::with_capacity(event.len() + 16);
        record.extend(length);
        record.extend(masked(&length).to_le_bytes());
        record.extend(&event);
        record.extend(masked(&event).to_le_bytes());
        self.file.write_all(&record).map_err(Error::io(&self.path, "write it"))
    }
}

/// The settings and the picture, which precede the first step.
fn first(start: &Start) -> Summary {
    let mut settings = BTreeMap::new();
    leaves("", start.settings, &mut settings);
    settings.retain(|path, _| !WITHOUT.contains(&path.as_str()));
    let session = SessionStart { hparams: settings, start_time_secs: start.time as f64 };
    let mut value = vec![hparams(SESSION_START, HParams { session_start_info: Some(session), ..HParams::default() })];
    value.extend(start.picture.map(|picture| SummaryValue {
        tag: "augmentation".to_owned(),
        image: Some(Image {
            height: picture.height() as i32,
            width: picture.width() as i32,
            colorspace: RGB,
            encoded_image_string: preview::png(picture),
        }),
        ..SummaryValue::default()
    }));
    Summary { value }
}

/// The settings by their paths. A setting that is null is left out, since it switches something off and has no value.
fn leaves(path: &str, value: &Value, out: &mut BTreeMap<String, Setting>) {
    let setting = match value {
        Value::Null => return,
        Value::Object(map) => {
            let below = |key: &String| if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
            return map.iter().for_each(|(key, value)| leaves(&below(key), value, out));
        }
        Value::Bool(value) => Setting { bool_value: Some(*value), ..Setting::default() },
        Value::Number(value) => Setting { number_value: value.as_f64(), ..Setting::default() },
        Value::String(text) => Setting { string_value: Some(text.clone()), ..Setting::default() },
        Value::Array(_) => Setting { string_value: Some(value.to_string()), ..Setting::default() },
    };
    out.insert(path.to_owned(), setting);
}

/// The scalars of an epoch.
fn scalars(epoch: &Epoch) -> Vec<SummaryValue> {
    let mut all = vec![
        scalar("epoch", epoch.epoch as f64),
        scalar("loss/train_epoch", epoch.train_loss),
        scalar("loss/val", epoch.val_loss),
        scalar("accuracy/train", epoch.train_accuracy),
        scalar("accuracy/val", epoch.val_accuracy),
        scalar("images_per_second", epoch.images_per_second),
    ];
    for (split, digits) in [("train", &epoch.train_digits), ("val", &epoch.val_digits)] {
        all.extend((1..).zip(digits).map(|(digit, share)| scalar(&format!("accuracy_digit_{digit}/{split}"), *share)));
    }
    all
}

fn scalar(tag: &str, value: f64) -> SummaryValue {
    SummaryValue { tag: tag.to_owned(), simple_value: Some(value as f32), ..SummaryValue::default() }
}

/// A value for the tab HPARAMS, which is in the metadata.
fn hparams(tag: &str, content: HParams) -> SummaryValue {
    let plugin_data = PluginData { plugin_name: HPARAMS.to_owned(), content: content.encode_to_vec() };
    let metadata = Some(Metadata { plugin_data: Some(plugin_data) });
    SummaryValue { tag: tag.to_owned(), metadata, ..SummaryValue::default() }
}

/// TFRecord's masked checksum: CRC-32C, rotated and offset, so that data that contains checksums
/// can be checksummed safely.
fn masked(bytes: &[u8]) -> u32 {
    CRC.checksum(bytes).rotate_right(15).wrapping_add(0xa282_ead8)
}

/// `tensorboard.Event`.
#[derive(Clone, PartialEq, Message)]
struct Event {
    #[prost(double, tag = "1")]
    wall_time: f64,
    #[prost(int64, tag = "2")]
    step: i64,
    #[prost(string, optional, tag = "3")]
    file_version: Option<String>,
    #[prost(message, optional, tag = "5")]
    summary: Option<Summary>,
}

/// `tensorboard.Summary`.
#[derive(Clone, PartialEq, Message)]
struct Summary {
    #[prost(message, repeated, tag = "1")]
    value: Vec<SummaryValue>,
}

/// `tensorboard.Summary.Value`.
#[derive(Clone, PartialEq, Message)]
struct SummaryValue {
    #[prost(string, tag = "1")]
    tag: String,
    #[prost(float, optional, tag = "2")]
    simple_value: Option<f32>,
    #[prost(message, optional, tag = "4")]
    image: Option<Image>,
    #[prost(message, optional, tag = "9")]
    metadata: Option<Metadata>,
}

/// `tensorboard.Summary.Image`.
#[derive(Clone, PartialEq, Message)]
struct Image {
    #[prost(int32, tag = "1")]
    height: i32,
    #[prost(int32, tag = "2")]
    width: i32,
    #[prost(int32, tag = "3")]
    colorspace: i32,
    #[prost(bytes = "vec", tag = "4")]
    encoded_image_string: Vec<u8>,
}

/// `tensorboard.SummaryMetadata`.
#[derive(Clone, PartialEq, Message)]
struct Metadata {
    #[prost(message, optional, tag = "1")]
    plugin_data: Option<PluginData>,
}

/// `tensorboard.SummaryMetadata.PluginData`.
#[derive(Clone, PartialEq, Message)]
struct PluginData {
    #[prost(string, tag = "1")]
    plugin_name: String,
    #[prost(bytes = "vec", tag = "2")]
    content: Vec<u8>,
}

/// `tensorboard.hparams.HParamsPluginData`, of version 0.
#[derive(Clone, PartialEq, Message)]
struct HParams {
    #[prost(message, optional, tag = "3")]
    session_start_info: Option<SessionStart>,
    #[prost(message, optional, tag = "4")]
    session_end_info: Option<SessionEnd>,
}

/// `tensorboard.hparams.SessionStartInfo`.
#[derive(Clone, PartialEq, Message)]
struct SessionStart {
    #[prost(btree_map = "string, message", tag = "1")]
    hparams: BTreeMap<String, Setting>,
    #[prost(double, tag = "5")]
    start_time_secs: f64,
}

/// `tensorboard.hparams.SessionEndInfo`.
#[derive(Clone, PartialEq, Message)]
struct SessionEnd {
    #[prost(int32, tag = "1")]
    status: i32,
    #[prost(double, tag = "2")]
    end_time_secs: f64,
}

/// `google.protobuf.Value`.
#[derive(Clone, PartialEq, Message)]
struct Setting {
    #[prost(double, optional, tag = "2")]
    number_value: Option<f64>,
    #[prost(string, optional, tag = "3")]
    string_value: Option<String>,
    #[prost(bool, optional, tag = "4")]
    bool_value: Option<bool>,
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_file_that_goes_on_is_the_one_that_was_never_left() {
        let epoch = |number: usize| Epoch {
            epoch: number,
            lr: 5e-4,
            train_loss: 1.25,
            train_accuracy: 0.5,
            train_digits: vec![0.75, 0.5],
            val_loss: 2.5,
            val_accuracy: 0.25,
            val_digits: vec![0.5, 0.25],
            images_per_second: 400.0,
            seconds: 1.5,
        };
        let point = |step: u64| Point { step, loss: 3.0 / step as f64, rate: 5e-4, seconds: 0.25 };
        let settings = json!({"train": {"model": "fcn", "ema": null}, "augment": {"erasing": {"scale": [0.1, 0.2]}}});
        let picture = RgbImage::new(2, 1);
        let start = Start { time: 1_700_000_000, steps: 10, settings: &settings, picture: Some(&picture) };
        let home = tempfile::tempdir().unwrap();
        let mut events = Events::create(home.path(), &start, &[], &[]).unwrap();
        for number in 1..=3 {
            for step in [5, 10] {
                events.add_point(&point(10 * (number - 1) + step)).unwrap();
            }
            events.add_epoch(&epoch(number as usize)).unwrap();
        }
        events.end().unwrap();
        let path = home.path().join("events.out.tfevents.1700000000.multidigit");
        let whole = std::fs::read(&path).unwrap();
        let points = [5, 10, 15, 20, 25].map(point);
        let mut events = Events::create(home.path(), &start, &points, &[epoch(1), epoch(2)]).unwrap();
        events.add_point(&point(30)).unwrap();
        events.add_epoch(&epoch(3)).unwrap();
        events.end().unwrap();
        assert_eq!(whole, std::fs::read(&path).unwrap());
        // the first record holds the version: 9 bytes for the time, 15 for the text
        assert_eq!(whole[..8], 24u64.to_le_bytes());
        assert_eq!(whole[8 + 4 + 9..][..15], *b"\x1a\x0dbrain.Event:2");
    }

    #[test]
    fn settings_are_those_that_change_weights_and_have_a_value() {
        let train = json!({"run": "mine", "checkpoint_every_steps": 9, "ema": null, "seed": 3, "augment": true});
        let settings = json!({"train": train, "augment": {"affine": {"translate": [0.1, 0.2]}, "by": "slot"}});
        let Summary { value } = first(&Start { time: 7, steps: 1, settings: &settings, picture: None });
        let content = value[0].metadata.clone().unwrap().plugin_data.unwrap().content;
        let hparams = HParams::decode(content.as_slice()).unwrap().session_start_info.unwrap().hparams;
        let expected = [
            ("augment.affine.translate", Setting { string_value: Some("[0.1,0.2]".to_owned()), ..Setting::default() }),
            ("augment.by", Setting { string_value: Some("slot".to_owned()), ..Setting::default() }),
            ("train.augment", Setting { bool_value: Some(true), ..Setting::default() }),
            ("train.seed", Setting { number_value: Some(3.0), ..Setting::default() }),
        ];
        assert_eq!(hparams, expected.map(|(path, setting)| (path.to_owned(), setting)).into());
    }

    #[test]
    fn the_checksum_is_crc_32c() {
        // the check value of CRC-32C (iSCSI) in RFC 3720, B.4: 32 zero bytes
        assert_eq!(CRC.checksum(&[0; 32]), 0x8a91_36aa);
        assert_eq!(masked(&[0; 32]), 0x8a91_36aau32.rotate_right(15).wrapping_add(0xa282_ead8));
    }
}
