//! Batches out of a data set that lies on the device as bytes: gathered, augmented and normalised there.

use std::sync::Arc;

use candle_core::Tensor;
use candle_core::cuda_backend::cudarc::driver::{CudaSlice, LaunchConfig};

use super::kernels::{Argument, Form, THREADS};
use super::loss::Rows;
use super::session::{Session, address};
use crate::error::{Error, Result};

/// Shared memory that a block may have without asking for it; beyond, images are kept in ordinary memory between two
/// resamplings.
const SHARED: usize = 40 << 10;

/// One resampling, as `images.cu` takes it: its kind there, and its numbers in fixed or in floating point.
pub type Move = (u32, [i32; 6], [f64; 6]);

/// What happens to one image.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Map {
    /// Resamplings, in their order.
    pub moves: [Option<Move>; 2],
    /// The rectangle that is erased then: top, left, height, width, and its grey.
    pub erase: Option<[i32; 5]>,
}

/// Words of a `Map` in `images.cu`.
const WORDS: usize = 23;

impl Map {
    /// The structure in `images.cu`.
    fn words(&self) -> [u64; WORDS] {
        let pair = |low: i32, high: i32| u64::from(low as u32) | u64::from(high as u32) << 32;
        let moves: Vec<Move> = self.moves.into_iter().flatten().collect();
        let erase = self.erase.unwrap_or_default();
        let mut words = [0; WORDS];
        words[..3].copy_from_slice(&[
            pair(moves.len() as i32, erase[0]),
            pair(erase[1], erase[2]),
            pair(erase[3], erase[4]),
        ]);
        for ((kind, [a, b, c, d, e, f], matrix), into) in moves.iter().zip(words[3..].chunks_exact_mut(10)) {
            into[..4].copy_from_slice(&[pair(*kind as i32, *a), pair(*b, *c), pair(*d, *e), pair(*f, 0)]);
            into[4..].iter_mut().zip(matrix).for_each(|(into, value)| *into = value.to_bits());
        }
        words
    }
}

/// A data set on the device.
pub struct Images {
    session: Arc<Session>,
    pixels: CudaSlice<u8>,
    targets: CudaSlice<u8>,
    normalised: CudaSlice<f32>,
    order: Option<CudaSlice<u32>>,
    maps: Option<CudaSlice<u64>>,
    between: Option<CudaSlice<u8>>,
    height: usize,
    width: usize,
}

impl Images {
    /// Takes the images, `height * width` bytes each, and their digits to the device; `normalised` is what each of the
    /// 256 greys becomes. No batch that is augmented will have more than `most` images.
    pub fn new(
        session: &Arc<Session>,
        pixels: &[u8],
        targets: &[u8],
        normalised: &[f32; 256],
        [height, width]: [usize; 2],
        most: usize,
    ) -> Result<Images> {
        let stream = session.stream();
        let area = height * width;
        // SAFETY: kernels write it before they read it.
        let between =
            (most > 0 && 2 * area > SHARED).then(|| unsafe { stream.alloc::<u8>(2 * area * most) }).transpose()?;
        let images = Images {
            session: session.clone(),
            pixels: stream.clone_htod(pixels)?,
            targets: stream.clone_htod(targets)?,
            normalised: stream.clone_htod(normalised)?,
            order: None,
            maps: None,
            between,
            height,
            width,
        };
        session.wait()?;
        Ok(images)
    }

    /// Sets the order in which an epoch meets its images; as long in every epoch.
    pub fn set_order(&mut self, order: &[u32]) -> Result<()> {
        let stream = self.session.stream();
        match &mut self.order {
            Some(room) if room.len() == order.len() => stream.memcpy_htod(order, room)?,
            room => *room = Some(stream.clone_htod(order)?),
        }
        Ok(())
    }

    /// Sets what happens to each image of the data set in this epoch.
    pub fn set_maps(&mut self, maps: &[Map]) -> Result<()> {
        let words: Vec<u64> = maps.iter().flat_map(Map::words).collect();
        let stream = self.session.stream();
        match &mut self.maps {
            Some(room) if room.len() == words.len() => stream.memcpy_htod(&words, room)?,
            room => *room = Some(stream.clone_htod(&words)?),
        }
        Ok(())
    }

    /// The address of the digits.
    pub fn targets(&self) -> u64 {
        self.session.address(&self.targets)
    }

    /// The rows of a batch of the epoch's order, by the number of the step.
    pub fn ordered(&self, stride: usize) -> Result<Rows> {
        let order = self.order.as_ref().ok_or_else(|| Error::Tensor { message: "no order was set".to_owned() })?;
        Ok(Rows::Ordered { order: self.session.address(order), stride })
    }

    /// A batch `(images, height, width, 1)`.
    ///
    /// # Safety
    /// `rows` are images of this data set.
    pub unsafe fn batch(&self, rows: Rows, images: usize, augment: bool) -> Result<Tensor> {
        let out = self.session.activations(&[images, self.height, self.width, 1])?;
        let (order, first, stride) = rows.arguments();
        let maps = self.maps.as_ref().filter(|_| augment).map_or(0, |maps| self.session.address(maps));
        let between = self.between.as_ref().map_or(0, |between| self.session.address(between));
        let shared = if maps != 0 && between == 0 { 2 * self.height * self.width } else { 0 };
        let config = LaunchConfig {
            grid_dim: (images as u32, 1, 1),
            block_dim: (THREADS, 1, 1),
            shared_mem_bytes: shared as u32,
        };
        let arguments: [Argument; 11] = [
            self.session.address(&self.pixels).into(),
            stride.into(),
            self.height.into(),
            self.width.into(),
            order.into(),
            first.into(),
            self.session.step().into(),
            maps.into(),
            self.session.address(&self.normalised).into(),
            address(&out)?.into(),
            between.into(),
        ];
        // SAFETY: the kernel's arguments, and the caller's promise.
        unsafe { self.session.launch(Form::Images, "images", config, &arguments) }?;
        Ok(out)
    }
}

/// The pixels of some images after their maps.
pub fn augmented(session: &Session, pixels: &[u8], maps: &[Map], [height, width]: [usize; 2]) -> Result<Vec<u8>> {
    if pixels.len() != maps.len() * height * width {
        return Err(Error::Tensor { message: format!("{} bytes for {} images", pixels.len(), maps.len()) });
    }
    let stream = session.stream();
    let words: Vec<u64> = maps.iter().flat_map(Map::words).collect();
    let (source, words) = (stream.clone_htod(pixels)?, stream.clone_htod(&words)?);
    let [out, between] = [stream.alloc_zeros::<u8>(pixels.len())?, stream.alloc_zeros::<u8>(pixels.len())?];
    let config = LaunchConfig { grid_dim: (maps.len() as u32, 1, 1), block_dim: (THREADS, 1, 1), shared_mem_bytes: 0 };
    let arguments: [Argument; 6] = [
        session.address(&source).into(),
        height.into(),
        width.into(),
        session.address(&words).into(),
        session.address(&out).into(),
        session.address(&between).into(),
    ];
    // SAFETY: the kernel's arguments, with an image and a map for each block.
    unsafe { session.launch(Form::Images, "augmented", config, &arguments) }?;
    let pixels = stream.clone_dtoh(&out)?;
    session.wait()?;
    Ok(pixels)
}
