//! A split of the data set in memory.

/// A split in memory.
pub struct Split {
    /// Height of every image in pixels.
    pub height: usize,
    /// Width of every image in pixels.
    pub width: usize,
    /// Digits per image, which is the number of heads that a network for it needs.
    pub digits: usize,
    /// Grey values, `len * height * width`.
    pub images: Vec<u8>,
    /// The digit at each position, `len * digits`.
    pub targets: Vec<u8>,
    /// The class of each image.
    pub labels: Vec<i64>,
    /// The index of each image in its class.
    pub index: Vec<i64>,
}

impl Split {
    /// The number of images.
    pub fn len(&self) -> usize {
        self.labels.len()
    }

    /// Whether it holds no image.
    pub fn is_empty(&self) -> bool {
        self.labels.is_empty()
    }

    /// The pixels of one image, row by row.
    pub fn image(&self, i: usize) -> &[u8] {
        let pixels = self.height * self.width;
        &self.images[i * pixels..(i + 1) * pixels]
    }
}
