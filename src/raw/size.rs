//! The size of a glyph, which every part of the stage reads and none of them owns.

/// Height and width of a glyph in pixels.
pub const SIDE: usize = 28;

/// Pixels of a glyph.
pub const PIXELS: usize = SIDE * SIDE;
