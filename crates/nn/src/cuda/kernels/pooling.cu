// Windows of images, and pooling over all positions of an image. Features are (images, positions, channels).

// Cuts `count` windows of `across` columns out of each image of one channel: see `ops::windows`.
extern "C" __global__ void windows(const real *x, real *out, u32 images, u32 height, u32 width, u32 count, u32 margin) {
  u32 across = width / count + 2 * margin;
  EACH(i, (u64)images * count * height * across) {
    u32 column = (u32)(i % across), line = (u32)(i / across % height), window = (u32)(i / across / height % count);
    u64 image = i / across / height / count;
    int from = (int)(window * width / count + column) - (int)margin;
    out[i] = from < 0 || from >= (int)width ? narrow(0.0f) : x[(image * height + line) * width + from];
  }
}

// Computes the maximum of each channel and the first position where it occurs.
extern "C" __global__ void max_forward(const real *x, real *out, u32 *places, u32 images, u32 positions, u32 channels) {
  EACH(i, (u64)images * channels) {
    const real *from = x + i / channels * positions * channels + i % channels;
    float most = wide(from[0]);
    u32 place = 0;
    for (u32 p = 1; p < positions; p++) {
      float v = wide(from[(u64)p * channels]);
      if (v > most) most = v, place = p;
    }
    out[i] = narrow(most);
    places[i] = place;
  }
}

extern "C" __global__ void max_gradient(const real *grad, const u32 *places, real *into, u32 images, u32 positions, u32 channels) {
  EACH(i, (u64)images * positions * channels) {
    u64 from = i / channels / positions * channels + i % channels;
    into[i] = (u32)(i / channels % positions) == places[from] ? grad[from] : narrow(0.0f);
  }
}

// Computes the softmax over the positions of the scores (images, positions, heads): weights (images, heads, positions).
extern "C" __global__ void attention(const real *scores, float *weights, u32 images, u32 positions, u32 heads) {
  EACH(row, (u64)images * heads) {
    const real *own = scores + row / heads * positions * heads + row % heads;
    float *into = weights + row * positions, most = wide(own[0]), sum = 0.0f;
    for (u32 p = 1; p < positions; p++) most = fmaxf(most, wide(own[(u64)p * heads]));
    for (u32 p = 0; p < positions; p++) {
      into[p] = expf(wide(own[(u64)p * heads]) - most);
      sum += into[p];
    }
    for (u32 p = 0; p < positions; p++) into[p] /= sum;
  }
}

// Computes the mean of the features with the weights of each head: (images * heads, channels).
extern "C" __global__ void weighted(const float *weights, const real *x, real *out, u32 images, u32 positions, u32 channels,
                                    u32 heads) {
  EACH(i, (u64)images * heads * channels) {
    u64 row = i / channels;
    const real *from = x + row / heads * positions * channels + i % channels;
    float sum = 0.0f;
    for (u32 p = 0; p < positions; p++) sum += weights[row * positions + p] * wide(from[(u64)p * channels]);
    out[i] = narrow(sum);
  }
}

// Computes the product of the gradient of each head with the features at each position: (images, heads, positions).
extern "C" __global__ void attention_products(const real *grad, const real *x, float *products, u32 images, u32 positions,
                                              u32 channels, u32 heads) {
  EACH(i, (u64)images * heads * positions) {
    u64 row = i / positions;
    const real *own = grad + row * channels, *from = x + (row / heads * positions + i % positions) * channels;
    float sum = 0.0f;
    for (u32 c = 0; c < channels; c++) sum += wide(own[c]) * wide(from[c]);
    products[i] = sum;
  }
}

// Computes the gradient of the scores (images, positions, heads) from those products.
extern "C" __global__ void scores_gradient(const float *weights, const float *products, real *into, u32 images, u32 positions,
                                           u32 heads) {
  EACH(row, (u64)images * heads) {
    const float *a = weights + row * positions, *d = products + row * positions;
    float mean = 0.0f;
    for (u32 p = 0; p < positions; p++) mean += a[p] * d[p];
    real *own = into + row / heads * positions * heads + row % heads;
    for (u32 p = 0; p < positions; p++) own[(u64)p * heads] = narrow(a[p] * (d[p] - mean));
  }
}

// Computes the gradient of the features (images, positions, channels) from the gradients of all heads.
extern "C" __global__ void features_gradient(const float *weights, const real *grad, real *into, u32 images, u32 positions,
                                             u32 channels, u32 heads) {
  EACH(i, (u64)images * positions * channels) {
    u64 image = i / channels / positions;
    u32 p = (u32)(i / channels % positions), c = (u32)(i % channels);
    float sum = 0.0f;
    for (u64 row = image * heads; row < (image + 1) * heads; row++)
      sum += weights[row * positions + p] * wide(grad[row * channels + c]);
    into[i] = narrow(sum);
  }
}

// Copies every `step`-th row of (rows, columns), from row `first` on, if `back` is not set. Otherwise it copies the rows
// back, and writes 0 to the other rows.
extern "C" __global__ void every(const real *x, real *out, u32 rows, u32 columns, u32 first, u32 step, u32 back) {
  EACH(i, (u64)(back ? rows : rows / step) * columns) {
    u64 row = i / columns, column = i % columns;
    if (!back) out[i] = x[(row * step + first) * columns + column];
    else out[i] = row % step == first ? x[row / step * columns + column] : narrow(0.0f);
  }
}
