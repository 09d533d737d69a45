//! The metrics of a run in TensorBoard's format: a file of records, each of which is an event with scalars.
//!
//! A record (TFRecord) consists of its length, a checksum of the length, its bytes, and a checksum of the bytes. An
//! event is a protocol buffer of `tensorflow/core/util/event.proto`, of which only scalars are written here.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};

use crc::{CRC_32_ISCSI, Crc};

use super::metrics::Epoch;
use crate::error::{Error, Result};

/// The checksum algorithm CRC-32C.
const CRC: Crc<u32> = Crc::<u32>::new(&CRC_32_ISCSI);

/// The parts of an event file's name before and after the start time of the run in seconds since 1970.
const PREFIX: &str = "events.out.tfevents.";
const SUFFIX: &str = ".multidigit";

/// Whether a file has a name of the form used here.
pub fn is_file(name: &str) -> bool {
    let started = name.strip_prefix(PREFIX).and_then(|name| name.strip_suffix(SUFFIX));
    started.is_some_and(|started| !started.is_empty() && started.bytes().all(|byte| byte.is_ascii_digit()))
}

/// The event file of a run in progress.
pub struct Events {
    path: PathBuf,
    file: File,
    /// The start time of the run in seconds since 1970.
    started: u64,
    /// The time that the epochs have taken so far, in seconds.
    seconds: f64,
}

impl Events {
    /// Writes the events of the epochs so far to a file in `folder`, to which later ones are added. The file is named
    /// after the start time of the run, so that a resumed run keeps its file.
    pub fn create(folder: &Path, started: u64, epochs: &[Epoch]) -> Result<Events> {
        let path = folder.join(format!("{PREFIX}{started}{SUFFIX}"));
        let file = File::create(&path).map_err(Error::io(&path, "create it"))?;
        let mut events = Events { path, file, started, seconds: 0.0 };
        let mut version = Message::default();
        version.double(1, started as f64);
        version.bytes(3, b"brain.Event:2");
        events.write(&version.0)?;
        epochs.iter().try_for_each(|epoch| events.add(epoch))?;
        Ok(events)
    }

    /// Adds the events of an epoch.
    pub fn add(&mut self, epoch: &Epoch) -> Result<()> {
        self.seconds += epoch.seconds;
        let mut summary = Message::default();
        for (tag, value) in scalars(epoch) {
            let mut scalar = Message::default();
            scalar.bytes(1, tag.as_bytes());
            scalar.float(2, value as f32);
            summary.bytes(1, &scalar.0);
        }
        let mut event = Message::default();
        event.double(1, self.started as f64 + self.seconds);
        event.integer(2, epoch.epoch as u64);
        event.bytes(5, &summary.0);
        self.write(&event.0)
    }

    fn write(&mut self, event: &[u8]) -> Result<()> {
        let length = (event.len() as u64).to_le_bytes();
        let mut record = Vec::with_capacity(event.len() + 16);
        record.extend(length);
        record.extend(masked(&length).to_le_bytes());
        record.extend(event);
        record.extend(masked(event).to_le_bytes());
        self.file.write_all(&record).map_err(Error::io(&self.path, "write it"))
    }
}

/// The scalars of an epoch, with their names.
fn scalars(epoch: &Epoch) -> Vec<(String, f64)> {
    let mut all = vec![
        ("loss/train".to_owned(), epoch.train_loss),
        ("loss/val".to_owned(), epoch.val_loss),
        ("accuracy/train".to_owned(), epoch.train_accuracy),
        ("accuracy/val".to_owned(), epoch.val_accuracy),
        ("learning_rate".to_owned(), epoch.lr),
        ("images_per_second".to_owned(), epoch.images_per_second),
    ];
    for (split, digits) in [("train", &epoch.train_digits), ("val", &epoch.val_digits)] {
        all.extend((1..).zip(digits).map(|(digit, share)| (format!("accuracy_digit_{digit}/{split}"), *share)));
    }
    all
}

/// TFRecord's masked checksum: CRC-32C, rotated and offset, so that data that contains checksums
/// can be checksummed safely.
fn masked(bytes: &[u8]) -> u32 {
    CRC.checksum(bytes).rotate_right(15).wrapping_add(0xa282_ead8)
}

/// A protocol buffer under construction.
#[derive(Default)]
struct Message(Vec<u8>);

impl Message {
    fn varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.0.push(value as u8 | 0x80);
            value >>= 7;
        }
        self.0.push(value as u8);
    }

    fn integer(&mut self, field: u64, value: u64) {
        self.varint(field << 3);
        self.varint(value);
    }

    fn double(&mut self, field: u64, value: f64) {
        self.varint(field << 3 | 1);
        self.0.extend(value.to_le_bytes());
    }

    fn bytes(&mut self, field: u64, value: &[u8]) {
        self.varint(field << 3 | 2);
        self.varint(value.len() as u64);
        self.0.extend(value);
    }

    fn float(&mut self, field: u64, value: f32) {
        self.varint(field << 3 | 5);
        self.0.extend(value.to_le_bytes());
    }
}

#[cfg(test)]
mod tests {
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
        let home = tempfile::tempdir().unwrap();
        let mut events = Events::create(home.path(), 1_700_000_000, &[]).unwrap();
        (1..=3).for_each(|number| events.add(&epoch(number)).unwrap());
        let path = home.path().join("events.out.tfevents.1700000000.multidigit");
        let whole = std::fs::read(&path).unwrap();
        let mut events = Events::create(home.path(), 1_700_000_000, &[epoch(1), epoch(2)]).unwrap();
        events.add(&epoch(3)).unwrap();
        assert_eq!(whole, std::fs::read(&path).unwrap());
        // the first record holds the version: 9 bytes for the time, 15 for the text
        assert_eq!(whole[..8], 24u64.to_le_bytes());
        assert_eq!(whole[8 + 4 + 9..][..15], *b"\x1a\x0dbrain.Event:2");
    }

    #[test]
    fn the_checksum_is_crc_32c() {
        // the check value of CRC-32C (iSCSI) in RFC 3720, B.4: 32 zero bytes
        assert_eq!(CRC.checksum(&[0; 32]), 0x8a91_36aa);
        assert_eq!(masked(&[0; 32]), 0x8a91_36aau32.rotate_right(15).wrapping_add(0xa282_ead8));
    }
}
