//! Configures the allocator to keep freed memory for the next step, where that is possible, and allocates large results
//! so that the threads that fill them also clear them.
//!
//! Every step frees and allocates the same tens of buffers, of up to some 100 MB each. glibc returns such sizes to the
//! system at once, and the system then zeroes the pages again, one page fault each. That takes a sixth of a step of the
//! small networks and a third of a step of the ResNet.

use std::mem::MaybeUninit;

use rayon::prelude::*;

use super::element::Element;

/// Makes a vector of `len` elements whose chunks are filled in parallel. `fill(number, chunk, extra)`
/// receives a chunk of zeros and the element of `extras` with the chunk's number. Returns the vector and the
/// results of `fill`, in order.
///
/// `vec![0.0; len]` would be cleared by one thread, and a chunk would no longer be in the cache when it is filled.
///
/// # Panics
/// If there are fewer extras than chunks.
pub fn by_chunks<V: Element, E: Send, T: Send>(
    len: usize,
    chunk: usize,
    extras: Vec<E>,
    fill: impl Fn(usize, &mut [V], E) -> T + Sync,
) -> (Vec<V>, Vec<T>) {
    let mut values = Vec::with_capacity(len);
    let chunk = chunk.max(1);
    assert!(extras.len() >= len.div_ceil(chunk));
    let chunks = values.spare_capacity_mut()[..len].par_chunks_mut(chunk);
    let done = chunks.zip(extras).enumerate().map(|(number, (chunk, extra))| {
        chunk.fill(MaybeUninit::new(V::default()));
        // SAFETY: every element has just been written, and `MaybeUninit<V>` is laid out as `V`.
        let chunk = unsafe { &mut *(std::ptr::from_mut(chunk) as *mut [V]) };
        fill(number, chunk, extra)
    });
    let done = done.collect();
    // SAFETY: `len` elements are within the capacity, and every chunk of them has been written above.
    unsafe { values.set_len(len) };
    (values, done)
}

/// Tells glibc to keep freed memory, for the whole process. Does nothing with other C libraries.
pub fn keep_freed() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    {
        // the values are those of <malloc.h> of glibc
        const M_TRIM_THRESHOLD: i32 = -1;
        const M_MMAP_MAX: i32 = -4;
        unsafe extern "C" {
            safe fn mallopt(param: i32, value: i32) -> i32;
        }
        // mallopt returns 0 on failure; the only consequence is lost time
        let _ = (mallopt(M_MMAP_MAX, 0), mallopt(M_TRIM_THRESHOLD, i32::MAX));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_begin_as_zeros_and_come_back_in_order() {
        let fill = |number: usize, chunk: &mut [f32], extra: u32| {
            assert!(chunk.iter().all(|value| *value == 0.0));
            chunk[0] = number as f32;
            (chunk.len(), extra)
        };
        let (values, done) = by_chunks(7, 3, vec![10, 20, 30], fill);
        assert_eq!((values, done), (vec![0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 2.0], vec![(3, 10), (3, 20), (1, 30)]));
        assert_eq!(by_chunks(0, 0, vec![], fill), (vec![], vec![]));
    }
}
