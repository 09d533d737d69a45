// The cross entropy of all heads, its gradient, and the sums for an epoch's log. It computes in double, at no
// noticeable cost.

const int HEADS = 64; // the maximum number of heads of a network

struct Heads {
  const real *logits[HEADS];
  real *gradients[HEADS];
};

// Sums over an epoch, which stay on the device until the epoch is over.
struct Totals {
  double loss;         // summed over images and heads
  double bad_loss;     // the first mean loss that was not finite
  u64 bad_step;        // its step, counted from 1; 0 if all were finite
  u64 images;
  u64 correct;         // images on which all heads are right
  u64 correct_by_head[HEADS]; // images on which a head is right, for each head
};

// One block computes the loss of a batch. `order` holds the images of the data set in the order of the epoch; step
// number k begins at image k * stride. Without `order`, the batch consists of consecutive images from `first` on.
// `predicted` receives the predicted classes. The gradients are written if `with_gradients` is set, with label smoothing; the sums are those of the plain cross entropy.
extern "C" __global__ void __launch_bounds__(1024)
cross_entropy(Heads heads, u32 head_count, u32 classes, u32 images, u32 stride, const u8 *targets, const u32 *order,
              u32 first, const Step *step, Totals *totals, u8 *predicted, int with_gradients, float smoothing) {
  __shared__ double losses[1024];
  __shared__ u32 right[1024];
  u32 base = order ? step->step * stride : first;
  double loss = 0.0;
  u32 whole = 0;
  for (u32 i = threadIdx.x; i < images; i += blockDim.x) {
    u32 row = order ? order[base + i] : base + i, hits = 0;
    for (u32 h = 0; h < head_count; h++) {
      const real *logits = heads.logits[h] + (u64)i * classes;
      u32 target = targets[(u64)row * head_count + h], best = 0;
      float most = wide(logits[0]);
      for (u32 k = 1; k < classes; k++) {
        float v = wide(logits[k]);
        if (v > most) most = v, best = k;
      }
      double sum = 0.0;
      for (u32 k = 0; k < classes; k++) sum += exp((double)wide(logits[k]) - (double)most);
      loss += log(sum) + (double)most - (double)wide(logits[target]);
      if (with_gradients) {
        double rest = smoothing / classes;
        for (u32 k = 0; k < classes; k++) {
          double p = exp((double)wide(logits[k]) - (double)most) / sum;
          heads.gradients[h][(u64)i * classes + k] = narrow((float)((p - (k == target ? 1.0 - smoothing + rest : rest)) / images));
        }
      }
      if (predicted) predicted[(u64)i * head_count + h] = (u8)best;
      hits += best == target;
      if (best == target) atomicAdd(&totals->correct_by_head[h], 1ull);
    }
    whole += hits == head_count;
  }
  losses[threadIdx.x] = loss;
  right[threadIdx.x] = whole;
  __syncthreads();
  for (u32 half = blockDim.x / 2; half; half /= 2) {
    if (threadIdx.x < half) {
      losses[threadIdx.x] += losses[threadIdx.x + half];
      right[threadIdx.x] += right[threadIdx.x + half];
    }
    __syncthreads();
  }
  if (threadIdx.x) return;
  double value = losses[0] / images;
  totals->loss += losses[0];
  totals->images += images;
  totals->correct += right[0];
  if (order && totals->bad_step == 0 && !isfinite(value)) {
    totals->bad_step = step->step + 1;
    totals->bad_loss = value;
  }
}
