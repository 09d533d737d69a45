//! Reads Parquet files that other programs wrote: shards in this program's schema, and plain image data sets such as
//! MNIST on Hugging Face.
//!
//! Two columns are required: `image`, a struct with `bytes` that are 8-bit grey PNGs of one size, and `label`,
//! integers. If there is a column `digits`, its digits must spell the label; otherwise the digits follow from the
//! label. If there is a column `index`, it is read; otherwise rows are numbered. All other columns are ignored.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use image::ImageDecoder;
use rayon::prelude::*;

use super::pngs::{decode, decoder, pngs};
use super::reader::check_labels;
use super::{DATA, Split, file_name, require_one_set};
use crate::error::{Error, Result};
use crate::files;
use crate::labels;
use crate::parquet_file::{FACTS, ParquetFile, make_room};

/// The splits found at some paths, by name, with their files in order. The split of a file is its name without
/// `-00000-of-00001.parquet`, as Hugging Face names shards; for other names, it is the whole stem. Of a folder, the
/// Parquet files of every split except train are taken, either from the folder itself or from its folder `data`.
///
/// # Errors
/// [`Error::Format`] if a folder has no such files, or if the names of a split's files do not form one set.
pub fn splits(paths: &[PathBuf]) -> Result<Vec<(String, Vec<PathBuf>)>> {
    let mut found: BTreeMap<String, Vec<PathBuf>> = BTreeMap::new();
    for path in paths {
        if path.is_dir() {
            for (name, files) in in_folder(path)? {
                found.entry(name).or_default().extend(files);
            }
        } else {
            found.entry(split_of(path)).or_default().push(path.clone());
        }
    }
    // val first, as everywhere; the others in the order of their names
    let mut all: Vec<_> = found.into_iter().collect();
    all.sort_by_key(|(name, _)| !name.starts_with("val"));
    Ok(all)
}

fn in_folder(folder: &Path) -> Result<BTreeMap<String, Vec<PathBuf>>> {
    let parquet = |folder: &Path| -> Result<Vec<PathBuf>> {
        let mut all = files::entries(folder)?;
        all.retain(|path| path.extension().is_some_and(|extension| extension == "parquet"));
        Ok(all)
    };
    let (mut home, mut all) = (folder.to_owned(), parquet(folder)?);
    if all.is_empty() {
        home = folder.join(DATA);
        all = parquet(&home)?;
    }
    let mut splits: BTreeMap<String, Vec<PathBuf>> = BTreeMap::new();
    for path in all {
        splits.entry(split_of(&path)).or_default().push(path);
    }
    splits.remove("train");
    if splits.is_empty() {
        let expected = "Parquet files of val or test there or in its folder data; to evaluate on train, name the files";
        return Err(Error::format(folder, "no Parquet files of any split but train", expected));
    }
    for (name, files) in &splits {
        let set: Vec<PathBuf> = (0..files.len()).map(|n| home.join(file_name(name, n, files.len()))).collect();
        let single = [home.join(format!("{name}.parquet"))];
        if *files != set && **files != single {
            let found = format!("{} files of `{name}` whose names do not form one set", files.len());
            return Err(Error::format(&home, found, format!("{name}-00000-of-0000N.parquet, N files")));
        }
    }
    Ok(splits)
}

fn split_of(path: &Path) -> String {
    let stem = path.file_stem().unwrap_or_default().to_string_lossy();
    let is_number = |part: &str| part.len() == 5 && part.bytes().all(|byte| byte.is_ascii_digit());
    match stem.rsplitn(4, '-').collect::<Vec<_>>()[..] {
        [of, "of", number, name] if is_number(of) && is_number(number) => name.to_owned(),
        _ => stem.into_owned(),
    }
}

/// Reads some files, or their first `limit` rows, into memory. If there is no column `digits`, a label
/// spells `digits` digits.
///
/// # Errors
/// [`Error::Format`] if the files have no rows, if those of one folder come from different sets, or if
/// a row is not valid.
pub fn read(files: &[PathBuf], digits: usize, limit: Option<usize>) -> Result<Split> {
    let opened = files.iter().map(|path| ParquetFile::open(path)).collect::<Result<Vec<ParquetFile>>>()?;
    // the files of one folder must be one set; files of several folders may be combined
    for set in opened.chunk_by(|a, b| a.path().parent() == b.path().parent()) {
        require_one_set(set, |file| file.value(FACTS))?;
    }
    let limit = limit.unwrap_or(usize::MAX);
    let (mut wanted, mut rows) = (Vec::new(), 0);
    for file in &opened {
        for (group, n) in file.row_groups().into_iter().enumerate().filter(|(_, n)| *n > 0) {
            if rows < limit {
                wanted.push((file, group, n, rows));
                rows = rows.saturating_add(n);
            }
        }
    }
    let Some(&(first, group, ..)) = wanted.first() else {
        let path = files.first().map_or(Path::new("evaluate.data"), |path| path);
        return Err(Error::format(path, "no rows in it or its fellows", "at least one image"));
    };
    let layout = ForeignLayout::of(first, group, digits)?;
    let (rows, area) = (rows.min(limit), layout.height * layout.width);
    let mut all = layout.empty();
    make_room(first.path(), &mut all.images, rows, area)?;
    let parts = wanted.into_par_iter().map(|(file, group, n, before)| layout.read(file, group, n, before));
    for mut part in parts.collect::<Result<Vec<Split>>>()? {
        part.truncate(rows - all.len());
        all.images.extend_from_slice(&part.images);
        all.targets.extend_from_slice(&part.targets);
        all.labels.extend_from_slice(&part.labels);
        all.index.extend_from_slice(&part.index);
    }
    Ok(all)
}

/// The properties that all rows have in common.
struct ForeignLayout {
    digits: usize,
    /// Whether there is a column of digits.
    spelled: bool,
    height: usize,
    width: usize,
}

impl ForeignLayout {
    /// Reads the properties from the first row of a row group.
    fn of(file: &ParquetFile, group: usize, digits: usize) -> Result<ForeignLayout> {
        let spelled = file.has("digits");
        let names: &[&str] = if spelled { &["image", "label", "digits"] } else { &["image", "label"] };
        let batch = file.read(names, vec![group], 1)?.next().transpose()?;
        let Some(batch) = batch.filter(|batch| batch.num_rows() > 0) else {
            return Err(Error::format(file.path(), "an empty row group", "at least one image in each"));
        };
        let row = rows_before(file, group);
        let (width, height) = decoder(file, row, pngs(file, &batch)?.value(0))?.dimensions();
        let digits = if spelled { file.lists(&batch, "digits")?.1 } else { digits };
        Ok(ForeignLayout { digits, spelled, height: height as usize, width: width as usize })
    }

    fn empty(&self) -> Split {
        Split { height: self.height, width: self.width, digits: self.digits, ..Split::default() }
    }

    /// Reads the `n` rows of a row group. `before` is the number of rows before it in all files together.
    fn read(&self, file: &ParquetFile, group: usize, n: usize, before: usize) -> Result<Split> {
        let mut names = vec!["image", "label"];
        names.extend(["digits", "index"].into_iter().filter(|name| file.has(name)));
        let mut all = self.empty();
        for batch in file.read(&names, vec![group], n)? {
            let (batch, row) = (batch?, rows_before(file, group) + all.labels.len());
            let labels = file.ints(&batch, "label")?;
            let digits = match self.spelled {
                true => file.lists(&batch, "digits")?,
                false => (self.spell(file, row, &labels)?, self.digits),
            };
            if digits.1 != self.digits {
                let expected = format!("lists of {}, as in the first row", self.digits);
                return Err(Error::format(file.path(), format!("column `digits` has lists of {}", digits.1), expected));
            }
            if self.spelled {
                check_labels(file, row, &labels, &digits.0, self.digits)?;
            }
            all.targets.extend(digits.0.iter().map(|&digit| digit as u8));
            match file.has("index") {
                true => all.index.extend(file.ints(&batch, "index")?),
                false => all.index.extend((0..labels.len()).map(|row| (before + all.labels.len() + row) as i64)),
            }
            all.labels.extend(labels);
            decode(file, row, &pngs(file, &batch)?, (self.height, self.width), &mut all.images)?;
        }
        Ok(all)
    }

    /// The digits that labels spell. `row` is the number of the first label in the file.
    fn spell(&self, file: &ParquetFile, row: usize, labels: &[i64]) -> Result<Vec<i64>> {
        let classes = labels::classes(self.digits).and_then(|classes| i64::try_from(classes).ok()).unwrap_or(i64::MAX);
        if let Some((at, label)) = labels.iter().enumerate().find(|(_, label)| !(0..classes).contains(*label)) {
            let (digits, s) = (self.digits, if self.digits == 1 { "" } else { "s" });
            let expected = format!("0 to {}, as {digits} digit{s} spell (there is no column `digits`)", classes - 1);
            let found = format!("row {} has label {label}", row + at);
            return Err(Error::format(file.path(), found, expected));
        }
        Ok(labels.iter().flat_map(|&label| labels::digits(label as u64, self.digits)).map(i64::from).collect())
    }
}

/// The number of rows before a row group in its file.
fn rows_before(file: &ParquetFile, group: usize) -> usize {
    file.row_groups().iter().take(group).sum()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{
        ArrayRef, Int8Array, Int32Array, LargeBinaryArray, LargeListArray, RecordBatch, StringArray, StructArray,
    };
    use arrow::datatypes::{DataType, Field, Int32Type};
    use parquet::arrow::ArrowWriter;
    use parquet::file::properties::WriterProperties;

    use super::*;

    fn png(height: u32, width: u32, grey: u8) -> Vec<u8> {
        let mut out = std::io::Cursor::new(Vec::new());
        image::GrayImage::from_pixel(width, height, image::Luma([grey]))
            .write_to(&mut out, image::ImageFormat::Png)
            .unwrap();
        out.into_inner()
    }

    /// Writes a file of images whose grey is the number of their row. The types of the columns are of other
    /// widths than in shards.
    fn write(path: &Path, rows: usize, more: &[(&str, ArrayRef)]) {
        write_with(path, rows, more, WriterProperties::default());
    }

    fn write_with(path: &Path, rows: usize, more: &[(&str, ArrayRef)], properties: WriterProperties) {
        let pngs: Vec<Vec<u8>> = (0..rows).map(|row| png(2, 3, row as u8)).collect();
        let bytes: ArrayRef = Arc::new(LargeBinaryArray::from_iter_values(&pngs));
        let names: ArrayRef = Arc::new(StringArray::from(vec![None::<&str>; rows]));
        let image = StructArray::from(vec![
            (Arc::new(Field::new("bytes", DataType::LargeBinary, true)), bytes),
            (Arc::new(Field::new("path", DataType::Utf8, true)), names),
        ]);
        let columns = [("image", Arc::new(image) as ArrayRef)].into_iter().chain(more.iter().cloned());
        let batch = RecordBatch::try_from_iter_with_nullable(columns.map(|(n, c)| (n, c, true))).unwrap();
        let file = std::fs::File::create(path).unwrap();
        let mut writer = ArrowWriter::try_new(file, batch.schema(), Some(properties)).unwrap();
        writer.write(&batch).unwrap();
        writer.close().unwrap();
    }

    #[test]
    fn images_with_labels_alone_are_read_and_the_label_spells_the_digits() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("test.parquet");
        write(&path, 3, &[("label", Arc::new(Int8Array::from(vec![7, 0, 42])))]);
        let files = [path.clone()];
        let split = read(&files, 2, None).unwrap();
        assert_eq!((split.height, split.width, split.digits, split.len()), (2, 3, 2, 3));
        assert_eq!((split.targets.as_slice(), split.labels.as_slice()), (&[0, 7, 0, 0, 4, 2][..], &[7, 0, 42][..]));
        assert_eq!((split.index.as_slice(), split.image(2)), (&[0, 1, 2][..], &[2; 6][..]));
        assert_eq!(read(&files, 2, Some(2)).unwrap().len(), 2);
        let refused = read(&files, 1, None).unwrap_err().to_string();
        let expected = "row 2 has label 42; expected 0 to 9, as 1 digit spell (there is no column `digits`)";
        assert_eq!(refused, format!("`{}`: {expected}", path.display()));
    }

    #[test]
    fn digits_and_index_are_taken_as_they_stand_also_from_large_lists() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("test.parquet");
        let digits = |rows: &[[i32; 2]]| -> ArrayRef {
            let rows = rows.iter().map(|row| Some(row.iter().map(|&digit| Some(digit)).collect::<Vec<_>>()));
            Arc::new(LargeListArray::from_iter_primitive::<Int32Type, _, _>(rows))
        };
        let label: ArrayRef = Arc::new(Int32Array::from(vec![12, 34]));
        let index: ArrayRef = Arc::new(Int32Array::from(vec![8, 9]));
        write(&path, 2, &[("label", label.clone()), ("digits", digits(&[[1, 2], [3, 4]])), ("index", index)]);
        let split = read(std::slice::from_ref(&path), 1, None).unwrap();
        assert_eq!(
            (split.digits, split.targets.as_slice(), split.index.as_slice()),
            (2, &[1, 2, 3, 4][..], &[8, 9][..])
        );
        write(&path, 2, &[("label", label.clone()), ("digits", digits(&[[1, 2], [3, 10]]))]);
        let refused = read(std::slice::from_ref(&path), 1, None).unwrap_err().to_string();
        assert!(refused.ends_with("row 1 has digit 10; expected column `digits` with digits 0 to 9"), "{refused}");
        write(&path, 2, &[("digits", digits(&[[1, 2], [3, 4]]))]);
        let refused = read(&[path], 1, None).unwrap_err().to_string();
        assert!(refused.ends_with("no column `label`; expected the columns image, label, digits"), "{refused}");
    }

    #[test]
    fn a_label_that_is_not_the_number_its_digits_spell_is_refused_with_its_row() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("test.parquet");
        let refusal = |labels: &[i64], digits: ArrayRef| {
            write(&path, labels.len(), &[("label", crate::parquet_file::ints(labels)), ("digits", digits)]);
            read(std::slice::from_ref(&path), 2, None).unwrap_err().to_string().replace(path.to_str().unwrap(), "P")
        };
        let expected = "`P`: row 1 has label 12 and digits [9, 9]; expected label 99, which these digits spell";
        assert_eq!(refusal(&[7, 12], crate::parquet_file::lists(&[0, 7, 9, 9], 2)), expected);
        let long = "`P`: row 0 has label 5 and digits [9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9]; \
                    expected at most 18 digits, whose number is the label";
        assert_eq!(refusal(&[5], crate::parquet_file::lists(&[9; 20], 20)), long);
        // the number of a row counts from the beginning of the file, across row groups
        let groups = WriterProperties::builder().set_max_row_group_row_count(Some(2)).build();
        let columns = [
            ("label", crate::parquet_file::ints(&[1, 2, 3, 4])),
            ("digits", crate::parquet_file::lists(&[1, 2, 3, 9], 1)),
        ];
        write_with(&path, 4, &columns, groups);
        let refused = read(&[home.path().join("test.parquet")], 2, None).unwrap_err().to_string();
        assert!(refused.contains("`: row 3 has label 4 and digits [9]; expected label 9, "), "{refused}");
    }

    #[test]
    fn paths_are_grouped_by_split_and_folders_leave_train_out() {
        let home = tempfile::tempdir().unwrap();
        let file = |name: &str| {
            let path = home.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(&path, "").unwrap();
            path
        };
        let names = |paths: &[PathBuf]| -> Vec<(String, usize)> {
            splits(paths).unwrap().into_iter().map(|(name, files)| (name, files.len())).collect()
        };
        for name in ["train-00000-of-00001", "test-00000-of-00002", "test-00001-of-00002", "validation"] {
            file(&format!("data/{name}.parquet"));
        }
        let expected = [("validation".to_owned(), 1), ("test".to_owned(), 2)];
        assert_eq!(names(&[home.path().to_owned()]), expected);
        assert_eq!(names(&[home.path().join("data")]), expected);
        let plain = [file("a-b.parquet"), file("train-00000-of-00001.parquet")];
        assert_eq!(names(&plain), [("a-b".to_owned(), 1), ("train".to_owned(), 1)]);
        let refusal = |folder: &Path| {
            splits(&[folder.to_owned()]).unwrap_err().to_string().replace(&folder.display().to_string(), "F")
        };
        let expected = "expected Parquet files of val or test there or in its folder data; to evaluate on train, name the \
                        files";
        std::fs::create_dir(home.path().join("empty")).unwrap();
        let none = refusal(&home.path().join("empty"));
        assert_eq!(none, format!("`F`: no Parquet files of any split but train; {expected}"));
        std::fs::remove_file(home.path().join("data/test-00000-of-00002.parquet")).unwrap();
        let found = "1 files of `test` whose names do not form one set; expected test-00000-of-0000N.parquet, N files";
        assert_eq!(refusal(&home.path().join("data")), format!("`F`: {found}"));
    }
}
