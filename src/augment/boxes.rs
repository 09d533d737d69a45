//! The boxes around the digits of an augmented image: each digit is moved alone, as it is moved in the image, and gets the
//! tight box around the ink that is left of it.

use super::apply::{Scratch, Transform, apply_all};
use crate::shards::ink_box;

/// Work buffers, which are reused so that moving a box allocates no image.
#[derive(Debug, Default)]
pub struct Buffers {
    alone: Vec<u8>,
    moved: Vec<u8>,
    scratch: Scratch,
}

/// The boxes after the transforms of an image of `height * width` pixels: `x, y, width, height` for each of `boxes`, which
/// enclose the ink of one digit each. Erasing hides ink and does not change a box. A digit of which no ink is left in the
/// image has four zeros.
pub fn moved(
    transforms: &[Transform],
    pixels: &[u8],
    boxes: &[[i64; 4]],
    (height, width): (usize, usize),
    buffers: &mut Buffers,
) -> Vec<[i64; 4]> {
    let warps: Vec<Transform> = transforms.iter().map(|transform| Transform { erase: None, ..*transform }).collect();
    let Buffers { alone, moved, scratch } = buffers;
    moved.resize(pixels.len(), 0);
    let move_box = |&[x, y, w, h]: &[i64; 4]| {
        // boxes come from a file, and may lie anywhere
        let within = |from: i64, length: i64, size: usize| {
            let [start, end] = [from, from.saturating_add(length)].map(|at| at.clamp(0, size as i64) as usize);
            start..end.max(start)
        };
        let (columns, lines) = (within(x, w, width), within(y, h, height));
        alone.clear();
        alone.resize(pixels.len(), 0);
        for line in lines {
            let at = line * width + columns.start..line * width + columns.end;
            alone[at.clone()].copy_from_slice(&pixels[at]);
        }
        apply_all(&warps, alone, (height, width), moved, scratch);
        ink_box(moved, width)
    };
    boxes.iter().map(move_box).collect()
}

#[cfg(test)]
mod tests {
    use super::super::draw::{AffineParams, EraseParams, Params};
    use super::super::{Compose, Interpolation, apply::Resampling};
    use super::*;

    const SIZE: (usize, usize) = (8, 10);

    fn transform(translate: [i32; 2], erase: Option<EraseParams>) -> Transform {
        let affine = Some(AffineParams { translate, scale: 1.0, shear: [0.0; 2] });
        let resampling = Resampling { interpolation: Interpolation::Nearest, compose: Compose::Sequential };
        Transform::new(&Params { angle: None, affine, erase }, resampling, SIZE)
    }

    fn after(transforms: &[Transform], boxes: &[[i64; 4]]) -> Vec<[i64; 4]> {
        let mut pixels = vec![0; SIZE.0 * SIZE.1];
        for [x, y, w, h] in [[1, 2, 3, 4], [6, 1, 2, 5]] {
            (y..y + h).for_each(|line| pixels[line * SIZE.1 + x..][..w].fill(200));
        }
        moved(transforms, &pixels, boxes, SIZE, &mut Buffers::default())
    }

    #[test]
    fn a_box_moves_with_its_digit_and_ends_where_the_image_ends() {
        let boxes = [[1, 2, 3, 4], [6, 1, 2, 5]];
        assert_eq!(after(&[transform([0, 0], None)], &boxes), boxes);
        assert_eq!(after(&[transform([2, -1], None)], &boxes), [[3, 1, 3, 4], [8, 0, 2, 5]]);
        assert_eq!(after(&[transform([3, 3], None)], &boxes), [[4, 5, 3, 3], [9, 4, 1, 4]]);
        assert_eq!(after(&[transform([-4, 0], None)], &boxes), [[0; 4], [2, 1, 2, 5]]);
    }

    #[test]
    fn erasing_leaves_the_boxes_as_they_are() {
        let erase = EraseParams { top: 0, left: 0, height: 8, width: 10, value: 0 };
        let boxes = [[1, 2, 3, 4], [6, 1, 2, 5]];
        assert_eq!(after(&[transform([0, 0], Some(erase))], &boxes), boxes);
    }

    #[test]
    fn a_box_that_lies_outside_of_the_image_is_cut_off_or_empty() {
        let boxes = [[-5, -5, 8, 9], [i64::MAX, 0, i64::MAX, 3], [3, 3, -1, -1], [6, 1, 40, 40]];
        let cut = [[1, 2, 2, 2], [0; 4], [0; 4], [6, 1, 2, 5]];
        assert_eq!(after(&[transform([0, 0], None)], &boxes), cut);
    }
}
