//! Reads the shards of a split, row group by row group.

use std::path::{Path, PathBuf};

use arrow::array::{Array, AsArray, BinaryArray, RecordBatch};
use arrow::datatypes::DataType;
use image::ImageDecoder;
use rayon::prelude::*;

use super::parameters::{self, Parameters};
use super::pngs::{decode, decoder, pngs};
use super::schema::{DONORS, EPOCH, Layout};
use super::writer::{Donors, Samples, row_digests};
use super::{file_name, require_one_set};
use crate::digest::{Digest, Parts};
use crate::error::{Error, Result};
use crate::files;
use crate::labels;
use crate::parquet_file::ParquetFile;
use crate::progress::Progress;

/// The maximum number of digits that a label spells.
const MOST_DIGITS: usize = 18;

/// Finds the shards of a split in a folder that holds the Parquet files. Returns their paths in order.
///
/// # Errors
/// [`Error::Format`] if there are none, or if any of the set is missing.
pub fn find(folder: &Path, split: &str) -> Result<Vec<PathBuf>> {
    let stem = format!("{split}-");
    let is_ours = |path: &PathBuf| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        name.starts_with(&stem) && name.ends_with(".parquet")
    };
    let found: Vec<PathBuf> = files::entries(folder)?.into_iter().filter(is_ours).collect();
    let expected: Vec<PathBuf> =
        (0..found.len()).map(|number| folder.join(file_name(split, number, found.len()))).collect();
    if found.is_empty() || found != expected {
        let found = match found.len() {
            0 => format!("no shards of `{split}`"),
            n => format!("{n} shards of `{split}` whose names do not form one set"),
        };
        return Err(Error::format(folder, found, format!("{split}-00000-of-0000N.parquet, N files; make them again")));
    }
    Ok(found)
}

/// The shards of a split, in order, and the properties that all samples have in common.
pub struct Shards {
    files: Vec<ParquetFile>,
    layout: Layout,
}

impl Shards {
    /// Opens the shards of one split. The layout is read from the first row of the first shard.
    ///
    /// # Errors
    /// [`Error::Format`] if shards are missing, empty, or from different sets, or if the first row is not readable.
    pub fn open(folder: &Path, split: &str) -> Result<Shards> {
        let files =
            find(folder, split)?.iter().map(|path| ParquetFile::open(path)).collect::<Result<Vec<ParquetFile>>>()?;
        require_one_set(&files, |file| file.pairs().collect::<Vec<_>>())?;
        let first = first_of(&files);
        if files.iter().any(|file| file.rows() == 0) {
            return Err(Error::format(first.path(), "no rows in it or another shard", "at least one sample in each"));
        }
        let batch = first.read(&["image", "digits"], vec![0], 1)?.next().transpose()?;
        let Some(batch) = batch.filter(|batch| batch.num_rows() > 0) else {
            return Err(Error::format(first.path(), "an empty row group", "at least one sample in each"));
        };
        let (width, height) = decoder(first, 0, pngs(first, &batch)?.value(0))?.dimensions();
        let digits = first.lists(&batch, "digits")?.1;
        let (height, width) = (height as usize, width as usize);
        let has_set = |&sets: &usize| {
            let [first_name, ..] = parameters::names(0, sets);
            first.has(&first_name)
        };
        // a file may declare lists of millions of digits, whose labels are refused below
        let parameters = [1, digits.min(MOST_DIGITS)].into_iter().find(has_set).unwrap_or(0);
        let [pixels, donors] = ["pixels", DONORS[0]].map(|name| first.has(name));
        let layout = Layout { digits, height, width, pixels, parameters, donors };
        Ok(Shards { files, layout })
    }

    /// The properties that all samples have in common.
    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// The first shard, whose metadata is that of all shards.
    pub fn first(&self) -> &ParquetFile {
        first_of(&self.files)
    }

    /// The number of rows in all shards.
    pub fn rows(&self) -> u64 {
        self.files.iter().map(ParquetFile::rows).sum()
    }

    /// The number of rows of each row group of each shard.
    pub fn groups(&self) -> Vec<Vec<usize>> {
        self.files.iter().map(ParquetFile::row_groups).collect()
    }

    /// The size of all shards in bytes.
    pub fn bytes(&self) -> Result<u64> {
        self.files.iter().map(|file| Ok(files::Stamp::of(file.path())?.bytes)).sum()
    }

    /// Passes the class of every row to `take`, in order.
    pub fn each_label(&self, take: impl FnMut(i64)) -> Result<()> {
        self.each("label", take)
    }

    /// The number of each row in its class, in order.
    pub fn index(&self) -> Result<Vec<i64>> {
        let mut index = Vec::new();
        self.each("index", |number| index.push(number))?;
        Ok(index)
    }

    fn each(&self, column: &str, mut take: impl FnMut(i64)) -> Result<()> {
        for file in &self.files {
            for batch in file.read(&[column], (0..file.row_groups().len()).collect(), 1 << 16)? {
                file.ints(&batch?, column)?.into_iter().for_each(&mut take);
            }
        }
        Ok(())
    }

    /// The glyphs and the boxes of all rows, in order: one glyph and four numbers of a box for each digit.
    pub fn glyphs(&self) -> Result<(Vec<i64>, Vec<i64>)> {
        let (mut sources, mut all) = (Vec::new(), Vec::new());
        for file in &self.files {
            for batch in file.read(&["source_index", "boxes"], (0..file.row_groups().len()).collect(), 1 << 16)? {
                let batch = batch?;
                sources.extend(self.cells(file, &batch, "source_index")?);
                all.extend(boxes(file, &batch, self.layout.digits)?);
            }
        }
        Ok((sources, all))
    }

    /// The positions of all row groups, as (shard, row group), in order.
    pub fn positions(&self) -> impl Iterator<Item = (usize, usize)> + use<> {
        let counts: Vec<usize> = self.files.iter().map(|file| file.row_groups().len()).collect();
        counts.into_iter().enumerate().flat_map(|(shard, groups)| (0..groups).map(move |group| (shard, group)))
    }

    /// The positions of all row groups, each with the path of its shard and the number of rows before it in that shard.
    pub fn places(&self) -> impl Iterator<Item = ((usize, usize), &Path, usize)> {
        self.files.iter().enumerate().flat_map(|(shard, file)| {
            let groups = file.row_groups();
            (0..groups.len()).map(move |group| ((shard, group), file.path(), groups.iter().take(group).sum()))
        })
    }

    /// Reads the samples of one row group and decodes the images. The position must be one of [`Shards::positions`].
    ///
    /// # Errors
    /// [`Error::Format`] if a column has a wrong type, if a label is not spelled by its digits, or if an image is not
    /// an 8-bit grey PNG of the size of the first one.
    pub fn read(&self, position: (usize, usize)) -> Result<Samples> {
        let (size, mut images) = ((self.layout.height, self.layout.width), Vec::new());
        let samples = self.columns(position, |file, row, pngs| decode(file, row, pngs, size, &mut images))?;
        Ok(Samples { images, ..samples })
    }

    /// Like [`Shards::read`], but with the PNG file of each sample, which is not decoded, instead of its pixels.
    ///
    /// # Errors
    /// Those of [`Shards::read`] except that of an image that is not readable.
    pub fn read_encoded(&self, position: (usize, usize)) -> Result<(Samples, Vec<Vec<u8>>)> {
        let mut files = Vec::new();
        let samples = self.columns(position, |_, _, pngs| {
            files.extend(pngs.iter().flatten().map(<[u8]>::to_vec));
            Ok(())
        })?;
        Ok((samples, files))
    }

    /// Reads the samples of one row group without their images. Each batch of images is passed to `take`, with the number
    /// of its first row in the file.
    #[expect(clippy::indexing_slicing, reason = "a position is one of `positions`, which counts what is there")]
    fn columns(
        &self,
        (shard, group): (usize, usize),
        mut take: impl FnMut(&ParquetFile, usize, &BinaryArray) -> Result<()>,
    ) -> Result<Samples> {
        let file = &self.files[shard];
        let Layout { parameters: sets, donors, digits: length, .. } = self.layout;
        let is_augmented = self.layout.is_augmented();
        let mut names = vec!["image", "label", "digits", "index", "source_index", "boxes"];
        let of_parameters: Vec<String> = (0..sets).flat_map(|set| parameters::names(set, sets)).collect();
        names.extend(of_parameters.iter().map(String::as_str));
        if is_augmented {
            names.push(EPOCH);
        }
        if donors {
            names.extend(DONORS);
        }
        let groups = file.row_groups();
        let (before, rows) = (groups[..group].iter().sum::<usize>(), groups[group]);
        let mut samples = Samples { parameters: vec![Parameters::default(); sets], ..Samples::default() };
        for batch in file.read(&names, vec![group], rows.max(1))? {
            let (batch, row) = (batch?, before + samples.labels.len());
            let (labels, digits) = (file.ints(&batch, "label")?, self.cells(file, &batch, "digits")?);
            check_labels(file, row, &labels, &digits, length)?;
            samples.labels.extend(labels);
            samples.digits.extend(digits);
            samples.index.extend(file.ints(&batch, "index")?);
            samples.sources.extend(self.cells(file, &batch, "source_index")?);
            samples.boxes.extend(boxes(file, &batch, length)?);
            if is_augmented {
                samples.epochs.extend(file.ints(&batch, EPOCH)?);
            }
            for (set, parameters) in samples.parameters.iter_mut().enumerate() {
                parameters.append(Parameters::read(file, &batch, set, sets)?);
            }
            if donors {
                let Donors { labels, index } = samples.donors.get_or_insert_default();
                for (list, name) in [labels, index].into_iter().zip(DONORS) {
                    list.extend(self.cells(file, &batch, name)?);
                }
            }
            take(file, row, &pngs(file, &batch)?)?;
        }
        Ok(samples)
    }

    /// The digest of all samples, equal to the digest that the writer computed.
    ///
    /// # Errors
    /// [`Error::Format`] if the raw bytes of a column `pixels` differ from the image, and all errors
    /// of [`Shards::read`].
    pub fn digest(&self, progress: &Progress) -> Result<Digest> {
        let mut content = Parts::default();
        let positions: Vec<(usize, usize)> = self.positions().collect();
        for wave in positions.chunks(4 * rayon::current_num_threads()) {
            let digests = wave
                .par_iter()
                .map(|&position| {
                    let samples = self.read(position)?;
                    self.check_pixels(position, &samples.images)?;
                    Ok(row_digests(&self.layout, &samples))
                })
                .collect::<Result<Vec<Vec<Digest>>>>()?;
            for digest in digests.iter().flatten() {
                content.digest(digest);
            }
            progress.advance(digests.iter().map(|group| group.len() as u64).sum())?;
        }
        Ok(content.finish())
    }

    /// Fails if the column `pixels` of a row group differs from the decoded images.
    #[expect(clippy::indexing_slicing, reason = "a position is one of `positions`, which counts what is there")]
    fn check_pixels(&self, (shard, group): (usize, usize), images: &[u8]) -> Result<()> {
        if !self.layout.pixels {
            return Ok(());
        }
        let (file, area) = (&self.files[shard], self.layout.height * self.layout.width);
        let (groups, mut images) = (file.row_groups(), images.chunks_exact(area));
        let mut row = groups[..group].iter().sum::<usize>();
        for batch in file.read(&["pixels"], vec![group], groups[group].max(1))? {
            let batch = batch?;
            let column = file.column(&batch, "pixels")?;
            let raw = column.as_binary_opt::<i32>().ok_or_else(|| file.wrong("pixels", column, "binary"))?;
            for (i, bytes) in raw.iter().enumerate() {
                if bytes != images.next() {
                    let found = format!("row {} has other `pixels` than its image", row + i);
                    return Err(Error::format(file.path(), found, "the raw bytes of the image"));
                }
            }
            row += raw.len();
        }
        Ok(())
    }

    fn cells(&self, file: &ParquetFile, batch: &RecordBatch, name: &str) -> Result<Vec<i64>> {
        let (values, length) = file.lists(batch, name)?;
        if length != self.layout.digits {
            let expected = format!("lists of {}, as in the first shard", self.layout.digits);
            return Err(Error::format(file.path(), format!("column `{name}` has lists of {length}"), expected));
        }
        Ok(values)
    }
}

#[expect(clippy::indexing_slicing, reason = "a set of shards has one at least, or `find` has refused it")]
fn first_of(files: &[ParquetFile]) -> &ParquetFile {
    &files[0]
}

/// Fails if a digit is not 0 to 9, or if a label is not the number that its digits spell. `row` is the number of the
/// first label in the file.
pub(super) fn check_labels(
    file: &ParquetFile,
    row: usize,
    labels: &[i64],
    digits: &[i64],
    length: usize,
) -> Result<()> {
    for (i, label) in labels.iter().enumerate() {
        let (row, digits) = (row + i, digits.get(i * length..(i + 1) * length).unwrap_or_default());
        if let Some(digit) = digits.iter().find(|digit| !(0..10).contains(*digit)) {
            let found = format!("row {row} has digit {digit}");
            return Err(Error::format(file.path(), found, "column `digits` with digits 0 to 9"));
        }
        let spelled = labels::label(digits.iter().copied());
        if spelled != Some(*label) {
            let found = format!("row {row} has label {label} and digits {digits:?}");
            let expected = match spelled {
                Some(spelled) => format!("label {spelled}, which these digits spell"),
                None => format!("at most {MOST_DIGITS} digits, whose number is the label"),
            };
            return Err(Error::format(file.path(), found, expected));
        }
    }
    Ok(())
}

/// The boxes of a batch, four integers per digit.
fn boxes(file: &ParquetFile, batch: &RecordBatch, digits: usize) -> Result<Vec<i64>> {
    let column = file.column(batch, "boxes")?;
    let inner = column.as_fixed_size_list_opt().filter(|list| list.null_count() == 0).and_then(|list| {
        let DataType::FixedSizeList(_, 4) = list.value_type() else { return None };
        if list.value_length() as usize != digits {
            return None;
        }
        let values = list.values().as_fixed_size_list().values().clone();
        let ints = values.as_primitive_opt::<arrow::datatypes::Int64Type>()?;
        (ints.null_count() == 0).then(|| ints.values().to_vec())
    });
    inner.ok_or_else(|| file.wrong("boxes", column, "four int64 per digit, without nulls"))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{ArrayRef, StringArray, StructArray};
    use arrow::datatypes::{Field, Schema};
    use parquet::arrow::ArrowWriter;

    use super::super::{ShardWriter, read_split, write_split};
    use super::*;
    use crate::parquet_file::{Compression, ints, lists};

    const LAYOUT: Layout = Layout { digits: 2, height: 3, width: 5, pixels: false, parameters: 0, donors: false };

    fn samples(rows: std::ops::Range<i64>) -> Samples {
        let n = rows.clone().count();
        Samples {
            labels: rows.clone().map(|row| row % 100).collect(),
            index: rows.clone().collect(),
            digits: rows.clone().flat_map(|row| [row % 100 / 10, row % 10]).collect(),
            sources: vec![7; 2 * n],
            boxes: rows.clone().flat_map(|row| [row; 8]).collect(),
            epochs: Vec::new(),
            donors: None,
            parameters: Vec::new(),
            images: rows.flat_map(|row| [row as u8; 15]).collect(),
        }
    }

    fn write(folder: &Path, groups: &[Vec<usize>]) -> Digest {
        let mut first = 0;
        let next = |n: usize| {
            let range = first..first + n as i64;
            first += n as i64;
            Ok(range)
        };
        let render = |range| Ok(samples(range));
        let metadata = [("key", "value".to_owned())];
        let writer = ShardWriter::new(&LAYOUT, &metadata, Compression::Zstd);
        write_split(&writer, folder, "val", groups, next, render).unwrap()
    }

    #[test]
    fn what_was_written_is_read_with_the_same_digest_however_it_is_cut() {
        let [a, b] = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
        let digest = write(a.path(), &[vec![4, 3], vec![4, 2]]);
        assert_eq!(digest, write(b.path(), &[vec![13]]));
        for home in [&a, &b] {
            let shards = Shards::open(home.path(), "val").unwrap();
            assert_eq!((shards.layout(), shards.rows()), (&LAYOUT, 13));
            assert_eq!(shards.first().value("key"), Some("value"));
            assert_eq!(shards.digest(&Progress::silent()).unwrap(), digest);
        }
        let whole = Shards::open(b.path(), "val").unwrap().read((0, 0)).unwrap();
        assert_eq!(whole, samples(0..13));
        let split = read_split(a.path(), "val", Some(9)).unwrap();
        assert_eq!((split.len(), split.index[8], split.image(8)), (9, 8, &[8; 15][..]));
        assert_eq!(split.targets[2 * 8..], [0, 8]);
    }

    #[test]
    fn a_row_group_that_is_read_in_several_batches_is_the_same() {
        let home = tempfile::tempdir().unwrap();
        let (side, rows) = (1000, 70);
        let layout = Layout { height: side, width: side, parameters: 1, ..LAYOUT };
        // noise, which cannot be compressed
        let mut state = 1_u32;
        let mut noise = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 24) as u8
        };
        let images: Vec<u8> = (0..side * side * rows).map(|_| noise()).collect();
        let angle = (0..rows).map(|row| row as f64).collect();
        let (translate, scale) = (vec![[0; 2]; rows], vec![1.0; rows]);
        let (shear, erased) = (vec![[0.0; 2]; rows], vec![[0; 4]; rows]);
        let parameters = vec![Parameters { angle, translate, scale, shear, erased }];
        let all = Samples { images, parameters, epochs: vec![3; rows], ..samples(0..rows as i64) };
        let render = |()| Ok(all.clone());
        let (groups, zstd) = ([vec![rows]], Compression::Zstd);
        write_split(&ShardWriter::new(&layout, &[], zstd), home.path(), "val", &groups, |_| Ok(()), render).unwrap();
        let shards = Shards::open(home.path(), "val").unwrap();
        let batches = shards.first().read(&["image"], vec![0], rows).unwrap().map(|batch| batch.unwrap().num_rows());
        let batches: Vec<usize> = batches.collect();
        assert!(batches.len() > 1 && batches.iter().sum::<usize>() == rows, "{batches:?}");
        assert!(shards.read((0, 0)).unwrap() == all);
    }

    #[test]
    fn epochs_parameters_and_donors_are_read_as_they_were_written() {
        let home = tempfile::tempdir().unwrap();
        let parameters = |rows: &[i64]| Parameters {
            angle: rows.iter().map(|&row| row as f64 / 3.0).collect(),
            translate: rows.iter().map(|&row| [row, -row]).collect(),
            scale: vec![1.0; rows.len()],
            shear: rows.iter().map(|&row| [row as f64, -0.0]).collect(),
            erased: rows.iter().map(|&row| [1, 2, 3, row]).collect(),
        };
        let mut first = 0;
        let next = |n: usize| {
            first += n as i64;
            Ok(first - n as i64..first)
        };
        let render = |rows: std::ops::Range<i64>| {
            let numbers: Vec<i64> = rows.clone().collect();
            let donors = Donors {
                labels: numbers.iter().flat_map(|&n| [n, 7]).collect(),
                index: vec![numbers.len() as i64; 2 * numbers.len()],
            };
            let sets = vec![parameters(&numbers), parameters(&numbers.iter().map(|n| n + 1).collect::<Vec<_>>())];
            let epochs = numbers.iter().map(|n| n + 40).collect();
            Ok(Samples { parameters: sets, donors: Some(donors), epochs, ..samples(rows) })
        };
        let layout = Layout { parameters: 2, donors: true, ..LAYOUT };
        let groups = [vec![2, 3]];
        let (zstd, silent) = (Compression::Zstd, Progress::silent());
        let writer = ShardWriter::new(&layout, &[], zstd);
        let written = write_split(&writer, home.path(), "val", &groups, next, render).unwrap();
        let shards = Shards::open(home.path(), "val").unwrap();
        assert_eq!(shards.layout(), &layout);
        let (first, second) = (shards.read((0, 0)).unwrap(), shards.read((0, 1)).unwrap());
        assert_eq!(first.parameters, [parameters(&[0, 1]), parameters(&[1, 2])]);
        assert_eq!(second.parameters, [parameters(&[2, 3, 4]), parameters(&[3, 4, 5])]);
        assert_eq!((first.epochs, second.epochs), (vec![40, 41], vec![42, 43, 44]));
        assert_eq!(second.donors.unwrap(), Donors { labels: vec![2, 7, 3, 7, 4, 7], index: vec![3; 6] });
        assert_eq!(shards.digest(&silent).unwrap(), written);
        assert_ne!(written, write(home.path(), &[vec![5]]), "the digest covers the parameters");
    }

    #[test]
    fn an_incomplete_set_of_shards_is_refused() {
        let home = tempfile::tempdir().unwrap();
        let refusal =
            || Shards::open(home.path(), "val").err().unwrap().to_string().replace(home.path().to_str().unwrap(), "F");
        let expected = "expected val-00000-of-0000N.parquet, N files; make them again";
        assert_eq!(refusal(), format!("`F`: no shards of `val`; {expected}"));
        write(home.path(), &[vec![2], vec![2]]);
        std::fs::remove_file(home.path().join("val-00000-of-00002.parquet")).unwrap();
        assert_eq!(refusal(), format!("`F`: 1 shards of `val` whose names do not form one set; {expected}"));
    }

    /// Writes a shard of one row with the given columns.
    fn shard(folder: &Path, png: &[u8], label: ArrayRef, digits: ArrayRef, boxes: ArrayRef, more: &[(&str, ArrayRef)]) {
        let bytes: ArrayRef = Arc::new(BinaryArray::from_vec(vec![png]));
        let path: ArrayRef = Arc::new(StringArray::from_iter_values(["p"]));
        let field = |name: &str, array: &ArrayRef| Arc::new(Field::new(name, array.data_type().clone(), true));
        let image =
            StructArray::from(vec![(field("bytes", &bytes), bytes.clone()), (field("path", &path), path.clone())]);
        let mut columns: Vec<(&str, ArrayRef)> = vec![
            ("image", Arc::new(image)),
            ("label", label),
            ("digits", digits),
            ("index", ints(&[0])),
            ("source_index", lists(&[1, 2], 2)),
            ("boxes", boxes),
        ];
        columns.extend_from_slice(more);
        let fields: Vec<_> = columns.iter().map(|(name, array)| field(name, array)).collect();
        let schema = Arc::new(Schema::new(fields));
        let batch =
            RecordBatch::try_new(schema.clone(), columns.into_iter().map(|(_, array)| array).collect()).unwrap();
        let file = std::fs::File::create(folder.join("val-00000-of-00001.parquet")).unwrap();
        let mut writer = ArrowWriter::try_new(file, schema, None).unwrap();
        writer.write(&batch).unwrap();
        writer.close().unwrap();
    }

    fn png(colour: image::ExtendedColorType, width: u32, bytes: &[u8]) -> Vec<u8> {
        use image::ImageEncoder;
        let mut out = Vec::new();
        image::codecs::png::PngEncoder::new(&mut out).write_image(bytes, width, 1, colour).unwrap();
        out
    }

    #[test]
    fn columns_of_another_form_are_refused_by_name() {
        let home = tempfile::tempdir().unwrap();
        let grey = png(image::ExtendedColorType::L8, 2, &[1, 2]);
        let refusal_of = |png: &[u8], label: ArrayRef, digits: ArrayRef, boxes: ArrayRef| {
            shard(home.path(), png, label, digits, boxes, &[]);
            let read = Shards::open(home.path(), "val").and_then(|shards| shards.read((0, 0)).map(drop));
            read.err().unwrap().to_string().split("parquet`: ").nth(1).unwrap().to_owned()
        };
        let refusal = |png: &[u8], label, digits| refusal_of(png, label, digits, ints(&[0]));
        let nested = |outer: i32, inner: usize| -> ArrayRef {
            let values = lists(&vec![0; outer as usize * inner], inner);
            let field = crate::parquet_file::item(values.data_type().clone());
            Arc::new(arrow::array::FixedSizeListArray::new(field, outer, values, None))
        };
        for (outer, inner) in [(2, 1), (3, 4)] {
            let refused = refusal_of(&grey, ints(&[7]), lists(&[0, 7], 2), nested(outer, inner));
            assert!(refused.ends_with("expected four int64 per digit, without nulls"), "{refused}");
        }
        let text: ArrayRef = Arc::new(StringArray::from_iter_values(["7"]));
        assert_eq!(
            refusal(&grey, text, lists(&[0, 7], 2)),
            "column `label` is Utf8 with 0 nulls; expected int64 without nulls"
        );
        assert_eq!(
            refusal(&grey, ints(&[7]), ints(&[7])),
            "column `digits` is Int64 with 0 nulls; expected lists of int64 of one length, without nulls"
        );
        assert_eq!(
            refusal(&grey, ints(&[7]), lists(&[0, 0, 7], 3)),
            "column `source_index` has lists of 2; expected lists of 3, as in the first shard"
        );
        assert_eq!(
            refusal(&grey, ints(&[7]), lists(&[0, 7], 2)),
            "column `boxes` is Int64 with 0 nulls; expected four int64 per digit, without nulls"
        );
        let boxes = LAYOUT.schema().field_with_name("boxes").unwrap().data_type().clone();
        let refused = refusal_of(&grey, ints(&[7]), lists(&[0, 7], 2), arrow::array::new_null_array(&boxes, 1));
        assert!(refused.ends_with("with 1 nulls; expected four int64 per digit, without nulls"), "{refused}");
        let colour = png(image::ExtendedColorType::Rgb8, 1, &[1, 2, 3]);
        let refused = refusal(&colour, ints(&[7]), lists(&[0, 7], 2));
        assert_eq!(refused, "row 0 has an image in Rgb8; expected 8-bit grey PNGs");
        let broken = refusal(b"no picture", ints(&[7]), lists(&[0, 7], 2));
        assert!(
            broken.starts_with("row 0 has an image that is not readable (")
                && broken.ends_with("expected 8-bit grey PNGs")
        );
    }

    /// Each set of parameters has columns of its own, so lists of millions of digits would mean millions of names.
    #[test]
    fn sets_of_parameters_are_read_for_no_more_digits_than_a_label_spells() {
        let home = tempfile::tempdir().unwrap();
        let (grey, digits) = (png(image::ExtendedColorType::L8, 2, &[1, 2]), MOST_DIGITS + 2);
        let angle: ArrayRef = Arc::new(arrow::array::Float64Array::from(vec![0.0]));
        shard(home.path(), &grey, ints(&[0]), lists(&vec![0; digits], digits), ints(&[0]), &[("angle_0", angle)]);
        let shards = Shards::open(home.path(), "val").unwrap();
        assert_eq!((shards.layout().digits, shards.layout().parameters), (digits, MOST_DIGITS));
    }

    #[test]
    fn a_shard_without_rows_is_an_error() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("val-00000-of-00001.parquet");
        let schema = Arc::new(LAYOUT.schema());
        ArrowWriter::try_new(std::fs::File::create(path).unwrap(), schema, None).unwrap().close().unwrap();
        let message = Shards::open(home.path(), "val").err().unwrap().to_string();
        assert!(message.ends_with("no rows in it or another shard; expected at least one sample in each"), "{message}");
    }

    #[test]
    fn a_file_that_is_no_parquet_is_an_error() {
        let home = tempfile::tempdir().unwrap();
        std::fs::write(home.path().join("val-00000-of-00001.parquet"), "nonsense").unwrap();
        let message = Shards::open(home.path(), "val").err().unwrap().to_string();
        assert!(message.contains("val-00000-of-00001.parquet`: not readable as Parquet: "), "{message}");
    }
}
