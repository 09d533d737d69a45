//! The encoded images of a Parquet file, decoded in bounded memory.

use std::io::Cursor;

use arrow::array::{Array, AsArray, BinaryArray, RecordBatch};
use arrow::datatypes::DataType;
use image::codecs::png::PngDecoder;
use image::{ColorType, ImageDecoder, ImageResult, Limits};

use super::MAX_PIXELS;
use crate::error::{Error, Result};
use crate::guard::guarded;
use crate::parquet_file::{ParquetFile, make_room, widened};

/// The maximum number of bytes that a PNG decoder may allocate in addition to the pixels. Usual colour profiles have
/// 1 kB to 2 MB, but a chunk of 500 kB can declare one of 500 MB.
const METADATA: u64 = 8 << 20;

/// The encoded images of a batch. The column may have any binary type.
pub(super) fn pngs(file: &ParquetFile, batch: &RecordBatch) -> Result<BinaryArray> {
    let column = file.column(batch, "image")?;
    let bytes = column.as_struct_opt().filter(|image| image.null_count() == 0);
    let bytes = bytes.and_then(|image| image.column_by_name("bytes")).filter(|bytes| bytes.null_count() == 0);
    let small = bytes.and_then(|bytes| widened(bytes, &DataType::Binary));
    match small.as_ref().or(bytes).and_then(|bytes| bytes.as_binary_opt::<i32>()) {
        Some(bytes) => Ok(bytes.clone()),
        None => Err(file.wrong("image", column, "struct<bytes: binary, path: string> without nulls")),
    }
}

/// A decoder with bounded memory for a PNG of unknown origin. A colour profile that exceeds the bound is skipped; other
/// metadata that exceeds it is an error.
pub fn png_decoder(png: &[u8]) -> ImageResult<PngDecoder<Cursor<&[u8]>>> {
    let mut limits = Limits::no_limits();
    limits.max_alloc = Some(METADATA);
    PngDecoder::with_limits(Cursor::new(png), limits)
}

/// A decoder for the image of a row, which must be 8-bit grey and have at most [`MAX_PIXELS`] pixels.
pub(super) fn decoder<'a>(file: &ParquetFile, row: usize, png: &'a [u8]) -> Result<PngDecoder<Cursor<&'a [u8]>>> {
    let decoder = guarded(file.path(), || png_decoder(png))?.map_err(|e| unreadable(file, row, &e))?;
    let (width, height) = decoder.dimensions();
    if u64::from(width) * u64::from(height) > MAX_PIXELS {
        let found = format!("row {row} has an image of {width}x{height} pixels");
        return Err(Error::format(file.path(), found, format!("at most {MAX_PIXELS} pixels")));
    }
    match decoder.color_type() {
        ColorType::L8 => Ok(decoder),
        other => Err(Error::format(file.path(), format!("row {row} has an image in {other:?}"), "8-bit grey PNGs")),
    }
}

fn unreadable(file: &ParquetFile, row: usize, error: &image::ImageError) -> Error {
    let found = format!("row {row} has an image that is not readable ({error})");
    Error::format(file.path(), found, "8-bit grey PNGs")
}

/// Decodes images of `height * width` pixels one after the other and appends them to `out`. `row` is the number of the
/// first image in the file.
pub(super) fn decode(
    file: &ParquetFile,
    row: usize,
    pngs: &BinaryArray,
    (height, width): (usize, usize),
    out: &mut Vec<u8>,
) -> Result<()> {
    make_room(file.path(), out, pngs.len(), height * width)?;
    for (row, png) in (row..).zip(pngs.iter().flatten()) {
        let decoder = decoder(file, row, png)?;
        if decoder.dimensions() != (width as u32, height as u32) {
            let (w, h) = decoder.dimensions();
            let expected = format!("{width}x{height} pixels, as in the first shard");
            return Err(Error::format(file.path(), format!("row {row} has an image of {w}x{h} pixels"), expected));
        }
        let start = out.len();
        out.resize(start + height * width, 0);
        let image = out.get_mut(start..).unwrap_or_default();
        guarded(file.path(), || decoder.read_image(image))?.map_err(|e| unreadable(file, row, &e))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_colour_profile_is_read_where_it_is_of_an_ordinary_size_and_passed_over_where_it_fills_the_memory() {
        use image::ImageEncoder;
        let with_profile = |bytes: usize| {
            let mut out = Vec::new();
            let mut encoder = image::codecs::png::PngEncoder::new(&mut out);
            encoder.set_icc_profile(vec![0; bytes]).unwrap();
            encoder.write_image(&[1, 2], 2, 1, image::ExtendedColorType::L8).unwrap();
            out
        };
        for (bytes, kept) in [(2 << 20, Some(2 << 20)), (64 << 20, None)] {
            let png = with_profile(bytes);
            assert!(png.len() < 100_000);
            let mut decoder = png_decoder(&png).unwrap();
            assert_eq!(decoder.icc_profile().unwrap().map(|profile| profile.len()), kept);
            let mut pixels = [0; 2];
            decoder.read_image(&mut pixels).unwrap();
            assert_eq!(pixels, [1, 2]);
        }
    }

    #[test]
    fn text_in_a_png_is_never_unpacked_and_too_much_of_it_is_an_error() {
        let with_text = |text: String, packed: bool| {
            let mut out = Vec::new();
            let mut encoder = png::Encoder::new(&mut out, 2, 1);
            let keyword = "Comment".to_owned();
            if packed { encoder.add_ztxt_chunk(keyword, text) } else { encoder.add_text_chunk(keyword, text) }.unwrap();
            encoder.write_header().unwrap().write_image_data(&[1, 2]).unwrap();
            out
        };
        let mut pixels = [0; 2];
        png_decoder(&with_text(" ".repeat(64 << 20), true)).unwrap().read_image(&mut pixels).unwrap();
        assert_eq!(pixels, [1, 2]);
        let error = png_decoder(&with_text(" ".repeat(16 << 20), false)).err().unwrap();
        assert_eq!(error.to_string(), "Memory limit exceeded");
    }
}
