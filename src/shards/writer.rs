//! Writes shards. Row groups are rendered, encoded and compressed on all threads, and appended in order, so that the
//! bytes do not depend on the number of threads and memory does not grow with the number of rows.

use std::io::Write;
use std::path::Path;
use std::sync::Arc;

use arrow::array::{ArrayRef, BinaryArray, FixedSizeListArray, StringArray, StructArray};
use arrow::buffer::{Buffer, OffsetBuffer};
use arrow::datatypes::{DataType, Schema};
use image::codecs::png::{CompressionType, FilterType, PngEncoder};
use image::{ExtendedColorType, ImageEncoder};
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_writer::{ArrowColumnChunk, ArrowRowGroupWriterFactory, compute_leaves};
use parquet::file::properties::WriterProperties;
use parquet::file::writer::SerializedFileWriter;
use parquet::schema::types::ColumnPath;
use rayon::prelude::*;

use super::parameters::Parameters;
use super::schema::{FEATURES_KEY, Layout};
use super::set::Sink;
use crate::digest::{Digest, Parts};
use crate::error::{Error, Result};
use crate::parquet_file::{Compression, ints, item, lists, properties};

/// The samples of one row group, as columns.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Samples {
    /// The class of each sample.
    pub labels: Vec<i64>,
    /// The index of each sample in its class.
    pub index: Vec<i64>,
    /// The digits of each sample, left to right: `digits` per sample.
    pub digits: Vec<i64>,
    /// The number of each digit's glyph in the pool: `digits` per sample.
    pub sources: Vec<i64>,
    /// The box around each digit's ink, `x, y, width, height` in pixels: `4 * digits` per sample. Four zeros for a digit
    /// without ink.
    pub boxes: Vec<i64>,
    /// The number of the stored epoch of each sample; empty for plain images.
    pub epochs: Vec<i64>,
    /// The image that each slot is taken from, if the layout has columns for it.
    pub donors: Option<Donors>,
    /// The augmentation parameters of each sample, for each set of columns of the layout.
    pub parameters: Vec<Parameters>,
    /// Grey pixels, row-major: `height * width` per sample.
    pub images: Vec<u8>,
}

/// The image that each slot of the samples is taken from: `digits` per sample.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Donors {
    /// The classes of the images.
    pub labels: Vec<i64>,
    /// Their indices in the class.
    pub index: Vec<i64>,
}

impl Samples {
    /// The pixels of sample `row`, where each sample has `area` pixels. `None` if there is no such sample.
    pub fn image(&self, row: usize, area: usize) -> Option<&[u8]> {
        self.images.get(row * area..(row + 1) * area)
    }
}

/// The sizes of shards and row groups.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cut {
    /// The maximum number of rows per shard.
    pub rows_per_shard: usize,
    /// The maximum number of rows per row group.
    pub row_group_rows: usize,
}

impl Cut {
    /// The number of rows of each row group of each shard, for `rows` rows in all. The sizes of shards differ
    /// by at most one row.
    pub fn groups(&self, rows: u64) -> Vec<Vec<usize>> {
        let shards = rows.div_ceil(self.rows_per_shard as u64).max(1);
        let shard_rows = (0..shards).map(|i| rows / shards + u64::from(i < rows % shards));
        let group = self.row_group_rows as u64;
        shard_rows
            .map(|n| (0..n).step_by(self.row_group_rows).map(|first| group.min(n - first) as usize).collect())
            .collect()
    }
}

/// Writes shards of one layout with the same metadata.
pub struct ShardWriter {
    layout: Layout,
    schema: Arc<Schema>,
    properties: WriterProperties,
}

impl ShardWriter {
    /// A writer of shards with this layout, metadata as (key, value), and compression.
    pub fn new(layout: &Layout, metadata: &[(&str, String)], compression: Compression) -> ShardWriter {
        let mut metadata = metadata.to_vec();
        metadata.push((FEATURES_KEY, layout.features()));
        let properties = properties(compression, &metadata)
            .set_max_row_group_row_count(None)
            // PNGs and paths never repeat, so a dictionary of them would be discarded
            .set_column_dictionary_enabled(ColumnPath::new(vec!["image".into(), "bytes".into()]), false)
            .set_column_dictionary_enabled(ColumnPath::new(vec!["image".into(), "path".into()]), false)
            .set_column_dictionary_enabled(ColumnPath::from("pixels"), false)
            .build();
        ShardWriter { layout: layout.clone(), schema: Arc::new(layout.schema()), properties }
    }

    /// Writes one shard. `groups` holds the number of rows of each row group. `next` returns the material of the next row
    /// group, for the given number of rows; it is called in order. `render` makes samples from the material, on any thread.
    /// The digests of the samples of each row group are passed to `tell`, in order.
    pub fn write<T: Send>(
        &self,
        Sink { path, bytes }: Sink<'_>,
        groups: &[usize],
        mut next: impl FnMut(usize) -> Result<T>,
        render: impl Fn(T) -> Result<Samples> + Sync,
        mut tell: impl FnMut(&[Digest]) -> Result<()>,
    ) -> Result<()> {
        let (mut writer, factory) = ArrowWriter::try_new(bytes, self.schema.clone(), Some(self.properties.clone()))
            .and_then(ArrowWriter::into_serialized_writer)
            .map_err(Error::write(path))?;
        let mut position = 0;
        for wave in groups.chunks(wave_groups(groups, &self.layout)) {
            let material = wave.iter().map(|&rows| next(rows)).collect::<Result<Vec<T>>>()?;
            let encoded = material
                .into_par_iter()
                .enumerate()
                .map(|(i, material)| {
                    encode(path, &self.layout, &self.schema, &factory, position + i, render(material)?)
                })
                .collect::<Result<Vec<Encoded>>>()?;
            position += wave.len();
            for group in encoded {
                append(&mut writer, group.columns).map_err(Error::write(path))?;
                tell(&group.digests)?;
            }
        }
        writer.close().map(drop).map_err(Error::write(path))
    }
}

/// The number of row groups to make at once: enough for all threads, but limited to 256 MiB of pixels.
fn wave_groups(shard: &[usize], layout: &Layout) -> usize {
    const WAVE_BYTES: usize = 256 << 20;
    let group = shard.iter().max().map_or(0, |rows| rows * layout.height * layout.width);
    (WAVE_BYTES / group.max(1)).clamp(1, 4 * rayon::current_num_threads())
}

fn append(
    writer: &mut SerializedFileWriter<impl Write + Send>,
    columns: Vec<ArrowColumnChunk>,
) -> parquet::errors::Result<()> {
    let mut group = writer.next_row_group()?;
    for column in columns {
        column.append_to_row_group(&mut group)?;
    }
    group.close().map(drop)
}

/// An encoded row group, ready to be appended.
struct Encoded {
    columns: Vec<ArrowColumnChunk>,
    digests: Vec<Digest>,
}

fn encode(
    path: &Path,
    layout: &Layout,
    schema: &Schema,
    factory: &ArrowRowGroupWriterFactory,
    group: usize,
    samples: Samples,
) -> Result<Encoded> {
    let digests = row_digests(layout, &samples);
    let columns = arrays(layout, samples).map_err(Error::write(path))?;
    let write = || -> parquet::errors::Result<Vec<ArrowColumnChunk>> {
        let mut writers = factory.create_column_writers(group)?.into_iter();
        let mut chunks = Vec::new();
        for (field, column) in schema.fields().iter().zip(&columns) {
            for (leaf, mut writer) in compute_leaves(field, column)?.into_iter().zip(&mut writers) {
                writer.write(&leaf)?;
                chunks.push(writer.close()?);
            }
        }
        Ok(chunks)
    };
    Ok(Encoded { columns: write().map_err(Error::write(path))?, digests })
}

/// One digest per sample, computed from its columns and the digest of its pixels. Pixels are hashed separately, because
/// BLAKE3 is fast on whole kilobytes that begin where its input begins.
#[expect(
    clippy::indexing_slicing,
    reason = "a row of every column, as long as the number of samples and the layout say"
)]
pub fn row_digests(layout: &Layout, samples: &Samples) -> Vec<Digest> {
    let (n, area) = (layout.digits, layout.height * layout.width);
    let mut columns = Vec::new();
    (0..samples.labels.len())
        .map(|row| {
            let cells = row * n..(row + 1) * n;
            columns.clear();
            for list in [
                &[samples.labels[row], samples.index[row]],
                &samples.digits[cells.clone()],
                &samples.sources[cells.clone()],
                &samples.boxes[4 * cells.start..4 * cells.end],
            ] {
                columns.extend_from_slice(&(list.len() as u64).to_le_bytes());
                columns.extend(list.iter().flat_map(|value| value.to_le_bytes()));
            }
            columns.extend(samples.epochs.get(row).into_iter().flat_map(|epoch| epoch.to_le_bytes()));
            for list in samples.donors.iter().flat_map(|Donors { labels, index }| [labels, index]) {
                columns.extend(list[cells.clone()].iter().flat_map(|value| value.to_le_bytes()));
            }
            samples.parameters.iter().for_each(|parameters| parameters.put_bytes(row, &mut columns));
            let pixels = Digest::of(&samples.images[row * area..(row + 1) * area]);
            Parts::default().bytes(&columns).digest(&pixels).finish()
        })
        .collect()
}

/// The columns of the schema, in the order of the schema.
fn arrays(layout: &Layout, samples: Samples) -> Result<Vec<ArrayRef>, arrow::error::ArrowError> {
    let (n, rows) = (layout.digits, samples.labels.len());
    let area = layout.height * layout.width;
    let mut png = Vec::with_capacity(rows * area / 4);
    let mut offsets = vec![0];
    for image in samples.images.chunks_exact(area) {
        // No filter, and the encoder's fast mode: images that are mostly black become small at once, and the
        // compression of the pages does the rest.
        PngEncoder::new_with_quality(&mut png, CompressionType::Fast, FilterType::NoFilter)
            .write_image(image, layout.width as u32, layout.height as u32, ExtendedColorType::L8)
            .map_err(|e| arrow::error::ArrowError::ExternalError(Box::new(e)))?;
        offsets.push(i32::try_from(png.len()).map_err(|_| {
            arrow::error::ArrowError::InvalidArgumentError("a row group holds over 2 GiB of images".into())
        })?);
    }
    let bytes = BinaryArray::try_new(OffsetBuffer::new(offsets.into()), Buffer::from_vec(png), None)?;
    let samples_of_classes = samples.index.iter().zip(&samples.labels);
    let names = samples_of_classes.map(|(index, &label)| format!("{index}_{}.png", layout.class_name(label)));
    let paths = StringArray::from_iter_values(names);
    let DataType::Struct(image_fields) = layout.schema().field(0).data_type().clone() else {
        return Err(arrow::error::ArrowError::SchemaError("the schema's first field is no struct".into()));
    };
    let boxes = lists(&samples.boxes, 4);
    let boxes = FixedSizeListArray::try_new(item(boxes.data_type().clone()), n as i32, boxes, None)?;
    let mut columns: Vec<ArrayRef> = vec![
        Arc::new(StructArray::try_new(image_fields, vec![Arc::new(bytes), Arc::new(paths)], None)?),
        ints(&samples.labels),
        lists(&samples.digits, n),
        ints(&samples.index),
        lists(&samples.sources, n),
        Arc::new(boxes),
    ];
    if layout.pixels {
        let lengths = std::iter::repeat_n(area, rows);
        let raw = BinaryArray::try_new(OffsetBuffer::from_lengths(lengths), Buffer::from_vec(samples.images), None)?;
        columns.push(Arc::new(raw));
    }
    if layout.is_augmented() {
        columns.push(ints(&samples.epochs));
    }
    for list in samples.donors.iter().flat_map(|Donors { labels, index }| [labels, index]) {
        columns.push(lists(list, n));
    }
    for parameters in &samples.parameters {
        columns.extend(parameters.arrays()?);
    }
    Ok(columns)
}

/// Writes the shards of one split, as tests need them. Returns the digest of the samples.
#[cfg(test)]
pub fn write_split<T: Send>(
    writer: &ShardWriter,
    folder: &Path,
    split: &str,
    groups: &[Vec<usize>],
    mut next: impl FnMut(usize) -> Result<T>,
    render: impl Fn(T) -> Result<Samples> + Sync,
) -> Result<Digest> {
    let mut content = Parts::default();
    for (number, shard) in groups.iter().enumerate() {
        let path = folder.join(super::file_name(split, number, groups.len()));
        let mut file = std::fs::File::create(&path).map_err(Error::io(&path, "create it"))?;
        writer.write(Sink { path: &path, bytes: &mut file }, shard, &mut next, &render, |digests| {
            digests.iter().for_each(|digest| {
                content.digest(digest);
            });
            Ok(())
        })?;
    }
    Ok(content.finish())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shards_are_of_equal_size_and_cut_into_row_groups() {
        let cut = Cut { rows_per_shard: 10, row_group_rows: 4 };
        assert_eq!(cut.groups(21), [vec![4, 3], vec![4, 3], vec![4, 3]]);
        assert_eq!(cut.groups(20), [vec![4, 4, 2], vec![4, 4, 2]]);
        assert_eq!(cut.groups(3), [vec![3]]);
        assert_eq!(cut.groups(11), [vec![4, 2], vec![4, 1]]);
    }
}
