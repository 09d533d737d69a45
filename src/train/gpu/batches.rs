//! Makes batches on the GPU from a data set stored there as bytes: images are gathered, augmented and normalised.

use std::sync::Arc;

use candle_core::Tensor;
use candle_core::cuda_backend::cudarc::driver::{CudaSlice, LaunchConfig};

use multidigit_nn::cuda::loss::Rows;
use multidigit_nn::cuda::session::{Session, address};
use multidigit_nn::cuda::{Argument, Form, THREADS};
use multidigit_nn::{Error, Result};

use crate::augment::apply::Transform;
use crate::augment::gather::Fixed;
use crate::augment::warp::Warp;

/// The shared memory in bytes that a block may use without an explicit request. Larger images are kept in global memory
/// between two resamplings.
const SHARED: usize = 40 << 10;

/// The source of the kernels, which a session compiles along with those of the networks.
pub const KERNELS: &str = include_str!("batches.cu");

/// The number of words of a `Transform` in `batches.cu`.
const WORDS: usize = 23;

/// A transform as the structure of that name in `batches.cu`.
fn words(transform: &Transform) -> [u64; WORDS] {
    let pair = |low: i32, high: i32| u64::from(low as u32) | u64::from(high as u32) << 32;
    let Transform { warps, erase } = *transform;
    let warps: Vec<Warp> = warps.into_iter().flatten().collect();
    let erase = erase.map(|e| [e.top, e.left, e.height, e.width, usize::from(e.value)].map(|n| n as i32));
    let [top, left, height, width, value] = erase.unwrap_or_default();
    let mut words = [0; WORDS];
    words[..3].copy_from_slice(&[pair(warps.len() as i32, top), pair(left, height), pair(width, value)]);
    for (warp, into) in warps.into_iter().zip(words[3..].chunks_exact_mut(10)) {
        // the kinds of `batches.cu`, each with the numbers that it reads: fixed point or a matrix
        let (kind, fixed, matrix) = match warp {
            Warp::Still => (0, None, None),
            Warp::HalfTurn => (1, None, None),
            Warp::Left => (2, None, None),
            Warp::Right => (3, None, None),
            Warp::Fixed(fixed) => (4, Some(fixed), None),
            Warp::Floating(matrix) => (5, None, Some(matrix)),
            Warp::Scale(matrix) => (6, None, Some(matrix)),
            Warp::Bilinear(matrix) => (7, None, Some(matrix)),
        };
        let Fixed { origin: [a, b], right: [c, d], down: [e, f] } = fixed.unwrap_or_default();
        into[..4].copy_from_slice(&[pair(kind, a), pair(b, c), pair(d, e), pair(f, 0)]);
        into[4..].iter_mut().zip(matrix.unwrap_or_default()).for_each(|(into, value)| *into = value.to_bits());
    }
    words
}

/// A data set on the GPU.
pub struct DeviceImages {
    session: Arc<Session>,
    pixels: CudaSlice<u8>,
    targets: CudaSlice<u8>,
    normalised: CudaSlice<f32>,
    order: Option<CudaSlice<u32>>,
    donors: Option<CudaSlice<u32>>,
    transforms: Option<CudaSlice<u64>>,
    /// The number of transforms per image.
    parts: usize,
    between: Option<CudaSlice<u8>>,
    height: usize,
    width: usize,
    digits: usize,
}

impl DeviceImages {
    /// Copies the images, `height * width` bytes each, and their digits to the GPU. `normalised` holds the normalised
    /// value of each of the 256 grey values. An augmented batch has at most `most` images.
    pub fn new(
        session: &Arc<Session>,
        pixels: &[u8],
        targets: &[u8],
        normalised: &[f32; 256],
        [height, width]: [usize; 2],
        most: usize,
    ) -> Result<DeviceImages> {
        let stream = session.stream();
        let images = pixels.len() / (height * width).max(1);
        let area = height * width;
        // SAFETY: kernels write it before they read it.
        let between =
            (most > 0 && 2 * area > SHARED).then(|| unsafe { stream.alloc::<u8>(2 * area * most) }).transpose()?;
        let images = DeviceImages {
            session: session.clone(),
            pixels: stream.clone_htod(pixels)?,
            targets: stream.clone_htod(targets)?,
            normalised: stream.clone_htod(normalised)?,
            order: None,
            donors: None,
            transforms: None,
            parts: 1,
            between,
            height,
            width,
            digits: targets.len() / images.max(1),
        };
        session.wait()?;
        Ok(images)
    }

    /// Sets the order of the images in an epoch. It must have the same length in every epoch.
    pub fn set_order(&mut self, order: &[u32]) -> Result<()> {
        let stream = self.session.stream();
        match &mut self.order {
            Some(room) if room.len() == order.len() => stream.memcpy_htod(order, room)?,
            room => *room = Some(stream.clone_htod(order)?),
        }
        Ok(())
    }

    /// Sets the transforms of each image of the data set for this epoch: one for the image, or one for each slot.
    pub fn set_transforms(&mut self, transforms: &[Vec<Transform>]) -> Result<()> {
        let words: Vec<u64> = transforms.iter().flatten().flat_map(words).collect();
        let stream = self.session.stream();
        match &mut self.transforms {
            Some(room) if room.len() == words.len() => stream.memcpy_htod(&words, room)?,
            room => *room = Some(stream.clone_htod(&words)?),
        }
        self.parts = transforms.first().map_or(1, Vec::len);
        Ok(())
    }

    /// Sets the exchange of digits for this epoch: the row that each slot of each image is taken from, and the digits of
    /// each image. Images that are augmented are exchanged first.
    pub fn set_exchange(&mut self, donors: &[u32], targets: &[u8]) -> Result<()> {
        let stream = self.session.stream();
        match &mut self.donors {
            Some(room) if room.len() == donors.len() => stream.memcpy_htod(donors, room)?,
            room => *room = Some(stream.clone_htod(donors)?),
        }
        if targets.len() != self.targets.len() {
            return Err(Error::tensor(format!("{} digits for {}", targets.len(), self.targets.len())));
        }
        Ok(stream.memcpy_htod(targets, &mut self.targets)?)
    }

    /// The address of the digits.
    pub fn targets(&self) -> u64 {
        self.session.address(&self.targets)
    }

    /// The rows of a batch in the epoch's order, selected by the number of the step.
    pub fn ordered(&self, stride: usize) -> Result<Rows> {
        let order = self.order.as_ref().ok_or_else(|| Error::tensor("no order was set"))?;
        Ok(Rows::Ordered { order: self.session.address(order), stride })
    }

    /// Makes a batch `(images, height, width, 1)`.
    ///
    /// # Safety
    /// `rows` are images of this data set.
    pub unsafe fn batch(&self, rows: Rows, images: usize, augment: bool) -> Result<Tensor> {
        let out = self.session.activations(&[images, self.height, self.width, 1])?;
        let (order, first, stride) = rows.arguments();
        let transforms = self.transforms.as_ref().filter(|_| augment);
        let transforms = transforms.map_or(0, |transforms| self.session.address(transforms));
        let donors = self.donors.as_ref().map_or(0, |donors| self.session.address(donors));
        let between = self.between.as_ref().map_or(0, |between| self.session.address(between));
        let shared = if transforms != 0 && between == 0 { 2 * self.height * self.width } else { 0 };
        let config = LaunchConfig {
            grid_dim: (images as u32, 1, 1),
            block_dim: (THREADS, 1, 1),
            shared_mem_bytes: shared as u32,
        };
        let arguments: [Argument; 14] = [
            self.session.address(&self.pixels).into(),
            stride.into(),
            self.height.into(),
            self.width.into(),
            order.into(),
            first.into(),
            self.session.step().into(),
            self.digits.into(),
            donors.into(),
            transforms.into(),
            self.parts.into(),
            self.session.address(&self.normalised).into(),
            address(&out)?.into(),
            between.into(),
        ];
        // SAFETY: the arguments are those of the kernel; the rest is guaranteed by the caller.
        unsafe { self.session.launch(Form::Extra, "images", config, &arguments) }?;
        Ok(out)
    }
}

/// The pixels of some images after an exchange of digits and their transforms. `donors` are the rows that the slots of each
/// image are taken from; if there are none, nothing is exchanged.
pub fn augmented(
    session: &Session,
    pixels: &[u8],
    donors: &[u32],
    transforms: &[Vec<Transform>],
    [height, width]: [usize; 2],
) -> Result<Vec<u8>> {
    let (images, parts) = (transforms.len(), transforms.first().map_or(1, Vec::len));
    let digits = donors.len() / images.max(1);
    let fits = pixels.len() == images * height * width && donors.iter().all(|&row| (row as usize) < images);
    if !fits || transforms.iter().any(|of| of.len() != parts) {
        return Err(Error::tensor(format!("{} bytes and {} donors for {images} images", pixels.len(), donors.len())));
    }
    let stream = session.stream();
    let words: Vec<u64> = transforms.iter().flatten().flat_map(words).collect();
    let (source, words) = (stream.clone_htod(pixels)?, stream.clone_htod(&words)?);
    let exchange = (!donors.is_empty()).then(|| stream.clone_htod(donors)).transpose()?;
    let [out, between] = [pixels.len(), 2 * pixels.len()].map(|bytes| stream.alloc_zeros::<u8>(bytes));
    let (out, between) = (out?, between?);
    let config = LaunchConfig { grid_dim: (images as u32, 1, 1), block_dim: (THREADS, 1, 1), shared_mem_bytes: 0 };
    let arguments: [Argument; 9] = [
        session.address(&source).into(),
        height.into(),
        width.into(),
        digits.into(),
        exchange.as_ref().map_or(0, |donors| session.address(donors)).into(),
        session.address(&words).into(),
        parts.into(),
        session.address(&out).into(),
        session.address(&between).into(),
    ];
    // SAFETY: the arguments are those of the kernel, with an image and its transforms for each block; donors are images.
    unsafe { session.launch(Form::Extra, "augmented", config, &arguments) }?;
    let pixels = stream.clone_dtoh(&out)?;
    session.wait()?;
    Ok(pixels)
}
