// Batch norm in training. `saved` holds the mean, the factor (weight / standard deviation) and the inverse standard
// deviation of all channels, one after the other; `slopes` holds the coefficients of the input gradient.

const double EPSILON = 1e-5; // PyTorch's default
const double MOMENTUM = 0.1; // PyTorch's default

// Computes the statistics of the batch and updates the running statistics. `shift` is a convolution's bias that was not
// added: the norm would subtract it again, but the running mean includes it.
extern "C" __global__ void __launch_bounds__(256)
norm_statistics(const real *x, u32 rows, u32 channels, const float *weight, const float *shift, float *running_mean,
                float *running_var, float *saved, float *partial, u32 *tickets) {
  Place p = place(channels);
  u32 c = p.group * V;
  Lanes sum = zeros(), squares = zeros();
  if (p.active) {
    // differences from a value of the batch avoid cancellation if the mean is large
    Lanes origin = load(x + c);
    for (u32 row = p.first; row < rows; row += p.step) {
      Lanes v = load(x + (u64)row * channels + c);
#pragma unroll
      for (int i = 0; i < V; i++) {
        float d = v.at[i] - origin.at[i];
        sum.at[i] += d;
        squares.at[i] += d * d;
      }
    }
  }
  double sums[2];
  int channel = total(p, sum, squares, channels, partial, tickets, sums);
  if (channel < 0) return;
  double count = rows, shifted = sums[0] / count, variance = sums[1] / count - shifted * shifted;
  variance = variance < 0.0 ? 0.0 : variance; // NaN stays NaN
  double mean = shifted + (double)wide(x[channel]), inverse = 1.0 / sqrt(variance + EPSILON);
  saved[channel] = (float)mean;
  saved[channels + channel] = (float)(weight[channel] * inverse);
  saved[2 * channels + channel] = (float)inverse;
  double unbiased = count / ((rows > 2 ? rows : 2) - 1);
  double outer = mean + (shift ? (double)shift[channel] : 0.0);
  running_mean[channel] = (float)(running_mean[channel] * (1.0 - MOMENTUM) + outer * MOMENTUM);
  running_var[channel] = (float)(running_var[channel] * (1.0 - MOMENTUM) + variance * unbiased * MOMENTUM);
}

// Computes `saved` from the running statistics, for evaluation.
extern "C" __global__ void norm_running(const float *running_mean, const float *running_var, const float *weight,
                                        const float *shift, u32 channels, float *saved) {
  u32 c = blockIdx.x * blockDim.x + threadIdx.x;
  if (c >= channels) return;
  double inverse = 1.0 / sqrt((double)running_var[c] + EPSILON);
  saved[c] = (float)((double)running_mean[c] - (shift ? (double)shift[c] : 0.0));
  saved[channels + c] = (float)(weight[c] * inverse);
  saved[2 * channels + c] = (float)inverse;
}

// Keeps a gradient where ReLU passed the value. The sign is that of an output, or of the norm `f`.
__device__ __forceinline__ void pass(Lanes &g, const Lanes &out) {
#pragma unroll
  for (int i = 0; i < V; i++) g.at[i] = out.at[i] > 0.0f ? g.at[i] : 0.0f;
}

__device__ __forceinline__ void pass(Lanes &g, const Lanes &v, const Affine &f) {
#pragma unroll
  for (int i = 0; i < V; i++) g.at[i] = f(v.at[i], i) > 0.0f ? g.at[i] : 0.0f;
}

// Computes the gradients of weight and bias, and the coefficients of the input gradient. `out` is given if a shortcut
// was added: the sign is then that of the output, not of the norm.
extern "C" __global__ void __launch_bounds__(256)
norm_sums(const real *x, const real *out, const u8 *choice, const real *grad, const float *saved, const float *weight,
          const float *bias, Size s, int how, float *weight_grad, float *bias_grad, float *slopes, float *partial,
          u32 *tickets) {
  Place p = place(s.channels);
  u32 c = p.group * V;
  Lanes first = zeros(), second = zeros();
  if (p.active) {
    Affine f = affine(saved, saved + s.channels, bias, c);
    if (how != RELU_POOL) {
      u32 rows = s.images * s.height * s.width;
      for (u32 row = p.first; row < rows; row += p.step) {
        u64 at = (u64)row * s.channels + c;
        Lanes g = load(grad + at), v = load(x + at);
        if (out) {
          pass(g, load(out + at));
        } else if (how == RELU) {
          pass(g, v, f);
        }
#pragma unroll
        for (int i = 0; i < V; i++) {
          first.at[i] += g.at[i];
          second.at[i] += g.at[i] * (v.at[i] - f.mean.at[i]);
        }
      }
    } else {
      u32 across = s.width / 2, down = s.height / 2, rows = s.images * down * across;
      u64 line = (u64)s.width * s.channels;
      for (u32 row = p.first; row < rows; row += p.step) {
        u32 px = row % across, rest = row / across, py = rest % down, n = rest / down;
        const real *from = x + ((u64)(n * s.height + 2 * py) * s.width + 2 * px) * s.channels + c;
        u64 at = (u64)row * s.channels + c;
        Lanes g = load(grad + at);
        Bytes which = *(const Bytes *)(choice + at);
        Lanes four[4] = {load(from), load(from + s.channels), load(from + line), load(from + line + s.channels)};
#pragma unroll
        for (int i = 0; i < V; i++) {
          u8 k = which.at[i];
          float v = k < 2 ? (k ? four[1].at[i] : four[0].at[i]) : (k == 2 ? four[2].at[i] : four[3].at[i]);
          float masked = f(v, i) > 0.0f ? g.at[i] : 0.0f;
          first.at[i] += masked;
          second.at[i] += masked * (v - f.mean.at[i]);
        }
      }
    }
  }
  double sums[2];
  int channel = total(p, first, second, s.channels, partial, tickets, sums);
  if (channel < 0) return;
  double count = (double)s.images * s.height * s.width, inverse = saved[2 * s.channels + channel];
  weight_grad[channel] = (float)(sums[1] * inverse);
  bias_grad[channel] = (float)sums[0];
  // d input = factor grad + slope (input - mean) + offset
  slopes[channel] = (float)(-(double)weight[channel] * inverse * inverse * inverse * sums[1] / count);
  slopes[s.channels + channel] = (float)(-(double)weight[channel] * inverse * sums[0] / count);
}

// Computes the gradient of the input, and of the shortcut if one was added.
extern "C" __global__ void __launch_bounds__(256)
norm_gradient(const real *x, const real *out, const u8 *choice, const real *grad, const float *saved, const float *bias,
              const float *slopes, Size s, int how, real *into, real *shortcut) {
  Place p = place(s.channels);
  if (!p.active) return;
  u32 c = p.group * V;
  Affine f = affine(saved, saved + s.channels, bias, c);
  Lanes slope = floats(slopes + c), offset = floats(slopes + s.channels + c);
  if (how != RELU_POOL) {
    u32 rows = s.images * s.height * s.width;
    for (u32 row = p.first; row < rows; row += p.step) {
      u64 at = (u64)row * s.channels + c;
      Lanes g = load(grad + at), v = load(x + at);
      if (out) {
        pass(g, load(out + at));
        store(shortcut + at, g);
      } else if (how == RELU) {
        pass(g, v, f);
      }
#pragma unroll
      for (int i = 0; i < V; i++) {
        v.at[i] = f.scale.at[i] * g.at[i] + (slope.at[i] * (v.at[i] - f.mean.at[i]) + offset.at[i]);
      }
      store(into + at, v);
    }
    return;
  }
  u32 rows = s.images * ((s.height + 1) / 2) * ((s.width + 1) / 2);
  u64 line = (u64)s.width * s.channels;
  for (u32 row = p.first; row < rows; row += p.step) {
    Window w = window(row, s);
    bool inside = w.right && w.below;
    Lanes g = zeros();
    Bytes which;
#pragma unroll
    for (int i = 0; i < V; i++) which.at[i] = 4;
    if (inside) {
      g = load(grad + w.pooled + c);
      which = *(const Bytes *)(choice + w.pooled + c);
    }
#pragma unroll
    for (int k = 0; k < 4; k++) {
      if ((k & 1 && !w.right) || (k & 2 && !w.below)) continue;
      u64 at = w.at + c + (k & 1 ? s.channels : 0) + (k & 2 ? line : 0);
      Lanes v = load(x + at);
#pragma unroll
      for (int i = 0; i < V; i++) {
        float masked = which.at[i] == k && f(v.at[i], i) > 0.0f ? g.at[i] : 0.0f;
        v.at[i] = f.scale.at[i] * masked + (slope.at[i] * (v.at[i] - f.mean.at[i]) + offset.at[i]);
      }
      store(into + at, v);
    }
  }
}
