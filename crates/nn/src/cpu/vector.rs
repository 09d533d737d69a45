//! Compiles loops for the widest vectors of the processor, and handles several floats at a time.

use std::hint::black_box;
use std::ops::{Add, Mul, Sub};

use super::element::Element;

/// Calls `work` in a copy compiled for AVX-512 or AVX2 if the processor supports it. Functions that `work` calls must
/// be inlined into it; otherwise they remain compiled for the baseline processor. No copy contracts a product and a sum
/// into a fused multiply-add, so all copies give the same bits.
#[inline(always)]
pub fn widest<T>(work: impl FnOnce() -> T) -> T {
    #[cfg(target_arch = "x86_64")]
    {
        if has_avx512() {
            // SAFETY: the processor supports the target feature of the function, which has no other precondition.
            return unsafe { with_avx512(work) };
        }
        if is_x86_feature_detected!("avx2") {
            // SAFETY: the processor supports the target feature of the function, which has no other precondition.
            return unsafe { with_avx2(work) };
        }
    }
    work()
}

/// Whether the processor has the parts of AVX-512 that all processors with it have had but Knights Landing.
#[cfg(target_arch = "x86_64")]
fn has_avx512() -> bool {
    is_x86_feature_detected!("avx512f")
        && is_x86_feature_detected!("avx512bw")
        && is_x86_feature_detected!("avx512dq")
        && is_x86_feature_detected!("avx512vl")
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
fn with_avx512<T>(work: impl FnOnce() -> T) -> T {
    work()
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn with_avx2<T>(work: impl FnOnce() -> T) -> T {
    work()
}

/// The number of floats in a [`Lanes`], one AVX-512 register.
pub const LANES: usize = 16;

/// The values of [`LANES`] neighbouring channels.
#[derive(Clone, Copy)]
pub struct Lanes(pub [f32; LANES]);

impl Lanes {
    /// Zero in all channels.
    pub const ZERO: Lanes = Lanes([0.0; LANES]);

    /// The first elements of a slice.
    #[inline(always)]
    pub fn load<T: Element>(from: &[T]) -> Lanes {
        let from: &[T; LANES] = from[..LANES].try_into().expect("as many as asked for");
        Lanes(std::array::from_fn(|i| from[i].widen()))
    }

    /// Writes the lanes to the first elements of a slice.
    #[inline(always)]
    pub fn store<T: Element>(self, to: &mut [T]) {
        let to: &mut [T; LANES] = (&mut to[..LANES]).try_into().expect("as many as asked for");
        *to = std::array::from_fn(|i| T::narrow(self.0[i]));
    }

    /// Writes at most `count` lanes to the elements of a slice from `start` on.
    #[inline(always)]
    pub fn put<T: Element>(self, to: &mut [T], start: usize, count: usize) {
        if count >= LANES {
            self.store(&mut to[start..]);
        } else {
            to[start..start + count].iter_mut().zip(self.0).for_each(|(to, lane)| *to = T::narrow(lane));
        }
    }

    /// ReLU of each lane.
    #[inline(always)]
    pub fn relu(self) -> Lanes {
        Lanes(std::array::from_fn(|i| if self.0[i] < 0.0 { 0.0 } else { self.0[i] }))
    }

    /// The largest of each lane of a window, and its index in the window. Of equal lanes, the first is chosen; NaN is larger than
    /// any other.
    #[inline(always)]
    pub fn largest(window: [Lanes; 4]) -> (Lanes, [u8; LANES]) {
        let [mut best, ..] = window;
        let mut which = [0_u32; LANES];
        for (number, other) in (1..).zip(&window[1..]) {
            let better: [bool; LANES] = std::array::from_fn(|i| other.0[i] > best.0[i] || other.0[i].is_nan());
            best = Lanes(std::array::from_fn(|i| if better[i] { other.0[i] } else { best.0[i] }));
            which = std::array::from_fn(|i| if better[i] { number } else { which[i] });
        }
        (best, std::array::from_fn(|i| which[i] as u8))
    }

    /// The lanes whose element of `choice` is `number`, and 0 elsewhere.
    #[inline(always)]
    pub fn where_chosen(self, choice: &[u8; LANES], number: u8) -> Lanes {
        Lanes(std::array::from_fn(|i| if choice[i] == number { self.0[i] } else { 0.0 }))
    }
}

impl Lanes {
    /// At most `count` elements of a slice from `start` on, followed by zeros.
    #[inline(always)]
    pub fn some<T: Element>(from: &[T], start: usize, count: usize) -> Lanes {
        if count >= LANES {
            return Lanes::load(&from[start..]);
        }
        let mut lanes = Lanes::ZERO;
        lanes.0[..count].iter_mut().zip(&from[start..start + count]).for_each(|(lane, value)| *lane = value.widen());
        lanes
    }

    /// The lanes where `other` is positive, and 0 elsewhere.
    #[inline(always)]
    pub fn where_positive(self, other: Lanes) -> Lanes {
        Lanes(std::array::from_fn(|i| if other.0[i] > 0.0 { self.0[i] } else { 0.0 }))
    }

    /// For each lane, the lane of the element of `window` whose index `choice` gives.
    #[inline(always)]
    pub fn chosen(choice: &[u8], start: usize, count: usize, window: [Lanes; 4]) -> Lanes {
        let mut which = [0; LANES];
        if count >= LANES {
            which.copy_from_slice(&choice[start..start + LANES]);
        } else {
            which[..count].copy_from_slice(&choice[start..start + count]);
        }
        let mut chosen = window[0];
        for (number, other) in (1..).zip(&window[1..]) {
            chosen = Lanes(std::array::from_fn(|i| if which[i] == number { other.0[i] } else { chosen.0[i] }));
        }
        chosen
    }
}

/// Calls `work` with the first and the number of each group of at most [`LANES`] neighbouring channels. The compiler knows the
/// number of all groups but the last, so that [`Lanes::some`] and [`Lanes::put`] are single instructions there. It does not know the
/// first, or else it would compute 256 channels at a time, one from each register, and gather them from memory.
#[inline(always)]
pub fn by_lanes(channels: usize, mut work: impl FnMut(usize, usize)) {
    let whole = channels - channels % LANES;
    for first in (0..whole).step_by(LANES) {
        work(black_box(first), LANES);
    }
    if whole < channels {
        work(whole, channels - whole);
    }
}

impl Add for Lanes {
    type Output = Lanes;

    #[inline(always)]
    fn add(self, other: Lanes) -> Lanes {
        Lanes(std::array::from_fn(|i| self.0[i] + other.0[i]))
    }
}

impl Sub for Lanes {
    type Output = Lanes;

    #[inline(always)]
    fn sub(self, other: Lanes) -> Lanes {
        Lanes(std::array::from_fn(|i| self.0[i] - other.0[i]))
    }
}

impl Mul for Lanes {
    type Output = Lanes;

    #[inline(always)]
    fn mul(self, other: Lanes) -> Lanes {
        Lanes(std::array::from_fn(|i| self.0[i] * other.0[i]))
    }
}

impl Mul<Lanes> for f32 {
    type Output = Lanes;

    #[inline(always)]
    fn mul(self, other: Lanes) -> Lanes {
        Lanes(std::array::from_fn(|i| self * other.0[i]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_copy_of_a_loop_computes_the_same_bits() {
        let work = || {
            let mut sum = Lanes(std::array::from_fn(|i| 0.1 * i as f32));
            (0..100).for_each(|i| sum = sum + (0.3 / (i + 1) as f32) * sum);
            sum.0
        };
        let expected = work();
        assert_eq!(widest(work), expected);
        #[cfg(target_arch = "x86_64")]
        if is_x86_feature_detected!("avx2") {
            // SAFETY: the processor supports the target feature of the function, which has no other precondition.
            assert_eq!(unsafe { with_avx2(work) }, expected);
        }
    }

    #[test]
    fn lanes_beyond_the_count_are_zero_and_a_choice_picks_its_own_lane() {
        let values: Vec<f32> = (0..20).map(|i| i as f32).collect();
        let some = Lanes::some(&values, 15, 3);
        assert_eq!(some.0[..4], [15.0, 16.0, 17.0, 0.0]);
        assert_eq!(some.where_positive(Lanes::some(&[1.0, 0.0, -1.0], 0, 3)).0[..3], [15.0, 0.0, 0.0]);
        let window = [0, 1, 2, 3].map(|i| Lanes([i as f32; LANES]));
        assert_eq!(Lanes::chosen(&[9, 2, 0, 3, 1], 1, 4, window).0[..5], [2.0, 0.0, 3.0, 1.0, 0.0]);
    }
}
