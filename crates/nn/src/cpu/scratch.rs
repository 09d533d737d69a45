//! The buffers in which a thread lays out and transforms its tiles.

/// What a thread keeps from tile to tile: contents are left over from before.
#[derive(Default)]
pub(super) struct Scratch {
    pub(super) columns: Vec<f32>,
    pub(super) inputs: Vec<f32>,
    pub(super) outputs: Vec<f32>,
    pub(super) weights: Vec<f32>,
    pub(super) values: Vec<f32>,
}

/// The first `len` elements of a buffer, which grows as needed; their content is left over from before.
pub(super) fn grown(buffer: &mut Vec<f32>, len: usize) -> &mut [f32] {
    if buffer.len() < len {
        buffer.resize(len, 0.0);
    }
    &mut buffer[..len]
}
