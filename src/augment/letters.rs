//! A tiny font for captions in pictures: five by seven pixels per character, and only the characters that captions use.

use image::{Rgb, RgbImage};

/// The width of a character in pixels, including the gap after it.
pub const ADVANCE: usize = 6;
/// The height of a character in pixels.
pub const HEIGHT: usize = 7;

/// The characters; `#` marks ink.
#[rustfmt::skip]
const SHAPES: [(char, [&str; HEIGHT]); 33] = [
    ('0', [" ### ", "#   #", "#  ##", "# # #", "##  #", "#   #", " ### "]),
    ('1', ["  #  ", " ##  ", "  #  ", "  #  ", "  #  ", "  #  ", " ### "]),
    ('2', [" ### ", "#   #", "    #", "   # ", "  #  ", " #   ", "#####"]),
    ('3', [" ### ", "#   #", "    #", "  ## ", "    #", "#   #", " ### "]),
    ('4', ["   # ", "  ## ", " # # ", "#  # ", "#####", "   # ", "   # "]),
    ('5', ["#####", "#    ", "#### ", "    #", "    #", "#   #", " ### "]),
    ('6', [" ### ", "#    ", "#    ", "#### ", "#   #", "#   #", " ### "]),
    ('7', ["#####", "    #", "   # ", "   # ", "  #  ", "  #  ", "  #  "]),
    ('8', [" ### ", "#   #", "#   #", " ### ", "#   #", "#   #", " ### "]),
    ('9', [" ### ", "#   #", "#   #", " ####", "    #", "    #", " ### "]),
    (' ', ["     ", "     ", "     ", "     ", "     ", "     ", "     "]),
    ('+', ["     ", "  #  ", "  #  ", "#####", "  #  ", "  #  ", "     "]),
    ('-', ["     ", "     ", "     ", "#####", "     ", "     ", "     "]),
    ('.', ["     ", "     ", "     ", "     ", "     ", " ##  ", " ##  "]),
    (',', ["     ", "     ", "     ", "     ", " ##  ", "  #  ", " #   "]),
    ('°', [" ##  ", "#  # ", "#  # ", " ##  ", "     ", "     ", "     "]),
    ('a', ["     ", "     ", " ### ", "    #", " ####", "#   #", " ####"]),
    ('c', ["     ", "     ", " ### ", "#    ", "#    ", "#   #", " ### "]),
    ('d', ["    #", "    #", " ####", "#   #", "#   #", "#   #", " ####"]),
    ('e', ["     ", "     ", " ### ", "#   #", "#####", "#    ", " ### "]),
    ('g', ["     ", "     ", " ####", "#   #", " ####", "    #", " ### "]),
    ('h', ["#    ", "#    ", "#### ", "#   #", "#   #", "#   #", "#   #"]),
    ('i', ["  #  ", "     ", " ##  ", "  #  ", "  #  ", "  #  ", " ### "]),
    ('l', [" ##  ", "  #  ", "  #  ", "  #  ", "  #  ", "  #  ", " ### "]),
    ('m', ["     ", "     ", "## # ", "# # #", "# # #", "# # #", "# # #"]),
    ('n', ["     ", "     ", "#### ", "#   #", "#   #", "#   #", "#   #"]),
    ('o', ["     ", "     ", " ### ", "#   #", "#   #", "#   #", " ### "]),
    ('p', ["     ", "     ", "#### ", "#   #", "#### ", "#    ", "#    "]),
    ('r', ["     ", "     ", "# ## ", "##   ", "#    ", "#    ", "#    "]),
    ('s', ["     ", "     ", " ####", "#    ", " ### ", "    #", "#### "]),
    ('t', [" #   ", " #   ", "#### ", " #   ", " #   ", " #  #", "  ## "]),
    ('v', ["     ", "     ", "#   #", "#   #", "#   #", " # # ", "  #  "]),
    ('x', ["     ", "     ", "#   #", " # # ", "  #  ", " # # ", "#   #"]),
];

/// Whether the font has a shape for every character of a text.
#[cfg(test)]
pub fn has_all(text: &str) -> bool {
    text.chars().all(|c| SHAPES.iter().any(|(shape, _)| *shape == c))
}

/// Writes a text with its upper left corner at (x, y). Parts outside the picture and characters that are not in the
/// font are left out.
pub fn write(picture: &mut RgbImage, (x, y): (usize, usize), text: &str, ink: Rgb<u8>) {
    for (n, c) in text.chars().enumerate() {
        let Some((_, rows)) = SHAPES.iter().find(|(shape, _)| *shape == c) else { continue };
        for (dy, row) in rows.iter().enumerate() {
            for (dx, _) in row.bytes().enumerate().filter(|(_, dot)| *dot == b'#') {
                let place = picture.get_pixel_mut_checked((x + n * ADVANCE + dx) as u32, (y + dy) as u32);
                if let Some(pixel) = place {
                    *pixel = ink;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_character_has_a_shape_of_its_own_in_its_box() {
        for (i, (c, rows)) in SHAPES.iter().enumerate() {
            assert!(rows.iter().all(|row| row.len() == 5 && row.bytes().all(|dot| b" #".contains(&dot))), "{c:?}");
            assert!(SHAPES[i + 1..].iter().all(|(other, shape)| other != c && shape != rows), "{c:?}");
        }
    }

    #[test]
    fn a_text_is_written_where_it_is_told_to_and_clipped_at_the_edge() {
        let mut picture = RgbImage::new(12, 9);
        write(&mut picture, (1, 1), "-1", Rgb([9; 3]));
        let dots: Vec<(u32, u32)> =
            picture.enumerate_pixels().filter(|(.., pixel)| pixel.0 == [9; 3]).map(|(x, y, _)| (x, y)).collect();
        let bar = (1..=5).map(|x| (x, 4));
        let one = [(9, 1), (8, 2), (9, 2), (9, 3), (9, 4), (9, 5), (9, 6), (8, 7), (9, 7), (10, 7)];
        let mut expected: Vec<(u32, u32)> = bar.chain(one).collect();
        expected.sort_by_key(|&(x, y)| (y, x));
        assert_eq!(dots, expected);
        write(&mut picture, (7, 5), "88", Rgb([9; 3]));
    }
}
