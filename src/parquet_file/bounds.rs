//! Limits on the memory that reading a Parquet file takes. The Parquet library reserves memory according to the file:
//! the children of a schema element, rows, the uncompressed size of a page, the number of values in a dictionary. Here
//! these numbers are read first, and compared with fixed limits, with each other and with the size of the file.
//!
//! The limits apply to the memory that the library holds at one time. A caller must limit what it collects.

use std::fs::File;
use std::io::{self, BufReader, Read, Seek, SeekFrom};
use std::path::Path;
use std::sync::Arc;

use arrow::datatypes::DataType;
use parquet::arrow::arrow_reader::ArrowReaderMetadata;
use parquet::basic::{Encoding, Type};
use parquet::column::page::{Page, PageReader};
use parquet::file::metadata::ColumnChunkMetaData;
use parquet::file::serialized_reader::SerializedPageReader;
use parquet::schema::types::ColumnDescriptor;

use super::thrift::{BINARY, I32, I64, LIST, STRUCT, Thrift, Types, broken};
use crate::error::{Error, Result};
use crate::guard::guarded;

/// The maximum size of a footer in bytes. Footers of this program have some kB; one with a thousand columns in a
/// hundred row groups has about 10 MB. The data made from a footer in memory can be a hundred times its size.
const FOOTER: u64 = 16 << 20;
/// The maximum nesting depth of groups in a schema. Readers of a schema recurse once per level.
const DEPTH: usize = 64;
/// The maximum uncompressed size in bytes of the largest pages of all columns that are read together. A page usually
/// has 1 MB, and one with a hundred images of 100 kB has 10 MB.
const PAGES: u64 = 128 << 20;
/// The maximum size in bytes of all lists in a row group, in all columns that are read together. A single
/// row can hold all of them.
pub const LISTS: u64 = 128 << 20;
/// The maximum number of values in a page that begins with the lengths of its values.
const LENGTHS: u64 = 1 << 23;
/// The maximum number of miniblocks in a block of lengths. Known writers use 4.
const MINIBLOCKS: u64 = 1 << 12;
/// The maximum size in bytes of a batch of rows, unless its first row is larger.
const BATCH: u64 = 64 << 20;

/// The fields of the structs in a footer, as defined in parquet.thrift.
const FILE_METADATA: Types = &[(1, I32), (2, LIST), (3, I64), (4, LIST), (5, LIST), (6, BINARY), (7, LIST)];
const SCHEMA_ELEMENT: Types =
    &[(1, I32), (2, I32), (3, I32), (4, BINARY), (5, I32), (6, I32), (7, I32), (8, I32), (9, I32), (10, STRUCT)];
/// The fields of a page header and of the headers in it: data page, dictionary page, data page of version 2.
const PAGE_HEADER: Types = &[(1, I32), (2, I32), (3, I32), (4, I32), (5, STRUCT), (7, STRUCT), (8, STRUCT)];
const DATA_PAGE: Types = &[(1, I32), (2, I32), (3, I32), (4, I32)];
const DICTIONARY_PAGE: Types = &[(1, I32), (2, I32)];
const DATA_PAGE_2: Types = &[(1, I32), (2, I32), (3, I32), (4, I32), (5, I32), (6, I32)];

/// Checks the footer of a file before it is loaded.
///
/// # Errors
/// [`Error::Format`] if the footer is larger than any valid one, [`Error::Parquet`] if the elements of the schema do
/// not form a tree, or if a structure does not end.
pub fn check_footer(path: &Path, mut file: &File) -> Result<()> {
    let bytes = file.metadata().map_err(Error::io(path, "look at it"))?.len();
    let mut tail = [0; 8];
    if bytes < 12 {
        return Err(Error::parquet(path)(format!("{bytes} bytes, which hold no footer")));
    }
    let read_tail = file.seek(SeekFrom::End(-8)).and_then(|_| file.read_exact(&mut tail));
    read_tail.map_err(Error::io(path, "read it"))?;
    let [a, b, c, d, magic @ ..] = tail;
    let length = u64::from(u32::from_le_bytes([a, b, c, d]));
    if magic != *b"PAR1" || length > bytes - 8 {
        return Ok(()); // the library reports this error itself
    }
    if length > FOOTER {
        return Err(Error::format(path, format!("a footer of {length} bytes"), format!("at most {FOOTER}")));
    }
    file.seek(SeekFrom::End(-8 - length as i64)).map_err(Error::io(path, "read it"))?;
    let mut footer = Thrift::new(BufReader::new(file.take(length)));
    footer
        .fields(FILE_METADATA, |footer, number| match number {
            2 => check_schema(footer).map(|()| true),
            _ => Ok(false),
        })
        .map_err(Error::parquet(path))
}

/// Checks the elements of a schema, which are stored in depth-first order, each with the number of its children.
fn check_schema<R: Read>(footer: &mut Thrift<R>) -> io::Result<()> {
    let (kind, elements) = footer.list()?;
    if kind != STRUCT && elements > 0 {
        return Err(broken("a schema of no structs"));
    }
    // the number of children still to come, for each open group
    let mut open: Vec<u64> = Vec::new();
    for after in (0..elements).rev() {
        let mut children = 0;
        footer.fields(SCHEMA_ELEMENT, |footer, number| {
            if number == 5 {
                children = footer.int()?;
            }
            Ok(number == 5)
        })?;
        let children = u64::try_from(children).ok().filter(|&children| children <= after);
        let children = children.ok_or_else(|| broken("a schema of fewer elements than it says"))?;
        if let Some(siblings) = open.last_mut() {
            *siblings -= 1;
        }
        if children > 0 {
            open.push(children);
        }
        if open.len() > DEPTH {
            return Err(broken(&format!("a schema of more than {DEPTH} groups in each other")));
        }
        while open.last() == Some(&0) {
            open.pop();
        }
    }
    Ok(())
}

/// The number of rows that may be read at a time, for some columns (leaves of the schema) of some row groups.
///
/// # Errors
/// [`Error::Format`] if rows, pages or lists exceed every valid size, or if the pages of a row group do not hold the
/// number of rows that it declares.
pub fn rows_at_a_time(
    path: &Path,
    metadata: &ArrowReaderMetadata,
    leaves: &[usize],
    groups: &[usize],
) -> Result<usize> {
    let (file, parquet) = (metadata.metadata(), metadata.parquet_schema());
    let type_of =
        |leaf| metadata.schema().fields().get(parquet.get_column_root_idx(leaf)).map(|field| field.data_type());
    // a struct counts once for each of its leaves, which is more than enough
    let row = leaves.iter().filter_map(|&leaf| type_of(leaf)).map(width).fold(1, u64::saturating_add);
    if row > PAGES {
        return Err(Error::format(path, format!("rows of {row} bytes"), format!("at most {PAGES}")));
    }
    let mut at_a_time = BATCH / row;
    for group in groups.iter().filter_map(|&group| file.row_groups().get(group)) {
        let (mut largest, mut listed) = (0_u64, 0_u64);
        for &leaf in leaves {
            let (Some(chunk), column) = (group.columns().get(leaf), parquet.column(leaf)) else { continue };
            let pages = Pages::of(path, chunk, &column, group.num_rows())?;
            largest = largest.saturating_add(pages.largest);
            let is_text = column.physical_type() == Type::BYTE_ARRAY;
            if column.max_rep_level() > 0 {
                let item = type_of(leaf).map_or(1, listed_width).max(non_negative(column.type_length())).max(8);
                let texts = pages.unpacked.saturating_add(pages.values.saturating_mul(pages.repeated));
                let bytes = pages.values.saturating_mul(item).saturating_add(if is_text { texts } else { 0 });
                listed = listed.saturating_add(bytes);
                continue;
            }
            let rows = u64::try_from(group.num_rows()).unwrap_or(u64::MAX);
            if pages.values < rows {
                let found = format!("a row group of {rows} rows with {} values of `{}`", pages.values, column.name());
                return Err(Error::format(path, found, "one for each row"));
            }
            if is_text {
                let alone = if pages.unpacked > BATCH { pages.largest } else { 1 };
                at_a_time = at_a_time.min(BATCH / alone.max(pages.repeated).max(1));
            }
        }
        if largest > PAGES {
            let found = format!("pages of {largest} bytes (unpacked, the largest of each column)");
            return Err(Error::format(path, found, format!("at most {PAGES}; write it again with smaller pages")));
        }
        if listed > LISTS {
            let found = format!("lists of {listed} bytes in a row group");
            return Err(Error::format(path, found, format!("at most {LISTS}; write it again with smaller row groups")));
        }
    }
    Ok(usize::try_from(at_a_time).unwrap_or(usize::MAX).max(1))
}

/// The minimum number of bytes of a value of a type: almost none for a text or a list, which can be empty. An Arrow
/// schema in a file can declare types of any width, and nulls take that width too.
fn width(data_type: &DataType) -> u64 {
    match data_type {
        DataType::FixedSizeList(item, length) => width(item.data_type()).saturating_mul(non_negative(*length)).max(1),
        DataType::FixedSizeBinary(length) => non_negative(*length),
        DataType::Struct(fields) => fields.iter().map(|field| width(field.data_type())).fold(1, u64::saturating_add),
        other => other.primitive_width().unwrap_or(1) as u64,
    }
}

/// The number of bytes of the widest value within a list of a type, at any level.
fn listed_width(data_type: &DataType) -> u64 {
    let inner = |item: &DataType| width(item).max(listed_width(item));
    match data_type {
        DataType::List(item) | DataType::LargeList(item) | DataType::Map(item, _) => inner(item.data_type()),
        DataType::ListView(item) | DataType::LargeListView(item) => inner(item.data_type()),
        DataType::FixedSizeList(item, length) => listed_width(item.data_type()).saturating_mul(non_negative(*length)),
        DataType::Struct(fields) => fields.iter().map(|field| listed_width(field.data_type())).max().unwrap_or(0),
        _ => 0,
    }
}

fn non_negative(number: i32) -> u64 {
    u64::try_from(number).unwrap_or(0)
}

/// The sums of the page headers of a column in one row group.
#[derive(Debug, Default, PartialEq, Eq)]
struct Pages {
    /// The uncompressed bytes of the largest page.
    largest: u64,
    /// The uncompressed bytes of all pages.
    unpacked: u64,
    /// The number of values in all pages, including nulls.
    values: u64,
    /// The maximum number of bytes of a value that are not stored in its page, such as an entry of a dictionary.
    repeated: u64,
}

impl Pages {
    fn of(path: &Path, chunk: &ColumnChunkMetaData, column: &ColumnDescriptor, rows: i64) -> Result<Pages> {
        let mut pages = Pages::default();
        let file = crate::files::open(path)?;
        let refuse = |error: io::Error| Error::parquet(path)(format!("the pages of `{}`: {error}", column.name()));
        let (start, mut left) = guarded(path, || chunk.byte_range())?;
        let mut input = BufReader::new(file);
        input.seek(SeekFrom::Start(start)).map_err(refuse)?;
        let (mut has_words, mut has_lengths) = (false, false);
        while left > 0 {
            let mut header = Thrift::new((&mut input).take(left));
            let page = Header::read(&mut header).map_err(refuse)?;
            left -= header.read;
            let packed = u64::try_from(page.packed).ok().filter(|&packed| packed <= left);
            let (Some(packed), Ok(unpacked)) = (packed, u64::try_from(page.unpacked)) else {
                return Err(refuse(broken("a page of more bytes than there are")));
            };
            input.seek_relative(packed as i64).map_err(refuse)?;
            left -= packed;
            // a page that declares a larger size is refused before it is unpacked; a page that turns out larger than it
            // declares is refused while it is unpacked
            pages.largest = pages.largest.max(unpacked);
            pages.unpacked = pages.unpacked.saturating_add(unpacked);
            let words = u64::try_from(page.words).ok().filter(|&words| words <= unpacked);
            if words.is_none() {
                return Err(refuse(broken("a dictionary of more words than bytes")));
            }
            pages.values = pages.values.saturating_add(u64::try_from(page.values).unwrap_or(0));
            has_words |= page.words > 0;
            // a text can consist of a prefix of the previous text and a remainder
            if page.encoding == Encoding::DELTA_BYTE_ARRAY as i64 {
                pages.repeated = pages.repeated.max(unpacked);
            }
            has_lengths |= page.encoding == Encoding::DELTA_BYTE_ARRAY as i64;
            has_lengths |= page.encoding == Encoding::DELTA_LENGTH_BYTE_ARRAY as i64;
        }
        if pages.largest <= PAGES && column.physical_type() == Type::BYTE_ARRAY && has_words {
            pages.repeated = pages.repeated.max(longest_word(path, chunk, rows)?);
        }
        if pages.largest <= PAGES && has_lengths {
            check_lengths(path, chunk, column, rows)?;
        }
        Ok(pages)
    }
}

/// The fields of a page header that are used.
#[derive(Default)]
struct Header {
    packed: i64,
    unpacked: i64,
    /// The number of values of a data page.
    values: i64,
    /// The number of values of a dictionary page.
    words: i64,
    encoding: i64,
}

impl Header {
    fn read<R: Read>(input: &mut Thrift<R>) -> io::Result<Header> {
        let mut page = Header { encoding: -1, ..Header::default() };
        input.fields(PAGE_HEADER, |input, number| {
            match number {
                2 => page.unpacked = input.int()?,
                3 => page.packed = input.int()?,
                5 => page.data(input, DATA_PAGE, 2)?,
                7 => input.fields(DICTIONARY_PAGE, |input, number| {
                    if number == 1 {
                        page.words = input.int()?;
                    }
                    Ok(number == 1)
                })?,
                8 => page.data(input, DATA_PAGE_2, 4)?,
                _ => return Ok(false),
            }
            Ok(true)
        })?;
        Ok(page)
    }

    /// Reads the header of a data page, whose encoding is in field `encoding`.
    fn data<R: Read>(&mut self, input: &mut Thrift<R>, types: Types, encoding: i16) -> io::Result<()> {
        input.fields(types, |input, number| {
            match number {
                1 => self.values = input.int()?,
                _ if number == encoding => self.encoding = input.int()?,
                _ => return Ok(false),
            }
            Ok(true)
        })
    }
}

/// A reader of the pages of a column in one row group.
fn page_reader(path: &Path, chunk: &ColumnChunkMetaData, rows: i64) -> Result<SerializedPageReader<File>> {
    let file = Arc::new(crate::files::open(path)?);
    let rows = usize::try_from(rows).unwrap_or(0);
    guarded(path, || SerializedPageReader::new(file, chunk, rows, None))?.map_err(Error::parquet(path))
}

/// The number of bytes of the longest text in the dictionary of a column.
fn longest_word(path: &Path, chunk: &ColumnChunkMetaData, rows: i64) -> Result<u64> {
    let mut reader = page_reader(path, chunk, rows)?;
    let mut longest = 0;
    while let Some(page) = guarded(path, || reader.get_next_page())?.map_err(Error::parquet(path))? {
        let Page::DictionaryPage { buf, .. } = page else { break }; // a dictionary page is the first page
        let mut words = &buf[..];
        while let Some((length, rest)) = words.split_first_chunk() {
            let length = u32::from_le_bytes(*length);
            longest = longest.max(u64::from(length));
            words = rest.get(length as usize..).unwrap_or_default();
        }
    }
    Ok(longest)
}

/// Compares the number of lengths at the beginning of a page of texts, for which the library reserves memory, with the
/// number of its values.
fn check_lengths(path: &Path, chunk: &ColumnChunkMetaData, column: &ColumnDescriptor, rows: i64) -> Result<()> {
    let mut reader = page_reader(path, chunk, rows)?;
    while let Some(page) = guarded(path, || reader.get_next_page())?.map_err(Error::parquet(path))? {
        let (encoding, data) = match &page {
            Page::DataPage { buf, encoding, .. } => {
                let levels = [column.max_rep_level(), column.max_def_level()];
                // each kind of levels that the column has is preceded by its length
                let data = levels.iter().filter(|&&level| level > 0).try_fold(&buf[..], |rest, _| {
                    let (length, rest) = rest.split_first_chunk()?;
                    rest.get(u32::from_le_bytes(*length) as usize..)
                });
                (*encoding, data)
            }
            Page::DataPageV2 { buf, encoding, def_levels_byte_len, rep_levels_byte_len, .. } => {
                let levels = u64::from(*def_levels_byte_len) + u64::from(*rep_levels_byte_len);
                (*encoding, usize::try_from(levels).ok().and_then(|levels| buf.get(levels..)))
            }
            Page::DictionaryPage { .. } => continue,
        };
        let lists = match encoding {
            Encoding::DELTA_LENGTH_BYTE_ARRAY => 1,
            Encoding::DELTA_BYTE_ARRAY => 2, // the lengths of the prefixes, then of the suffixes
            _ => continue,
        };
        let values = u64::from(page.num_values());
        let mut data = data.unwrap_or_default();
        for _ in 0..lists {
            let count = skip_lengths(&mut data).map_err(Error::parquet(path))?;
            if count > values || values > LENGTHS {
                let found = format!("a page of `{}` with {count} lengths for {values} values", column.name());
                return Err(Error::format(path, found, format!("as many as values, and at most {LENGTHS}")));
            }
        }
    }
    Ok(())
}

/// Skips a list of numbers in the encoding DELTA_BINARY_PACKED, and returns how many there are.
fn skip_lengths(data: &mut &[u8]) -> io::Result<u64> {
    let mut input = Thrift::new(&mut *data);
    let (block, per_block, count) = (input.varint()?, input.varint()?, input.varint()?);
    input.varint()?; // the first value
    if per_block == 0 || per_block > MINIBLOCKS || block < per_block {
        return Err(broken(&format!("blocks of {block} numbers in {per_block} parts")));
    }
    let mut left = count.saturating_sub(1);
    while left > 0 {
        input.varint()?; // the minimum delta
        let widths = (0..per_block).map(|_| input.byte().map(u64::from)).collect::<io::Result<Vec<u64>>>()?;
        for width in widths {
            // miniblocks after the last value are empty
            if left > 0 {
                let bits = width.checked_mul(block / per_block).ok_or_else(|| broken("a block without end"))?;
                input.pass(bits / 8)?;
            }
            left = left.saturating_sub(block / per_block);
        }
    }
    Ok(count)
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use proptest::prelude::*;

    use super::*;

    fn width_of(data_type: DataType) -> (u64, u64) {
        (width(&data_type), listed_width(&data_type))
    }

    #[test]
    fn a_type_is_as_wide_as_its_nulls() {
        let fixed = |item: DataType, length| DataType::FixedSizeList(crate::parquet_file::item(item), length);
        let list = |item: DataType| DataType::List(crate::parquet_file::item(item));
        assert_eq!(width_of(DataType::Int64), (8, 0));
        assert_eq!(width_of(DataType::Utf8), (1, 0));
        assert_eq!(width_of(fixed(DataType::Int64, 2)), (16, 0));
        let wide = fixed(fixed(fixed(DataType::Int64, i32::MAX), i32::MAX), i32::MAX);
        assert_eq!(width_of(wide), (u64::MAX, 0));
        assert_eq!(width_of(list(fixed(DataType::Int64, 1000))), (1, 8000));
        assert_eq!(width_of(list(list(DataType::FixedSizeBinary(7)))), (1, 7));
        assert_eq!(width_of(DataType::FixedSizeBinary(-1)), (0, 0));
    }

    #[test]
    fn lengths_are_counted_as_the_encoding_has_them() {
        // 3 numbers in a block of 128 with 4 miniblocks, of which the first has 2 bits per number; then other data
        let mut data: &[u8] = &[128, 1, 4, 3, 0, 0, 2, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8, 99];
        assert_eq!(skip_lengths(&mut data).unwrap(), 3);
        assert_eq!(data, [99]);
        for broken in [&[][..], &[128, 1, 0, 3, 0, 0], &[0, 4, 3, 0, 0], &[128, 1, 4, 3, 0, 0, 2, 0]] {
            assert!(skip_lengths(&mut &*broken).is_err(), "{broken:?}");
        }
    }

    proptest! {
        #[test]
        fn no_footer_makes_the_look_into_it_panic(footer in prop::collection::vec(any::<u8>(), 0..300)) {
            let mut file = tempfile::NamedTempFile::new().unwrap();
            file.write_all(&[b"PAR1", &footer[..], &(footer.len() as u32).to_le_bytes(), b"PAR1"].concat()).unwrap();
            let _ = check_footer(file.path(), file.as_file());
            let _ = Header::read(&mut Thrift::new(&footer[..]));
            let _ = skip_lengths(&mut &footer[..]);
        }
    }
}
