//! The buffers in which a thread lays out and transforms its tiles.

use super::element::Element;

/// The buffers that a thread keeps from tile to tile. Their contents are unspecified.
#[derive(Default)]
pub(super) struct Scratch {
    pub(super) columns: Vec<f32>,
    pub(super) inputs: Vec<f32>,
    pub(super) outputs: Vec<f32>,
    pub(super) weights: Vec<f32>,
    pub(super) values: Vec<f32>,
}

/// The first `len` elements of a buffer, which grows if necessary. Their contents are unspecified.
pub(super) fn grown<T: Element>(buffer: &mut Vec<T>, len: usize) -> &mut [T] {
    if buffer.len() < len {
        buffer.resize(len, T::default());
    }
    &mut buffer[..len]
}
