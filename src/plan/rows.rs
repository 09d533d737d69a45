//! The rows of a plan in memory, one per sample. They are stored as columns, because a plan has up to
//! billions of small numbers.

/// Rows of a plan. A column has one entry per row, or `digits` entries per row, from left to right.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rows {
    /// The number of digits of an image.
    pub digits: usize,
    /// The class: the number that the digits spell.
    pub labels: Vec<u32>,
    /// The index of the sample in its class, from 0.
    pub index: Vec<u32>,
    /// Per digit: the number of its glyph in the pool (training images first, then test images).
    pub sources: Vec<u32>,
    /// Per digit: the row of the glyph's top left corner, in pixels.
    pub y: Vec<u16>,
    /// Per digit: the column of the glyph's top left corner in its cell, in pixels. Cell `l` of an image of width `w`
    /// begins at column `l * w / digits`, rounded down.
    pub x: Vec<u16>,
}

impl Rows {
    /// An empty table for images of `digits` digits.
    pub fn new(digits: usize) -> Rows {
        Rows { digits, ..Rows::default() }
    }

    /// The number of rows.
    pub fn len(&self) -> usize {
        self.labels.len()
    }

    /// Whether there are no rows.
    pub fn is_empty(&self) -> bool {
        self.labels.is_empty()
    }

    /// Appends one row of another table with the same number of digits.
    pub fn push_from(&mut self, other: &Rows, row: usize) {
        let cells = row * self.digits..(row + 1) * self.digits;
        self.labels.push(other.labels[row]);
        self.index.push(other.index[row]);
        self.sources.extend_from_slice(&other.sources[cells.clone()]);
        self.y.extend_from_slice(&other.y[cells.clone()]);
        self.x.extend_from_slice(&other.x[cells]);
    }

    /// Appends all rows of another table with the same number of digits.
    pub fn append(&mut self, mut other: Rows) {
        self.labels.append(&mut other.labels);
        self.index.append(&mut other.index);
        self.sources.append(&mut other.sources);
        self.y.append(&mut other.y);
        self.x.append(&mut other.x);
    }

    /// Removes and returns the first `n` rows, or all rows if there are fewer.
    pub fn take_front(&mut self, n: usize) -> Rows {
        let n = n.min(self.len());
        let cells = n * self.digits;
        Rows {
            digits: self.digits,
            labels: self.labels.drain(..n).collect(),
            index: self.index.drain(..n).collect(),
            sources: self.sources.drain(..cells).collect(),
            y: self.y.drain(..cells).collect(),
            x: self.x.drain(..cells).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn taking_from_the_front_keeps_the_rest() {
        let mut rows = Rows { digits: 2, labels: vec![1, 2, 3], index: vec![4, 5, 6], ..Rows::default() };
        rows.sources = vec![10, 11, 20, 21, 30, 31];
        rows.y = vec![0; 6];
        rows.x = vec![0; 6];
        let whole = rows.clone();
        let mut front = rows.take_front(2);
        assert_eq!((front.labels.as_slice(), front.sources.as_slice()), (&[1, 2][..], &[10, 11, 20, 21][..]));
        assert_eq!((rows.len(), rows.sources.as_slice()), (1, &[30, 31][..]));
        front.append(rows.take_front(9));
        assert_eq!(front, whole);
    }
}
