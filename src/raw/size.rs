//! The size of a glyph, in a module of its own because every part of the stage uses it.

/// The height and width of a glyph in pixels.
pub const SIDE: usize = 28;

/// The number of pixels of a glyph.
pub const PIXELS: usize = SIDE * SIDE;
