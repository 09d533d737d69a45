//! The rows of a split in their order. Rows are drawn in another order than the one in which they are stored, and a plan may be
//! larger than the memory. A row is therefore put into the bucket of its place. Buckets are read in order, one at a time, and a
//! split of several buckets keeps them in a temporary file.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use rand::Rng;

use super::rows::Rows;
use super::{Order, numpy};
use crate::error::{Error, Result};
use crate::rng;

/// The number of rows in a bucket, a multiple of the rows in a row group of the plan.
const BUCKET: usize = 1 << 18;
/// The number of bytes that a bucket of a file collects before they are written.
const BUFFER: usize = 1 << 14;

/// The places of the drawn rows of a split: the row that is drawn as number `i` is stored as number `places[i]`.
///
/// The rows of a split are drawn class by class: `count` rows for each of `classes`, ascending in their index. `split` is the
/// number of the split.
///
/// # Errors
/// [`Error::ConfigValue`] if the places do not fit into the memory: 8 bytes for each row while they are computed, and 4 after.
pub fn places(order: Order, classes: &[u32], count: usize, seed: u32, split: u64) -> Result<Vec<u32>> {
    let rows = classes.len() * count;
    let no_room = || {
        let expected = "a plan whose places fit into memory, 8 bytes for each row; ask for fewer";
        Error::value("plan.samples_per_class", format!("{rows} rows in a split"), expected)
    };
    let room = || -> Result<Vec<u32>> {
        let mut places = Vec::new();
        places.try_reserve_exact(rows).map_err(|_| no_room())?;
        Ok(places)
    };
    let mut places = room()?;
    match order {
        Order::Shuffled => {
            let mut rng = rng::stream(u64::from(seed), "plan/order", 0, split);
            let mut order = room()?;
            order.extend(0..rows as u32);
            numpy::shuffle(|| rng.next_u32(), &mut order);
            places.resize(rows, 0);
            order.iter().enumerate().for_each(|(place, &row)| places[row as usize] = place as u32);
        }
        Order::Class => {
            let mut sorted = classes.to_vec();
            sorted.sort_unstable();
            for class in classes {
                // the classes of a split differ, and the class is one of them
                let first = sorted.partition_point(|other| other < class) * count;
                places.extend((first..first + count).map(|place| place as u32));
            }
        }
    }
    Ok(places)
}

/// One drawn row. The lists have one entry for each digit.
#[derive(Debug, Default)]
pub struct Row {
    /// The class.
    pub label: u32,
    /// The index of the sample in its class.
    pub index: u32,
    /// The glyph of each digit.
    pub sources: Vec<u32>,
    /// The row of each glyph's top left corner, in pixels.
    pub y: Vec<u16>,
    /// The column of each glyph's top left corner in its slot, in pixels.
    pub x: Vec<u16>,
}

/// The rows of a split, which are pushed in the order of the draws and read in the order of their places.
#[derive(Debug)]
pub struct Ordered {
    digits: usize,
    places: Vec<u32>,
    /// The number of rows pushed.
    pushed: usize,
    buckets: Vec<Bucket>,
    /// The file of the buckets, with the folder that it lies in. `None` if there is one bucket, which stays in memory.
    file: Option<(File, PathBuf)>,
}

/// The rows of the places from `number * BUCKET` on, as records in the order of the draws.
#[derive(Debug, Default)]
struct Bucket {
    buffer: Vec<u8>,
    /// The number of bytes in the file.
    written: u64,
}

impl Ordered {
    /// An empty split of images with `digits` digits. `folder` is where a temporary file may lie.
    ///
    /// # Errors
    /// [`Error::Io`] if the temporary file cannot be created.
    pub fn new(digits: usize, places: Vec<u32>, folder: &Path) -> Result<Ordered> {
        let buckets = places.len().div_ceil(BUCKET);
        let create = || tempfile::tempfile_in(folder).map_err(Error::io(folder, "create a temporary file in it"));
        let file = if buckets > 1 { Some((create()?, folder.to_owned())) } else { None };
        let buckets = (0..buckets).map(|_| Bucket::default()).collect();
        Ok(Ordered { digits, places, pushed: 0, buckets, file })
    }

    /// The number of places for rows.
    pub fn rows(&self) -> usize {
        self.places.len()
    }

    /// Adds the row that is drawn next.
    ///
    /// # Errors
    /// [`Error::Io`] if the temporary file cannot be written.
    ///
    /// # Panics
    /// If there are more rows than places.
    pub fn push(&mut self, row: &Row) -> Result<()> {
        let place = self.places[self.pushed] as usize;
        self.pushed += 1;
        let record = record_bytes(self.digits);
        let (number, at) = (place / BUCKET, place % BUCKET);
        let bucket = &mut self.buckets[number];
        let buffer = &mut bucket.buffer;
        buffer.extend((at as u32).to_le_bytes());
        buffer.extend(row.label.to_le_bytes());
        buffer.extend(row.index.to_le_bytes());
        row.sources.iter().for_each(|source| buffer.extend(source.to_le_bytes()));
        row.y.iter().chain(&row.x).for_each(|offset| buffer.extend(offset.to_le_bytes()));
        if let Some((file, folder)) = &mut self.file
            && buffer.len() + record > BUFFER
        {
            let start = (number * BUCKET * record) as u64 + bucket.written;
            let write = |file: &mut File| file.seek(SeekFrom::Start(start)).and_then(|_| file.write_all(buffer));
            write(file).map_err(Error::io(folder, "write a temporary file in it"))?;
            bucket.written += buffer.len() as u64;
            buffer.clear();
        }
        Ok(())
    }

    /// The rows in their order, a bucket at a time.
    ///
    /// # Panics
    /// If rows are missing.
    pub fn pieces(self) -> impl Iterator<Item = Result<Rows>> {
        let Ordered { digits, places, pushed, buckets, mut file } = self;
        assert_eq!(pushed, places.len(), "a row for every place");
        let rows = places.len();
        drop(places);
        buckets.into_iter().enumerate().map(move |(number, Bucket { buffer, written })| {
            let mut records = vec![0; written as usize];
            if let Some((file, folder)) = &mut file {
                let start = SeekFrom::Start((number * BUCKET * record_bytes(digits)) as u64);
                let read = file.seek(start).and_then(|_| file.read_exact(&mut records));
                read.map_err(Error::io(folder, "read a temporary file in it"))?;
            }
            records.extend(buffer);
            Ok(placed(&records, digits, BUCKET.min(rows - number * BUCKET)))
        })
    }
}

/// The number of bytes of a record: place, label and index, then glyph, y and x of each digit.
fn record_bytes(digits: usize) -> usize {
    12 + 8 * digits
}

/// The rows of the records, each at its place.
fn placed(records: &[u8], digits: usize, rows: usize) -> Rows {
    let cells = rows * digits;
    let mut out = Rows {
        digits,
        labels: vec![0; rows],
        index: vec![0; rows],
        sources: vec![0; cells],
        y: vec![0; cells],
        x: vec![0; cells],
    };
    let wide = |bytes: &[u8]| u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
    let narrow = |bytes: &[u8]| u16::from_le_bytes([bytes[0], bytes[1]]);
    for record in records.chunks_exact(record_bytes(digits)) {
        let row = wide(record) as usize;
        (out.labels[row], out.index[row]) = (wide(&record[4..]), wide(&record[8..]));
        for digit in 0..digits {
            let cell = row * digits + digit;
            out.sources[cell] = wide(&record[12 + 4 * digit..]);
            out.y[cell] = narrow(&record[12 + 4 * digits + 2 * digit..]);
            out.x[cell] = narrow(&record[12 + 6 * digits + 2 * digit..]);
        }
    }
    out
}

#[cfg(test)]
impl Ordered {
    /// Rows that keep their order.
    pub fn of(rows: &Rows) -> Ordered {
        let places = (0..rows.len() as u32).collect();
        let mut ordered = Ordered::new(rows.digits, places, &std::env::temp_dir()).unwrap();
        for row in 0..rows.len() {
            let cells = row * rows.digits..(row + 1) * rows.digits;
            let (sources, y, x) = (&rows.sources[cells.clone()], &rows.y[cells.clone()], &rows.x[cells]);
            let (sources, y, x) = (sources.to_vec(), y.to_vec(), x.to_vec());
            ordered.push(&Row { label: rows.labels[row], index: rows.index[row], sources, y, x }).unwrap();
        }
        ordered
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A row whose values tell its number.
    fn row(number: u32) -> Row {
        let near = number as u16;
        Row { label: number, index: !number, sources: vec![number, 7], y: vec![near, 1], x: vec![2, near] }
    }

    #[test]
    fn rows_of_several_buckets_come_back_in_the_order_of_their_places() {
        let rows = 2 * BUCKET + 1000;
        let places = places(Order::Shuffled, &(0..rows as u32 / 8).collect::<Vec<_>>(), 8, 5, 1).unwrap();
        let home = tempfile::tempdir().unwrap();
        let mut ordered = Ordered::new(2, places.clone(), home.path()).unwrap();
        (0..rows as u32).for_each(|number| ordered.push(&row(number)).unwrap());
        let (mut first, mut seen) = (0, vec![0_u32; rows]);
        places.iter().enumerate().for_each(|(number, &place)| seen[place as usize] = number as u32);
        for (piece, length) in ordered.pieces().zip([BUCKET, BUCKET, 1000]) {
            let piece = piece.unwrap();
            assert_eq!(piece.len(), length);
            for at in 0..length {
                let number = seen[first + at];
                let Row { label, index, sources, y, x } = row(number);
                assert_eq!((piece.labels[at], piece.index[at]), (label, index));
                assert_eq!(piece.sources[2 * at..2 * at + 2], sources);
                assert_eq!((&piece.y[2 * at..2 * at + 2], &piece.x[2 * at..2 * at + 2]), (&y[..], &x[..]));
            }
            first += length;
        }
        assert_eq!(first, rows);
        assert_eq!(home.path().read_dir().unwrap().count(), 0, "the temporary file has no name");
    }

    #[test]
    fn places_in_the_order_of_classes_ascend_by_class_and_index() {
        assert_eq!(places(Order::Class, &[7, 2, 5], 2, 0, 0).unwrap(), [4, 5, 0, 1, 2, 3]);
    }

    #[test]
    fn a_full_disk_or_a_missing_folder_is_an_error_that_names_the_folder() {
        let places = (0..2 * BUCKET as u32).collect();
        let message = Ordered::new(1, places, Path::new("/no/such")).unwrap_err().to_string();
        assert!(message.starts_with("`/no/such`: cannot create a temporary file in it"), "{message}");
    }
}
