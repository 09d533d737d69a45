//! Labels and the digits that they spell: the label of an image is the decimal number that its digits form, left to
//! right.
//!
//! This is the only module that converts one into the other. An image of `n` digits has one of `10^n` labels; the name
//! of its class is the label with leading zeros.

/// The number of classes of images with `digits` digits, or `None` if it does not fit 64 bits.
pub fn classes(digits: usize) -> Option<u64> {
    10_u64.checked_pow(u32::try_from(digits).ok()?)
}

/// The digits that a label spells, left to right, padded with zeros to `count` digits.
pub fn digits(label: u64, count: usize) -> impl DoubleEndedIterator<Item = u8> + Clone {
    // a position whose power of ten does not fit 64 bits is left of all digits of the label
    (0..count).rev().map(move |position| classes(position).map_or(0, |power| (label / power % 10) as u8))
}

/// The label that digits spell, or `None` if it exceeds an `i64`.
pub fn label<D: Into<i64>>(digits: impl IntoIterator<Item = D>) -> Option<i64> {
    digits.into_iter().try_fold(0_i64, |label, digit| label.checked_mul(10)?.checked_add(digit.into()))
}

/// The label that digits spell, modulo 2^64 if it exceeds an `i64`.
pub fn wrapping_label<D: Into<i64>>(digits: impl IntoIterator<Item = D>) -> i64 {
    digits.into_iter().fold(0_i64, |label, digit| label.wrapping_mul(10).wrapping_add(digit.into()))
}

/// The name of the class of a label: its digits, padded with zeros to `count` digits.
pub fn class_name(label: i64, count: usize) -> String {
    format!("{label:0count$}")
}

/// The name of the class whose images show these digits, each from 0 to 9.
pub fn class_name_of(digits: &[u8]) -> String {
    digits.iter().map(|digit| char::from(b'0' + digit)).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn there_is_a_class_for_every_number_of_so_many_digits() {
        assert_eq!([0, 1, 2, 9].map(classes), [Some(1), Some(10), Some(100), Some(1_000_000_000)]);
        assert_eq!([19, 20, usize::MAX].map(classes), [Some(10_000_000_000_000_000_000), None, None]);
    }

    #[test]
    fn a_label_spells_its_digits_padded_from_the_left() {
        let spelled = |label, count| digits(label, count).collect::<Vec<u8>>();
        assert_eq!((spelled(7, 3), spelled(42, 2), spelled(0, 1)), (vec![0, 0, 7], vec![4, 2], vec![0]));
        // more digits than the label has, then fewer
        assert_eq!((digits(9, 30).sum::<u8>(), spelled(123, 2), spelled(5, 0)), (9, vec![2, 3], vec![]));
        assert_eq!(spelled(u64::MAX, 20), [1, 8, 4, 4, 6, 7, 4, 4, 0, 7, 3, 7, 0, 9, 5, 5, 1, 6, 1, 5]);
    }

    #[test]
    fn digits_spell_their_label_as_far_as_it_is_representable() {
        assert_eq!((label([0_u8, 0, 7]), label([4_i64, 2]), label::<u8>([])), (Some(7), Some(42), Some(0)));
        assert_eq!((label([9_u8; 18]), label([9_u8; 19])), (Some(999_999_999_999_999_999), None));
        assert_eq!((wrapping_label([4_u8, 2]), wrapping_label([9_u8; 18])), (42, 999_999_999_999_999_999));
        assert_eq!(wrapping_label([9_u8; 19]), 9_999_999_999_999_999_999_u64 as i64);
    }

    #[test]
    fn a_class_is_named_by_its_digits() {
        assert_eq!(
            (class_name(7, 3), class_name(42, 2), class_name(123, 2)),
            ("007".into(), "42".into(), "123".into())
        );
        assert_eq!((class_name_of(&[0, 0, 7]), class_name_of(&[])), ("007".to_owned(), String::new()));
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn digits_and_label_are_inverse(number in 0..1_000_000_000_000_000_000_u64, more in 0..5_usize) {
            let spelled: Vec<u8> = digits(number, 18 + more).collect();
            prop_assert_eq!(label(spelled.iter().copied()), Some(number as i64));
            prop_assert_eq!(wrapping_label(spelled.iter().copied()), number as i64);
            prop_assert_eq!(class_name_of(&spelled), class_name(number as i64, 18 + more));
        }
    }
}
