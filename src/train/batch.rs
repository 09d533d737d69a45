//! Batches of normalised pixels, and the scores of a network on a split.

use candle_core::{DType, Device, Tensor};

use crate::error::Result;
use crate::networks::{CLASSES, Network};
use crate::rng;
use crate::shards::Split;
use multidigit_nn::floats::Floats;
use multidigit_nn::loss::{argmax, cross_entropy};
use multidigit_nn::tape::Value;
use multidigit_nn::{Mode, ops};

/// The normalised value of each grey value: `(grey / 255 - mean) / std`, in f32 as in PyTorch.
pub struct Normalise([f32; 256]);

impl Normalise {
    /// Computes the values from the mean and standard deviation of pixels in 0..=1.
    pub fn new(mean: f64, std: f64) -> Normalise {
        Normalise(std::array::from_fn(|grey| (grey as f32 / 255.0 - mean as f32) / std as f32))
    }

    /// The normalised values, indexed by grey value.
    pub fn table(&self) -> &[f32; 256] {
        &self.0
    }

    /// A batch `(images, height, width, 1)`. `fill(i, pixels)` writes the pixels of the i-th image.
    pub fn batch(&self, images: usize, [height, width]: [usize; 2], fill: impl Fn(usize, &mut [u8])) -> Result<Tensor> {
        let mut values = Vec::with_capacity(images * height * width);
        let mut pixels = vec![0u8; height * width];
        for i in 0..images {
            fill(i, &mut pixels);
            values.extend(pixels.iter().map(|grey| self.0[usize::from(*grey)]));
        }
        Ok(Tensor::from_vec(values, (images, height, width, 1), &Device::Cpu)?)
    }
}

/// The order of the images in an epoch, shuffled by a random stream of the epoch.
pub fn order(seed: u64, epoch: usize, images: usize) -> Vec<usize> {
    let mut order: Vec<usize> = (0..images).collect();
    rng::shuffle(&mut rng::stream(seed, "train/order", epoch as u64, 0), &mut order);
    order
}

/// The number of [`batches`].
pub fn batch_count(images: usize, size: usize) -> usize {
    let alone = size > 1 && images > size && images % size == 1;
    images.div_ceil(size) - usize::from(alone)
}

/// Divides an order into batches. A single remaining image is added to the last batch, since
/// batch norm needs two images.
pub fn batches(order: &[usize], size: usize) -> Vec<&[usize]> {
    let mut batches: Vec<&[usize]> = order.chunks(size).collect();
    if size > 1 && batches.len() > 1 && order.len() % size == 1 {
        batches.truncate(batches.len() - 2);
        batches.push(&order[batches.len() * size..]);
    }
    batches
}

/// The scores of logits on their images.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Scores {
    /// The number of images.
    pub images: usize,
    /// The sum of the cross entropy over images and heads.
    pub loss: f64,
    /// The number of images with all digits right.
    pub correct: usize,
    /// The number of images with the right digit, for each position.
    pub correct_digits: Vec<usize>,
}

impl Scores {
    /// Adds the scores of a batch.
    pub fn add(&mut self, logits: &[Value], targets: &[u8]) -> Result<()> {
        let digits = logits.len();
        let rows = logits.iter().map(|logits| Floats::of(logits)).collect::<Result<Vec<_>, _>>()?;
        self.correct_digits.resize(digits, 0);
        for (image, targets) in targets.chunks_exact(digits).enumerate() {
            let mut right = 0;
            for (head, target) in targets.iter().enumerate() {
                let row = &rows[head][image * CLASSES..][..CLASSES];
                self.loss += cross_entropy(row, *target);
                let is_right = argmax(row) == *target;
                self.correct_digits[head] += usize::from(is_right);
                right += usize::from(is_right);
            }
            self.correct += usize::from(right == digits);
            self.images += 1;
        }
        Ok(())
    }

    /// Adds the scores of other images.
    pub fn merge(&mut self, other: Scores) {
        self.images += other.images;
        self.loss += other.loss;
        self.correct += other.correct;
        self.correct_digits.resize(other.correct_digits.len(), 0);
        self.correct_digits.iter_mut().zip(&other.correct_digits).for_each(|(sum, count)| *sum += count);
    }

    /// The mean over the images of the loss, which is summed over the heads.
    pub fn mean_loss(&self) -> f64 {
        self.loss / self.images as f64
    }

    /// The share of images with the right digit, for each position from the left.
    pub fn digit_accuracy(&self) -> Vec<f64> {
        self.correct_digits.iter().map(|correct| *correct as f64 / self.images as f64).collect()
    }

    /// The share of images with all digits right.
    pub fn accuracy(&self) -> f64 {
        self.correct as f64 / self.images as f64
    }
}

/// Runs a network in evaluation mode over the first `images` images of a split, `batch` at a time. `each` receives the
/// logits of a batch on the host, `(images, 10)` for each head, and its targets.
pub fn forward(
    network: &Network,
    normalise: &Normalise,
    split: &Split,
    images: usize,
    batch: usize,
    mut each: impl FnMut(&[Value], &[u8]) -> Result<()>,
) -> Result<()> {
    for start in (0..images).step_by(batch.max(1)) {
        let count = batch.min(images - start);
        let fill = |i: usize, pixels: &mut [u8]| pixels.copy_from_slice(split.image(start + i));
        let input = normalise.batch(count, [split.height, split.width], fill)?;
        let store = network.store();
        let input = ops::in_type(&input, store.dtype())?.to_device(store.device())?;
        let logits = network.forward(&input, Mode::Eval)?;
        let host = logits.iter().map(|head| {
            // a GPU computes logits in the type of the activations
            Ok(Value::constant(ops::in_type(&head.to_device(&Device::Cpu)?, DType::F32)?))
        });
        each(&host.collect::<Result<Vec<_>>>()?, &split.targets[start * split.digits..][..count * split.digits])?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_order_is_a_permutation_of_its_own_for_each_epoch() {
        let first = order(1, 1, 1000);
        let mut sorted = first.clone();
        sorted.sort_unstable();
        assert_eq!(sorted, (0..1000).collect::<Vec<_>>());
        assert_eq!(first, order(1, 1, 1000));
        assert_ne!(first, order(1, 2, 1000));
        assert_ne!(first, order(2, 1, 1000));
    }

    #[test]
    fn batches_hold_every_image_and_none_holds_one_alone() {
        let order: Vec<usize> = (0..9).collect();
        let lengths = |size, images| batches(&order[..images], size).iter().map(|b| b.len()).collect::<Vec<_>>();
        assert_eq!(lengths(4, 8), [4, 4]);
        assert_eq!(lengths(4, 9), [4, 5]);
        assert_eq!(lengths(7, 9), [7, 2]);
        assert_eq!(lengths(8, 9), [9]);
        assert_eq!(lengths(1, 3), [1, 1, 1]);
        assert_eq!(lengths(64, 9), [9]);
        assert_eq!(batches(&order, 4).concat(), order);
        for (size, images) in (1..10).flat_map(|size| (1..=9).map(move |images| (size, images))) {
            assert_eq!(batches(&order[..images], size).len(), batch_count(images, size), "{size} {images}");
        }
    }

    #[test]
    fn normalised_values_are_torchvisions() {
        let table = Normalise::new(0.1307, 0.3081).0;
        // (0 - 0.1307) / 0.3081 and (1 - 0.1307) / 0.3081, rounded to f32
        assert!((table[0] - -0.424_212_9).abs() < 1e-6 && (table[255] - 2.821_486_5).abs() < 1e-6);
    }

    #[test]
    fn scores_are_those_worked_by_hand() {
        let row = |digit: usize| (0..CLASSES).map(move |class| if class == digit { 9f32.ln() } else { 0.0 });
        let head = |digits: [usize; 2]| {
            let rows: Vec<f32> = digits.into_iter().flat_map(row).collect();
            Value::constant(Tensor::from_vec(rows, (2, CLASSES), &Device::Cpu).unwrap())
        };
        let mut scores = Scores::default();
        scores.add(&[head([3, 7]), head([1, 2])], &[3, 1, 7, 5]).unwrap();
        assert_eq!((scores.images, scores.correct, scores.correct_digits.as_slice()), (2, 1, [2, 1].as_slice()));
        // odds of 9 to 9 for the other digits: probability 1/2 three times, and 1/18 for the wrong digit
        let expected = 3.0 * 2f64.ln() + 18f64.ln();
        assert!((scores.loss - expected).abs() < 1e-6 && (scores.mean_loss() - expected / 2.0).abs() < 1e-6);
        assert_eq!(scores.accuracy(), 0.5);
    }
}
