//! The outputs of a convolution on bfloat16: sums in f32, computed tile by tile, with the epilogue; and the gradient before it.

use std::cell::RefCell;
use std::ops::Range;

use half::bf16;

use super::pack;
use crate::cpu::conv::Output;
use crate::cpu::conv_shape::{ConvShape, Method, Tile};
use crate::cpu::epilogue::{self, Epilogue};
use crate::cpu::memory::by_chunks;
use crate::cpu::scratch::grown;

thread_local! {
    static SUMS: RefCell<Vec<f32>> = RefCell::default();
}

/// Computes the outputs in the tiles of a method. `compute` receives the number of an image, a tile of the images from this one on,
/// and the place for its sums `(image, line, column, output)`, whose contents are unspecified.
pub fn by_tiles(shape: &ConvShape, method: Method, compute: impl Fn(usize, &Tile, &mut [f32]) + Sync) -> Output<bf16> {
    let image_out = shape.image_out();
    let pooled = shape.epilogue == Epilogue::ReluPool;
    let mut choice = vec![0; if pooled { shape.images * image_out } else { 0 }];
    let unit = shape.unit_by(method);
    let mut choices: Vec<&mut [u8]> = choice.chunks_mut((unit * image_out).max(1)).collect();
    choices.resize_with(shape.images.div_ceil(unit), Default::default);
    let (values, _) = by_chunks(shape.images * image_out, unit * image_out, choices, |chunk, values, choice| {
        SUMS.with_borrow_mut(|sums| {
            for tile in shape.tiles_by(method, values.len() / image_out) {
                let sums = grown(sums, tile.images * tile.lines * shape.columns() * shape.outputs);
                compute(chunk * unit, &tile, sums);
                let written = shape.written(&tile);
                finish(shape, &tile, sums, &mut values[written.clone()], choice.get_mut(written).unwrap_or_default());
            }
        });
    });
    Output { values, choice }
}

/// Applies the epilogue to the sums of a tile.
fn finish(shape: &ConvShape, tile: &Tile, sums: &mut [f32], values: &mut [bf16], choice: &mut [u8]) {
    match shape.epilogue {
        Epilogue::Identity => pack::narrow(sums, values),
        Epilogue::Relu => {
            epilogue::relu(sums);
            pack::narrow(sums, values);
        }
        Epilogue::ReluPool => {
            let (image, out) = (sums.len() / tile.images, (values.len() / tile.images).max(1));
            let outs = values.chunks_exact_mut(out).zip(choice.chunks_exact_mut(out));
            for (sums, (values, choice)) in sums.chunks_exact(image).zip(outs) {
                epilogue::pool(sums, shape.columns(), shape.outputs, values, choice);
            }
        }
    }
}

/// The results of the forward pass and their gradient.
#[derive(Clone, Copy)]
pub struct Results<'a> {
    pub output: &'a [bf16],
    pub choice: &'a [u8],
    pub grad: &'a [bf16],
}

impl Results<'_> {
    /// The gradient of the outputs of some images before the epilogue: that after it, or what is written to a buffer.
    pub fn before<'a>(&'a self, shape: &ConvShape, images: Range<usize>, buffer: &'a mut Vec<bf16>) -> &'a [bf16] {
        let part = images.start * shape.image_out()..images.end * shape.image_out();
        if shape.epilogue == Epilogue::Identity {
            return &self.grad[part];
        }
        let choice = self.choice.get(part.clone()).unwrap_or_default();
        let before = grown(buffer, images.len() * shape.lines() * shape.columns() * shape.outputs);
        shape.before(&shape.whole(0..images.len()), [&self.output[part.clone()], &self.grad[part]], choice, before);
        before
    }
}
