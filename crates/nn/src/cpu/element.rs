//! The types of activations. All arithmetic on them is in f32; a result is rounded when it is stored.

use candle_core::WithDType;
use half::bf16;

/// A type of activations.
pub trait Element: WithDType + Default {
    /// The value in f32, which is exact.
    fn widen(self) -> f32;

    /// The nearest value of this type. Of two that are equally near, the even one is chosen.
    fn narrow(value: f32) -> Self;
}

impl Element for f32 {
    #[inline(always)]
    fn widen(self) -> f32 {
        self
    }

    #[inline(always)]
    fn narrow(value: f32) -> f32 {
        value
    }
}

impl Element for bf16 {
    #[inline(always)]
    fn widen(self) -> f32 {
        f32::from_bits(u32::from(self.to_bits()) << 16)
    }

    // without branches, so that loops become vector instructions
    #[inline(always)]
    fn narrow(value: f32) -> bf16 {
        let bits = value.to_bits();
        let rounded = bits.wrapping_add(0x7fff + (bits >> 16 & 1));
        // rounding may turn the bits of NaN into those of infinity
        let bits = if value.is_nan() { bits | 0x40_0000 } else { rounded };
        bf16::from_bits((bits >> 16) as u16)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn rounding_is_that_of_the_crate_half(bits: u32) {
            let value = f32::from_bits(bits);
            let (ours, theirs) = (bf16::narrow(value), bf16::from_f32(value));
            prop_assert!(ours.to_bits() == theirs.to_bits() || ours.is_nan() && theirs.is_nan());
            prop_assert_eq!(theirs.widen().to_bits(), theirs.to_f32().to_bits());
        }
    }

    #[test]
    fn ties_go_to_even_and_the_largest_values_to_infinity() {
        for (value, expected) in [
            (1.0 + 1.0 / 256.0, 1.0),
            (1.0 + 3.0 / 256.0, 1.0 + 1.0 / 64.0),
            (f32::MAX, f32::INFINITY),
            (f32::NEG_INFINITY, f32::NEG_INFINITY),
            (f32::from_bits(1), 0.0),
        ] {
            assert_eq!(bf16::narrow(value).widen(), expected, "{value}");
        }
        assert!(bf16::narrow(f32::from_bits(0x7f80_0001)).is_nan());
    }
}
