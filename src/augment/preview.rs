//! The picture of an augmentation: training samples, their augmentations in several epochs, and the drawn parameters
//! under each. It is computed from the dataset's shards and needs no stored epoch.

use std::io::Cursor;
use std::path::Path;

use image::buffer::ConvertBuffer;
use image::imageops::{self, FilterType};
use image::{ImageBuffer, Luma, Rgb, RgbImage};

use super::{Config, Images, Maker, letters};
use crate::augment::AugmentError;
use crate::error::{Error, Result};
use crate::guard::guarded;
use crate::labels;
use crate::shards::{DATA, Layout, Parameters, Samples, Shards};

/// The default name of the file.
pub const FILE: &str = "preview-augment.png";

/// The number of pixels of the picture per pixel of an image, in each direction.
const ENLARGEMENT: usize = 2;
/// The white space around each cell, in pixels.
const GAP: usize = 10;
/// The distance of the lines of a caption in pixels.
const LINE: usize = letters::HEIGHT + 4;
/// The maximum number of lines for the parameters of an image or a slot, and the characters of the longest line:
/// `erase 100x100 at 10,10`.
const LINES: usize = 5;
const LONGEST: usize = 22;
/// The text chunk that identifies a picture of this program: a keyword that PNG defines, and its text.
const SOFTWARE: (&str, &str) = ("Software", "multidigit");
/// The maximum number of bytes that reading a PNG's header may allocate. A row of the widest picture has about 3 MB.
const HEADER: usize = 16 << 20;
/// The maximum number of pixels of a picture.
const MAX_PIXELS: u64 = 1 << 27;

const BACKGROUND: Rgb<u8> = Rgb([255, 255, 255]);
const INK: Rgb<u8> = Rgb([60, 60, 60]);
const HEADING: Rgb<u8> = Rgb([40, 110, 220]);

/// Draws `rows` samples at equal distances in the train shards of `dataset`, a folder of the stage dataset, each with
/// its augmentations in the epochs 0 to `epochs - 1`. A data set with fewer samples gives fewer rows.
///
/// # Errors
/// [`AugmentError::PictureSize`] if the picture would be too large.
pub fn draw(config: &Config, dataset: &Path, rows: usize, epochs: usize) -> Result<RgbImage> {
    let shards = Shards::open(&dataset.join(DATA), "train")?;
    let (height, width) = (shards.layout().height, shards.layout().width);
    let rows = rows.min(usize::try_from(shards.rows()).unwrap_or(usize::MAX));
    let images = Images::read(config, dataset)?;
    let maker = |epoch| Maker::new(config, epoch, shards.layout(), images.as_ref());
    let makers: Vec<Maker> = (0..epochs).map(maker).collect();
    let grid = Grid::new(height, width, makers.first().map_or(0, |maker| most_lines(maker.layout())));
    let mut picture = grid.blank(rows, epochs)?;
    let heading = |epoch: usize| format!("epoch {epoch}");
    letters::write(&mut picture, grid.place(0, 0), "original", HEADING);
    for epoch in 0..epochs {
        letters::write(&mut picture, grid.place(0, epoch + 1), &heading(epoch), HEADING);
    }
    for row in 0..rows {
        let at = row as u64 * shards.rows() / rows as u64;
        let sample = sample(&shards, at)?;
        let digits = shards.layout().digits;
        let title: Vec<_> =
            sample.labels.iter().zip(&sample.index).flat_map(|(label, index)| name(*label, *index, digits)).collect();
        grid.cell(&mut picture, (row, 0), &sample.images, &title);
        for (epoch, maker) in makers.iter().enumerate() {
            let made = maker.make(sample.clone(), at as usize);
            grid.cell(&mut picture, (row, epoch + 1), &made.images, &caption(&made, digits));
        }
    }
    Ok(picture)
}

/// The sample of a row of the shards, without its glyphs and boxes.
fn sample(shards: &Shards, row: u64) -> Result<Samples> {
    let area = shards.layout().height * shards.layout().width;
    let mut first = 0;
    for (position, rows) in shards.positions().zip(shards.groups().concat()) {
        let at = (row - first) as usize;
        if at < rows {
            let all = shards.read(position)?;
            let one = |column: &[i64]| column.get(at).copied().into_iter().collect();
            if let Some(pixels) = all.image(at, area) {
                let (labels, index) = (one(&all.labels), one(&all.index));
                return Ok(Samples { labels, index, images: pixels.to_vec(), ..Samples::default() });
            }
            break;
        }
        first += rows as u64;
    }
    Err(Error::format(shards.first().path(), format!("no row {row}"), "as many rows as its footer says"))
}

/// The picture as a PNG file that [`is_ours`] recognises.
#[expect(clippy::expect_used, reason = "8-bit colour of a checked size is encoded in memory")]
pub fn png(picture: &RgbImage) -> Vec<u8> {
    encode(picture).expect("memory takes every PNG")
}

fn encode(picture: &RgbImage) -> Result<Vec<u8>, png::EncodingError> {
    let mut bytes = Vec::new();
    let mut encoder = png::Encoder::new(&mut bytes, picture.width(), picture.height());
    encoder.set_color(png::ColorType::Rgb);
    encoder.set_depth(png::BitDepth::Eight);
    encoder.set_compression(png::Compression::Fast);
    encoder.add_text_chunk(SOFTWARE.0.to_owned(), SOFTWARE.1.to_owned())?;
    let mut writer = encoder.write_header()?;
    writer.write_image_data(picture)?;
    writer.finish()?;
    Ok(bytes)
}

/// Whether the bytes of a file begin like a PNG made by [`png()`]. Returns false for anything else,
/// including damaged files.
pub fn is_ours(bytes: &[u8]) -> bool {
    let mut decoder = png::Decoder::new_with_limits(Cursor::new(bytes), png::Limits { bytes: HEADER });
    decoder.set_ignore_iccp_chunk(true);
    // errors are discarded, so the path does not matter
    let Ok(Ok(reader)) = guarded(Path::new(""), || decoder.read_info()) else { return false };
    let mut texts = reader.info().uncompressed_latin1_text.iter();
    texts.any(|text| (text.keyword.as_str(), text.text.as_str()) == SOFTWARE)
}

/// The name of a sample, in two parts.
fn name(label: i64, index: i64, digits: usize) -> [String; 2] {
    [format!("class {}", labels::class_name(label, digits)), format!("index {index}")]
}

/// The caption of an augmented sample: the images that its slots after the first are taken from, then the parameters of
/// the image, or those of each slot under the number of its digit, counted from 1.
fn caption(made: &Samples, digits: usize) -> Vec<String> {
    let donors = made.donors.iter().flat_map(|donors| donors.labels.iter().zip(&donors.index).skip(1));
    let mut caption: Vec<_> = donors.map(|(label, index)| name(*label, *index, digits).join(" ")).collect();
    let several = made.parameters.len() > 1;
    for (slot, parameters) in made.parameters.iter().enumerate() {
        caption.extend(several.then(|| format!("digit {}", slot + 1)));
        caption.extend(lines(parameters));
    }
    caption
}

/// The parameters of one sample as text, one line for each property of the operators that change the image.
fn lines(Parameters { angle, translate, scale, shear, erased }: &Parameters) -> Vec<String> {
    let mut lines = Vec::new();
    lines.extend(angle.iter().filter(|&&angle| angle != 0.0).map(|angle| format!("rotate {angle:+.1}°")));
    if let ([[x, y]], [scale], [shear]) = (&translate[..], &scale[..], &shear[..])
        && (*x, *y, *scale, *shear) != (0, 0, 1.0, [0.0; 2])
    {
        let shear = match shear {
            [x, 0.0] => format!("shear {x:+.1}°"),
            [x, y] => format!("shear {x:+.1}°,{y:+.1}°"),
        };
        lines.extend([format!("move {x:+},{y:+}"), format!("scale {scale:.3}"), shear]);
    }
    let has_area = |[_, _, width, height]: &&[i64; 4]| width * height > 0;
    let erase = |[x, y, width, height]: &[i64; 4]| format!("erase {width}x{height} at {x},{y}");
    lines.extend(erased.iter().filter(has_area).map(erase));
    lines
}

/// The maximum number of lines of a caption: a line for each image that a slot is taken from, then the parameters of the
/// image, or those of each slot under a line with its number.
fn most_lines(layout: &Layout) -> usize {
    let parameters = match layout.parameters {
        1 => LINES,
        slots => slots * (1 + LINES),
    };
    parameters + if layout.donors { layout.digits - 1 } else { 0 }
}

/// The positions of images and captions in the picture.
struct Grid {
    height: usize,
    width: usize,
    /// The distance from one cell to the next, down and across.
    step: (usize, usize),
}

impl Grid {
    /// The grid for images of this size, with captions of up to `lines` lines.
    fn new(height: usize, width: usize, lines: usize) -> Grid {
        let across = (ENLARGEMENT * width).max(LONGEST * letters::ADVANCE) + GAP;
        Grid { height, width, step: (ENLARGEMENT * height + GAP / 2 + lines * LINE + GAP, across) }
    }

    /// An empty picture for `rows` rows and `epochs` epochs. Fails if it would be too large.
    fn blank(&self, rows: usize, epochs: usize) -> Result<RgbImage> {
        let size = |cells: usize, step: usize, more: usize| (cells as u64).saturating_mul(step as u64) + more as u64;
        let (width, height) = (size(epochs + 1, self.step.1, GAP), size(rows, self.step.0, GAP + LINE + GAP / 2));
        match (u32::try_from(width), u32::try_from(height)) {
            (Ok(w), Ok(h)) if u64::from(w) * u64::from(h) <= MAX_PIXELS => Ok(RgbImage::from_pixel(w, h, BACKGROUND)),
            _ => Err(Error::from(AugmentError::PictureSize { width, height, limit: MAX_PIXELS })),
        }
    }

    /// The position of a column's heading, if `row` is 0. A cell lies one line below its position.
    fn place(&self, row: usize, column: usize) -> (usize, usize) {
        (GAP + column * self.step.1, GAP + row * self.step.0)
    }

    /// Draws one enlarged image with its caption.
    fn cell(&self, picture: &mut RgbImage, (row, column): (usize, usize), pixels: &[u8], caption: &[String]) {
        let (left, top) = self.place(row, column);
        let top = top + LINE;
        if let Some(grey) = ImageBuffer::<Luma<u8>, _>::from_raw(self.width as u32, self.height as u32, pixels) {
            let [width, height] = [self.width, self.height].map(|side| (ENLARGEMENT * side) as u32);
            let coloured: RgbImage = imageops::resize(&grey, width, height, FilterType::Nearest).convert();
            imageops::replace(picture, &coloured, left as i64, top as i64);
        }
        let below = top + ENLARGEMENT * self.height + GAP / 2;
        for (n, line) in caption.iter().enumerate() {
            letters::write(picture, (left, below + n * LINE), line, INK);
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::shards::Donors;

    use super::*;

    #[test]
    fn a_caption_has_a_line_for_each_operator_that_was_drawn() {
        let all = Parameters {
            angle: vec![-12.34],
            translate: vec![[3, -4]],
            scale: vec![1.0625],
            shear: vec![[-9.96, 0.0]],
            erased: vec![[7, 5, 11, 9]],
        };
        let lines = ["rotate -12.3°", "move +3,-4", "scale 1.062", "shear -10.0°", "erase 11x9 at 7,5"];
        assert_eq!(super::lines(&all), lines);
        assert!(lines.len() <= LINES && lines.iter().all(|line| line.len() <= LONGEST && letters::has_all(line)));
        let none = Parameters {
            angle: vec![0.0],
            translate: vec![[0; 2]],
            scale: vec![1.0],
            shear: vec![[0.0; 2]],
            erased: vec![[0; 4]],
        };
        assert_eq!(super::lines(&none), [""; 0]);
        let both = Parameters { shear: vec![[1.0, 2.0]], ..none };
        assert_eq!(super::lines(&both), ["move +0,+0", "scale 1.000", "shear +1.0°,+2.0°"]);
        assert!(letters::has_all("digit 0123456789"));
    }

    #[test]
    fn a_caption_names_the_images_that_slots_are_taken_from_and_counts_digits_from_1() {
        let turned = |angle| Parameters { angle: vec![angle], ..Parameters::default() };
        let made = Samples {
            donors: Some(Donors { labels: vec![7, 93], index: vec![0, 12] }),
            parameters: vec![turned(1.5), turned(-2.0)],
            ..Samples::default()
        };
        let caption = caption(&made, 2);
        assert_eq!(caption, ["class 93 index 12", "digit 1", "rotate +1.5°", "digit 2", "rotate -2.0°"]);
        assert!(caption.iter().all(|line| letters::has_all(line)));
    }

    #[test]
    fn a_picture_is_known_again_as_ours_and_others_are_not() {
        let picture = RgbImage::from_fn(7, 5, |x, y| Rgb([x as u8, y as u8, 9]));
        let ours = png(&picture);
        assert!(is_ours(&ours));
        assert_eq!(image::load_from_memory(&ours).unwrap().into_rgb8(), picture);
        let mut plain = Cursor::new(Vec::new());
        picture.write_to(&mut plain, image::ImageFormat::Png).unwrap();
        assert!(!is_ours(plain.get_ref()), "a picture of another program");
        for other in [&b""[..], b"\x89PNG\r\n\x1a\n", b"GIF89a", b"Software\0multidigit"] {
            assert!(!is_ours(other));
        }
        let header = ours.windows(4).position(|name| name == b"IDAT").unwrap();
        for cut in 0..ours.len() {
            assert_eq!(is_ours(&ours[..cut]), cut >= header + 4, "{cut}");
            let mut damaged = ours.clone();
            damaged[cut] ^= 0x55;
            is_ours(&damaged); // does not panic
        }
    }

    #[test]
    fn a_picture_that_no_memory_holds_is_refused() {
        let error = Grid::new(64, 64, LINES).blank(1000, 1000).err().map(|error| error.to_string());
        let message =
            "a picture of 142152x198026 pixels; expected at most 134217728 pixels: take fewer --rows or --epochs";
        assert_eq!(error.as_deref(), Some(message));
        assert!(Grid::new(64, 64, LINES).blank(100, 20).is_ok());
    }
}
