//! Stage `raw`: the four files of a set of 28x28 glyphs, in place and verified.

pub mod glyphs;
pub mod idx;
mod layout;
