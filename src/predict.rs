//! `multidigit predict`: the predictions of a trained network for picture files.

use std::io::Read;
use std::path::{Path, PathBuf};

use candle_core::Device;
use image::{ColorType, ImageDecoder, ImageFormat};
use serde::Serialize;

use crate::error::{Error, Result};
use crate::evaluate::forward::{self, Predictions};
use crate::files;
use crate::guard::guarded;
use crate::labels::class_name_of;
use crate::networks::{CLASSES, weights};
use crate::runs::WeightsFile;
use crate::shards::Split;
use crate::shards::pngs::png_decoder;
use crate::train::batch::Normalise;
use multidigit_nn::Precision;

/// The maximum size of a picture file in bytes: four times that of the largest picture in grey that a network can take.
const BYTES: u64 = 64 << 20;
/// The number of images per forward pass.
const BATCH: usize = 100;

/// The prediction of a network for one image.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ImagePrediction {
    /// The file of the image.
    pub image: PathBuf,
    /// The digits found, left to right.
    pub digits: String,
    /// The joint probability of the digits found: the product of their probabilities over the positions.
    pub probability: f64,
    /// The prediction at each position, from the left.
    pub positions: Vec<DigitPrediction>,
    /// Whether the image shows light digits on a dark ground, like the training images.
    pub light_on_dark: bool,
}

/// The prediction at one position.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct DigitPrediction {
    /// The digit found.
    pub digit: u8,
    /// The probability of each digit from 0 to 9.
    pub probabilities: Vec<f64>,
}

/// The word that stands for a picture on standard input.
pub const STDIN: &str = "-";

/// The pictures that paths name: files, `-` for standard input, and for a folder all PNG files in it, by name.
///
/// # Errors
/// [`Error::Format`] if a folder has no PNG files.
pub fn pictures(paths: &[PathBuf]) -> Result<Vec<PathBuf>> {
    let mut pictures = Vec::new();
    for path in paths {
        if !path.is_dir() {
            pictures.push(path.clone());
            continue;
        }
        let is_png = |path: &PathBuf| path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("png"));
        let found: Vec<PathBuf> = files::entries(path)?.into_iter().filter(is_png).collect();
        if found.is_empty() {
            return Err(Error::format(path, "a folder without PNG files", "a PNG file, or a folder of them"));
        }
        pictures.extend(found);
    }
    Ok(pictures)
}

/// Runs a network on PNG files. The answers are in the order of the paths; a picture that cannot be read has an error
/// instead, and does not concern the others.
///
/// # Errors
/// [`Error::Format`] for damaged weights. The error of a picture of another size or colour than the network takes says
/// how to convert it.
pub fn predict(weights: &WeightsFile, pictures: &[PathBuf]) -> Result<Vec<Result<ImagePrediction>>> {
    let (network, description) = weights::load(weights.path(), weights.recorded(), &Device::Cpu, Precision::F32)?;
    let shape = network.shape();
    let size = (shape.height, shape.width);
    let mut split = Split { height: size.0, width: size.1, digits: shape.digits, ..Split::default() };
    // the number of each picture in the split, if it could be read
    let mut rows = Vec::new();
    let mut count = 0;
    for path in pictures {
        rows.push(read(path, size).map(|pixels| {
            split.images.extend(pixels);
            // the right digits are not known
            split.targets.extend(std::iter::repeat_n(0, shape.digits));
            count += 1;
            count - 1
        }));
    }
    let normalise = Normalise::new(description.mean, description.std);
    let predictions = forward::predict(&network, &normalise, &split, count, BATCH, |_| Ok(()))?;
    let of_picture =
        |(row, path): (Result<usize>, &PathBuf)| row.map(|row| prediction(&predictions, row, path, split.image(row)));
    Ok(rows.into_iter().zip(pictures).map(of_picture).collect())
}

fn prediction(predictions: &Predictions, row: usize, path: &Path, pixels: &[u8]) -> ImagePrediction {
    let predicted = predictions.predicted(row);
    let position = |(position, &digit): (usize, &u8)| DigitPrediction {
        digit,
        probabilities: (0..CLASSES as u8).map(|digit| predictions.probability(row, position, digit)).collect(),
    };
    let sum: u64 = pixels.iter().map(|&grey| u64::from(grey)).sum();
    ImagePrediction {
        image: path.to_owned(),
        digits: class_name_of(predicted),
        probability: predictions.joint(row, predicted),
        positions: predicted.iter().enumerate().map(position).collect(),
        light_on_dark: sum < 128 * pixels.len() as u64,
    }
}

/// The grey pixels of a PNG file of `height x width` pixels, row by row.
pub fn read(path: &Path, (height, width): (usize, usize)) -> Result<Vec<u8>> {
    let wanted =
        format!("a PNG of {height}x{width} pixels (height x width) in 8-bit grey, as the network was trained on");
    let refuse = |found: String| {
        let source = path.display();
        let convert = format!("magick '{source}' -colorspace Gray -depth 8 -resize '{width}x{height}!' converted.png");
        Error::format(path, found, format!("{wanted}; convert it: {convert}"))
    };
    let bytes = match path == Path::new(STDIN) {
        true => bytes_of(path, std::io::stdin().lock())?,
        false => bytes_of(path, files::within(path, BYTES)?)?,
    };
    match image::guess_format(&bytes) {
        Ok(ImageFormat::Png) => {}
        Ok(other) => return Err(refuse(format!("a picture in the format {other:?}"))),
        Err(_) => return Err(Error::format(path, "no picture", wanted.clone())),
    }
    let unreadable = |e: image::ImageError| refuse(format!("not readable as PNG ({e})"));
    let decoder = guarded(path, || png_decoder(&bytes))?.map_err(unreadable)?;
    let (w, h) = decoder.dimensions();
    let colour = match decoder.color_type() {
        ColorType::L8 => "8-bit grey",
        ColorType::La8 => "8-bit grey with transparency",
        ColorType::L16 | ColorType::La16 => "16-bit grey",
        ColorType::Rgb8 | ColorType::Rgb16 => "colour",
        _ => "colour with transparency",
    };
    if (h as usize, w as usize, decoder.color_type()) != (height, width, ColorType::L8) {
        return Err(refuse(format!("a PNG of {h}x{w} pixels in {colour}")));
    }
    let mut pixels = vec![0; height * width];
    guarded(path, || decoder.read_image(&mut pixels))?.map_err(unreadable)?;
    Ok(pixels)
}

/// All bytes of a picture file, if they are not too many.
fn bytes_of(path: &Path, file: impl Read) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    file.take(BYTES + 1).read_to_end(&mut bytes).map_err(Error::io(path, "read it"))?;
    match bytes.len() as u64 > BYTES {
        true => Err(Error::format(path, format!("more than {BYTES} bytes"), format!("at most {BYTES}"))),
        false => Ok(bytes),
    }
}

#[cfg(test)]
mod tests {
    use image::codecs::png::PngEncoder;
    use image::{ExtendedColorType, GrayImage, ImageEncoder, Luma, RgbImage};

    use super::*;

    #[test]
    fn an_image_of_another_size_or_colour_is_refused_with_the_way_to_convert_it() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("a.png");
        let refusal = || read(&path, (2, 3)).unwrap_err().to_string().replace(&path.display().to_string(), "P");
        let expected = "expected a PNG of 2x3 pixels (height x width) in 8-bit grey, as the network was trained on; \
                        convert it: magick 'P' -colorspace Gray -depth 8 -resize '3x2!' converted.png";
        GrayImage::from_pixel(3, 2, Luma([7])).save(&path).unwrap();
        assert_eq!(read(&path, (2, 3)).unwrap(), [7; 6]);
        GrayImage::new(2, 3).save(&path).unwrap();
        assert_eq!(refusal(), format!("`P`: a PNG of 3x2 pixels in 8-bit grey; {expected}"));
        RgbImage::new(3, 2).save(&path).unwrap();
        assert_eq!(refusal(), format!("`P`: a PNG of 2x3 pixels in colour; {expected}"));
        std::fs::write(&path, "GIF89a").unwrap();
        assert_eq!(refusal(), format!("`P`: a picture in the format Gif; {expected}"));
        std::fs::write(&path, b"\x89PNG\r\n\x1a\n and no more").unwrap();
        let found = refusal();
        assert!(found.starts_with("`P`: not readable as PNG (") && found.ends_with(expected), "{found}");
        std::fs::write(&path, "a text").unwrap();
        let wanted = "expected a PNG of 2x3 pixels (height x width) in 8-bit grey, as the network was trained on";
        assert_eq!(refusal(), format!("`P`: no picture; {wanted}"));
        std::fs::remove_file(&path).unwrap();
        assert!(refusal().starts_with("`P`: cannot read it: "));
    }

    #[test]
    fn an_image_is_read_whatever_its_colour_profile_unpacks_to() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("a.png");
        for bytes in [3_000, 64 << 20] {
            let mut encoder = PngEncoder::new(std::fs::File::create(&path).unwrap());
            encoder.set_icc_profile(vec![0; bytes]).unwrap();
            encoder.write_image(&[7; 6], 3, 2, ExtendedColorType::L8).unwrap();
            assert_eq!(read(&path, (2, 3)).unwrap(), [7; 6]);
        }
    }
}
