//! The buffers in which a thread lays out and transforms its tiles and weights.

use std::cell::Cell;
use std::ops::{Deref, DerefMut};

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

thread_local! {
    static KEPT: Cell<Vec<f32>> = const { Cell::new(Vec::new()) };
}

/// A buffer for the weights of an operator in another layout. When it is dropped, its thread keeps the memory for the next one. A new
/// vector of such a size would be cleared by one thread while the others wait.
pub(super) struct Kept {
    values: Vec<f32>,
    len: usize,
}

impl Kept {
    /// A buffer of `len` elements, whose values are unspecified.
    pub(super) fn new(len: usize) -> Kept {
        let mut values = KEPT.take();
        grown(&mut values, len);
        Kept { values, len }
    }
}

impl From<Vec<f32>> for Kept {
    fn from(values: Vec<f32>) -> Kept {
        Kept { len: values.len(), values }
    }
}

impl Deref for Kept {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        &self.values[..self.len]
    }
}

impl DerefMut for Kept {
    fn deref_mut(&mut self) -> &mut [f32] {
        &mut self.values[..self.len]
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        let other = KEPT.take();
        let values = std::mem::take(&mut self.values);
        KEPT.set(if other.len() > values.len() { other } else { values });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_keeps_the_larger_of_two_buffers_and_gives_as_many_elements_as_asked_for() {
        drop(Kept::new(8));
        let (mut first, second) = (Kept::new(3), Kept::new(2));
        first.fill(7.0);
        assert_eq!((first.len(), second.len()), (3, 2));
        let place = first.as_ptr();
        drop((first, second));
        let again = Kept::new(8);
        assert_eq!((again.len(), again.as_ptr()), (8, place));
        assert_eq!(Kept::from(vec![1.0, 2.0])[..], [1.0, 2.0]);
    }
}
