// The epilogue of a convolution or a batch norm, and its gradient: bias or normalisation, ReLU, 2x2 max pooling.
//
// The maximum is computed before ReLU, as on the CPU. Of equal values, the first of the window is
// chosen. NaN is propagated.

// The map y = (x - mean) * scale + shift of each channel; without mean and scale, y = x + shift. The forward and the
// backward pass compute it by the same instruction, so that both see the same signs.
struct Affine {
  Lanes mean, scale, shift;
  __device__ __forceinline__ float operator()(float x, int i) const {
    return __fmaf_rn(__fsub_rn(x, mean.at[i]), scale.at[i], shift.at[i]);
  }
};

__device__ __forceinline__ Affine affine(const float *mean, const float *scale, const float *shift, u32 c) {
  Affine f;
#pragma unroll
  for (int i = 0; i < V; i++) {
    f.mean.at[i] = mean ? mean[c + i] : 0.0f;
    f.scale.at[i] = scale ? scale[c + i] : 1.0f;
    f.shift.at[i] = shift ? shift[c + i] : 0.0f;
  }
  return f;
}

// Applies the epilogue. `other`, if given, is added before ReLU: the shortcut of a residual block.
extern "C" __global__ void __launch_bounds__(256)
epilogue(const real *x, const float *mean, const float *scale, const float *shift, const real *other, real *out, u8 *choice,
       Size s, int how) {
  Place p = place(s.channels);
  if (!p.active) return;
  u32 c = p.group * V;
  Affine f = affine(mean, scale, shift, c);
  if (how != RELU_POOL) {
    u32 rows = s.images * s.height * s.width;
    for (u32 row = p.first; row < rows; row += p.step) {
      u64 at = (u64)row * s.channels + c;
      Lanes v = load(x + at);
#pragma unroll
      for (int i = 0; i < V; i++) v.at[i] = f(v.at[i], i);
      if (other) {
        Lanes o = load(other + at);
#pragma unroll
        for (int i = 0; i < V; i++) v.at[i] += o.at[i];
      }
      if (how == RELU) {
#pragma unroll
        for (int i = 0; i < V; i++) v.at[i] = relu(v.at[i]);
      }
      store(out + at, v);
    }
    return;
  }
  u32 across = s.width / 2, down = s.height / 2, rows = s.images * down * across;
  u64 line = (u64)s.width * s.channels;
  for (u32 row = p.first; row < rows; row += p.step) {
    u32 px = row % across, rest = row / across, py = rest % down, n = rest / down;
    const real *from = x + ((u64)(n * s.height + 2 * py) * s.width + 2 * px) * s.channels + c;
    Lanes four[4] = {load(from), load(from + s.channels), load(from + line), load(from + line + s.channels)};
    Lanes best;
    Bytes which;
#pragma unroll
    for (int i = 0; i < V; i++) {
      float b = f(four[0].at[i], i);
      u8 w = 0;
#pragma unroll
      for (int k = 1; k < 4; k++) {
        float v = f(four[k].at[i], i);
        if (v > b || v != v) b = v, w = k;
      }
      best.at[i] = relu(b);
      which.at[i] = w;
    }
    u64 at = (u64)row * s.channels + c;
    store(out + at, best);
    *(Bytes *)(choice + at) = which;
  }
}

// Computes the gradient of a convolution's output before bias and epilogue, and the gradient of the bias. `out` is the
// result of the epilogue. `before` may be null if it would equal `grad`.
extern "C" __global__ void __launch_bounds__(256)
epilogue_gradient(const real *out, const u8 *choice, const real *grad, real *before, float *bias, Size s, int how,
                float *partial, u32 *tickets) {
  Place p = place(s.channels);
  u32 c = p.group * V;
  Lanes sum = zeros();
  if (p.active && how != RELU_POOL) {
    u32 rows = s.images * s.height * s.width;
    for (u32 row = p.first; row < rows; row += p.step) {
      u64 at = (u64)row * s.channels + c;
      Lanes g = load(grad + at);
      if (how == RELU) {
        Lanes o = load(out + at);
#pragma unroll
        for (int i = 0; i < V; i++) g.at[i] = o.at[i] > 0.0f ? g.at[i] : 0.0f;
      }
      if (before) store(before + at, g);
#pragma unroll
      for (int i = 0; i < V; i++) sum.at[i] += g.at[i];
    }
  } else if (p.active) {
    u32 rows = s.images * ((s.height + 1) / 2) * ((s.width + 1) / 2);
    u64 line = (u64)s.width * s.channels;
    for (u32 row = p.first; row < rows; row += p.step) {
      Window w = window(row, s);
      Lanes g = zeros();
      Bytes which;
      if (w.right && w.below) {
        g = load(grad + w.pooled + c);
        Lanes o = load(out + w.pooled + c);
        which = *(const Bytes *)(choice + w.pooled + c);
#pragma unroll
        for (int i = 0; i < V; i++) {
          g.at[i] = o.at[i] > 0.0f ? g.at[i] : 0.0f;
          sum.at[i] += g.at[i];
        }
      }
#pragma unroll
      for (int k = 0; k < 4; k++) {
        if ((k & 1 && !w.right) || (k & 2 && !w.below)) continue;
        Lanes v;
#pragma unroll
        for (int i = 0; i < V; i++) v.at[i] = which.at[i] == k ? g.at[i] : 0.0f;
        if (!(w.right && w.below)) v = zeros();
        store(before + w.at + c + (k & 1 ? s.channels : 0) + (k & 2 ? line : 0), v);
      }
    }
  }
  if (!bias) return;
  double sums[2];
  int channel = total(p, sum, zeros(), s.channels, partial, tickets, sums);
  if (channel >= 0) bias[channel] = (float)sums[0];
}
