//! The pool of glyphs: all images and labels of a set in memory, training images first, then test images.
//!
//! The four files are read in parallel, straight into the pool.

use std::fmt;
use std::path::Path;

use rayon::prelude::*;
use sha2::{Digest as _, Sha256};

use super::idx::{Idx, Kind};
pub use super::layout::Files;
use super::layout::{PARTS, Part};
use super::size::PIXELS;
use crate::digest::{Digest, Parts};
use crate::error::{Error, Result};
use crate::raw::RawError;

/// The number of bytes unpacked at a time if a digest is wanted. While one block is unpacked, the previous one is
/// hashed; both fit into a core's cache.
const BLOCK: usize = 1 << 18;

/// The SHA-256 of the unpacked content of one file.
pub(super) type Sha = [u8; 32];

/// The pool of glyphs: training images first, then test images, numbered `0..len`.
#[derive(PartialEq, Eq)]
pub struct Glyphs {
    /// `n * 784` bytes: 28x28 pixels per glyph, row-major; 0 is background.
    pixels: Vec<u8>,
    /// `n` bytes from 0 to 9.
    labels: Vec<u8>,
}

/// Shows only the number of glyphs, because a message with millions of pixels would be useless.
impl fmt::Debug for Glyphs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Glyphs({})", self.len())
    }
}

impl Glyphs {
    /// Reads and checks the four files, in parallel.
    ///
    /// # Errors
    /// [`RawError`] if a file is not valid, or if there are not as many labels as images.
    pub fn read(files: &Files) -> Result<Glyphs> {
        read_pool(files, false).map(|(glyphs, _)| glyphs)
    }

    /// Reads and checks the two files of labels only. Returns the labels in the order of [`Glyphs::read`].
    pub fn read_labels(files: &Files) -> Result<Vec<u8>> {
        let mut labels = Vec::new();
        for (path, part) in files.paths.iter().zip(PARTS).filter(|(_, part)| part.kind == Kind::Labels) {
            let idx = Idx::open(path, path, part.kind)?;
            let mut more = vec![0; idx.body_len()];
            read_body(idx, &mut more, None)?;
            check_labels(path, &more)?;
            labels.append(&mut more);
        }
        Ok(labels)
    }

    /// A pool of the given pixels, 784 per glyph, and labels.
    ///
    /// # Panics
    /// If there are not 784 pixels for each label.
    pub fn new(pixels: Vec<u8>, labels: Vec<u8>) -> Glyphs {
        assert_eq!(pixels.len(), labels.len() * PIXELS, "a glyph has {PIXELS} pixels");
        Glyphs { pixels, labels }
    }

    /// The number of glyphs.
    pub fn len(&self) -> usize {
        self.labels.len()
    }

    /// Whether the pool is empty.
    pub fn is_empty(&self) -> bool {
        self.labels.is_empty()
    }

    /// The 784 pixels of glyph `i`, row-major.
    ///
    /// # Panics
    /// If there is no glyph `i`.
    #[expect(clippy::indexing_slicing, reason = "a glyph is asked for by a number below the pool's length")]
    pub fn image(&self, i: usize) -> &[u8] {
        &self.pixels[i * PIXELS..(i + 1) * PIXELS]
    }

    /// The digit that glyph `i` shows.
    ///
    /// # Panics
    /// If there is no glyph `i`.
    #[expect(clippy::indexing_slicing, reason = "a glyph is asked for by a number below the pool's length")]
    pub fn label(&self, i: usize) -> u8 {
        self.labels[i]
    }

    /// The labels of all glyphs.
    pub fn labels(&self) -> &[u8] {
        &self.labels
    }

    /// The digest of the content, which is independent of how the files store it: all pixels, then all labels.
    pub fn digest(&self) -> Digest {
        Parts::default().bytes(&self.pixels).bytes(&self.labels).finish()
    }
}

/// Reads the pool. If `hash` is true, also computes the SHA-256 of each file's unpacked content; otherwise
/// the digests are zero.
pub(super) fn read_pool(files: &Files, hash: bool) -> Result<(Glyphs, [Sha; 4])> {
    let open = |path: &Path, part: Part| Idx::open(path, path, part.kind);
    let [train_images, train_labels, test_images, test_labels] = [
        open(&files.paths[0], PARTS[0])?,
        open(&files.paths[1], PARTS[1])?,
        open(&files.paths[2], PARTS[2])?,
        open(&files.paths[3], PARTS[3])?,
    ];
    for (images, labels) in [(&train_images, &train_labels), (&test_images, &test_labels)] {
        if images.count != labels.count {
            return Err(Error::from(RawError::IdxCounts {
                path: images.shown().to_owned(),
                images: images.count,
                labels_path: labels.shown().to_owned(),
                labels: labels.count,
            }));
        }
    }
    // Each count is within its limit and consistent with the size of its file, so it is safe to allocate this much.
    let mut pixels = vec![0; train_images.body_len() + test_images.body_len()];
    let mut labels = vec![0; train_labels.body_len() + test_labels.body_len()];
    let (train_pixels, test_pixels) = pixels.split_at_mut(train_images.body_len());
    let (train_digits, test_digits) = labels.split_at_mut(train_labels.body_len());
    let bodies = [
        (train_images, train_pixels),
        (train_labels, &mut *train_digits),
        (test_images, test_pixels),
        (test_labels, &mut *test_digits),
    ];
    let read: Vec<Result<Sha>> = (bodies.into_par_iter().zip(PARTS).zip(&files.paths))
        .map(|(((idx, out), part), path)| {
            let mut hasher = hash.then(Sha256::new);
            read_body(idx, out, hasher.as_mut())?;
            if part.kind == Kind::Labels {
                check_labels(path, out)?;
            }
            Ok(hasher.map_or([0; 32], |hasher| hasher.finalize().into()))
        })
        .collect();
    let mut digests = [[0; 32]; 4];
    for (digest, result) in digests.iter_mut().zip(read) {
        *digest = result?; // the first error in the order of the files, whichever thread was faster
    }
    Ok((Glyphs { pixels, labels }, digests))
}

/// The SHA-256 of the unpacked content of one file. Fails if the file is not valid.
pub(super) fn sha_of(idx: Idx) -> Result<Sha> {
    let mut body = vec![0; idx.body_len()];
    let mut hasher = Sha256::new();
    read_body(idx, &mut body, Some(&mut hasher))?;
    Ok(hasher.finalize().into())
}

/// Fills `out`, which has the size of the body, and feeds header and body to the hasher.
fn read_body(mut idx: Idx, out: &mut [u8], hasher: Option<&mut Sha256>) -> Result<()> {
    let Some(hasher) = hasher else {
        idx.read(out, 0)?;
        return idx.check_end();
    };
    hasher.update(idx.head());
    let mut read: &[u8] = &[];
    let mut before = 0;
    for block in out.chunks_mut(BLOCK) {
        let (result, ()) = rayon::join(|| idx.read(block, before), || hasher.update(read));
        result?;
        before += block.len();
        read = block;
    }
    hasher.update(read);
    idx.check_end()
}

fn check_labels(path: &Path, labels: &[u8]) -> Result<()> {
    match labels.iter().enumerate().find(|(_, label)| **label > 9) {
        Some((index, &label)) => Err(Error::from(RawError::IdxLabel { path: path.to_owned(), index, label })),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::raw::idx::tests::{file, packed};
    use std::fs;
    use std::path::Path;

    /// Writes a set of `train` + 2 glyphs as a mixture of compressed and plain files.
    fn write_set(folder: &Path, train: usize, train_labels: &[u8]) -> Files {
        let images = |count: usize, first: u8| {
            let body: Vec<u8> = (0..count).flat_map(|i| [first + i as u8; PIXELS]).collect();
            file(&[count as u32, 28, 28], &body)
        };
        let labels = |labels: &[u8]| file(&[labels.len() as u32], labels);
        fs::write(folder.join("train-images.idx3-ubyte"), images(train, 100)).unwrap();
        fs::write(folder.join("train-labels-idx1-ubyte.gz"), packed(&labels(train_labels))).unwrap();
        fs::write(folder.join("t10k-images-idx3-ubyte.gz"), packed(&images(2, 200))).unwrap();
        fs::write(folder.join("t10k-labels-idx1-ubyte"), labels(&[9, 0])).unwrap();
        Files::find(folder).unwrap()
    }

    #[test]
    fn training_glyphs_come_first() {
        let home = tempfile::tempdir().unwrap();
        let files = write_set(home.path(), 3, &[5, 6, 7]);
        let glyphs = Glyphs::read(&files).unwrap();
        assert_eq!(glyphs.labels(), [5, 6, 7, 9, 0]);
        assert_eq!((glyphs.len(), glyphs.is_empty(), glyphs.label(3)), (5, false, 9));
        assert_eq!(std::array::from_fn::<u8, 5, _>(|i| glyphs.image(i)[0]), [100, 101, 102, 200, 201]);
        assert!((0..5).all(|i| glyphs.image(i).iter().all(|&pixel| pixel == glyphs.image(i)[0])));
        assert_eq!(Glyphs::read_labels(&files).unwrap(), glyphs.labels());
    }

    #[test]
    fn the_digest_of_each_file_is_that_of_its_unpacked_content() {
        let home = tempfile::tempdir().unwrap();
        let labels: Vec<u8> = (0..1000).map(|i| (i % 10) as u8).collect();
        let body: Vec<u8> = (0..1000 * PIXELS).map(|i| (i % 251) as u8).collect(); // several blocks
        let files = write_set(home.path(), 3, &labels);
        fs::write(&files.paths[0], file(&[1000, 28, 28], &body)).unwrap();
        let (_, digests) = read_pool(&files, true).unwrap();
        assert_eq!(digests[0][..], Sha256::digest(file(&[1000, 28, 28], &body))[..]);
        assert_eq!(digests[1][..], Sha256::digest(file(&[1000], &labels))[..]);
        assert_eq!(digests[3][..], Sha256::digest(file(&[2], &[9, 0]))[..]);
    }

    #[test]
    fn the_content_digest_covers_pixels_and_labels_only() {
        let glyphs = |pixel, label| Glyphs::new(vec![pixel; PIXELS], vec![label]);
        assert_eq!(glyphs(1, 2).digest(), glyphs(1, 2).digest());
        assert_ne!(glyphs(1, 2).digest(), glyphs(2, 2).digest());
        assert_ne!(glyphs(1, 2).digest(), glyphs(1, 3).digest());
    }

    #[test]
    fn images_without_labels_are_refused() {
        let home = tempfile::tempdir().unwrap();
        let files = write_set(home.path(), 3, &[5, 6, 7, 8]);
        assert_eq!(
            Glyphs::read(&files).err().unwrap().to_string().replace(&home.path().display().to_string(), "raw"),
            "`raw/train-images.idx3-ubyte`: 3 images, but `raw/train-labels-idx1-ubyte.gz` has 4 labels; expected as \
             many"
        );
    }

    #[test]
    fn labels_are_digits() {
        let home = tempfile::tempdir().unwrap();
        let files = write_set(home.path(), 3, &[5, 10, 7]);
        for error in [Glyphs::read(&files).err().unwrap(), Glyphs::read_labels(&files).unwrap_err()] {
            assert_eq!(
                error.to_string().replace(&home.path().display().to_string(), "raw"),
                "`raw/train-labels-idx1-ubyte.gz`: label 10 at position 1; expected 0 to 9"
            );
        }
    }
}
