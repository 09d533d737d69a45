// Elementwise operations, and the small operations around the fully connected layers. `n` counts groups of V elements.

#define EACH(i, n) for (u64 i = (u64)blockIdx.x * blockDim.x + threadIdx.x; i < (n); i += (u64)gridDim.x * blockDim.x)

extern "C" __global__ void relu_forward(const real *x, real *out, u64 n) {
  EACH(i, n) {
    Lanes v = load(x + i * V);
#pragma unroll
    for (int k = 0; k < V; k++) v.at[k] = relu(v.at[k]);
    store(out + i * V, v);
  }
}

extern "C" __global__ void relu_gradient(const real *out, const real *grad, real *into, u64 n) {
  EACH(i, n) {
    Lanes o = load(out + i * V), g = load(grad + i * V);
#pragma unroll
    for (int k = 0; k < V; k++) g.at[k] = o.at[k] > 0.0f ? g.at[k] : 0.0f;
    store(into + i * V, g);
  }
}

extern "C" __global__ void add_relu(const real *a, const real *b, real *out, u64 n) {
  EACH(i, n) {
    Lanes v = load(a + i * V), w = load(b + i * V);
#pragma unroll
    for (int k = 0; k < V; k++) v.at[k] = relu(v.at[k] + w.at[k]);
    store(out + i * V, v);
  }
}

extern "C" __global__ void sum(const real *a, const real *b, real *out, u64 n) {
  EACH(i, n) {
    Lanes v = load(a + i * V), w = load(b + i * V);
#pragma unroll
    for (int k = 0; k < V; k++) v.at[k] += w.at[k];
    store(out + i * V, v);
  }
}

// Transposes (images, positions, channels) to (images, channels, positions) or back, one element at a time.
extern "C" __global__ void exchange(const real *x, real *out, u32 images, u32 rows, u32 columns) {
  u64 area = (u64)rows * columns;
  EACH(i, images * area) {
    u64 image = i / area;
    u32 rest = (u32)(i % area), column = rest / rows, row = rest % rows;
    out[i] = x[image * area + (u64)row * columns + column];
  }
}

// Computes the mean over the positions of (images, positions, channels).
extern "C" __global__ void mean_forward(const real *x, real *out, u32 images, u32 positions, u32 channels) {
  EACH(i, (u64)images * channels) {
    const real *from = x + i / channels * positions * channels + i % channels;
    float sum = 0.0f;
    for (u32 p = 0; p < positions; p++) sum += wide(from[(u64)p * channels]);
    out[i] = narrow(sum / positions);
  }
}

extern "C" __global__ void mean_gradient(const real *grad, real *into, u32 images, u32 positions, u32 channels) {
  u64 area = (u64)positions * channels;
  EACH(i, images * area / V) {
    u64 at = i * V;
    Lanes g = load(grad + at / area * channels + at % channels);
#pragma unroll
    for (int k = 0; k < V; k++) g.at[k] /= positions;
    store(into + at, g);
  }
}

// ---- dropout

#define QUARTER(a, b, c, d)                 \
  a += b, d ^= a, d = d << 16 | d >> 16;    \
  c += d, b ^= c, b = b << 12 | b >> 20;    \
  a += b, d ^= a, d = d << 8 | d >> 24;     \
  c += d, b ^= c, b = b << 7 | b >> 25;

// Computes sixteen words of a ChaCha8 stream, the same as the CPU's generator for this key, stream and block.
__device__ void chacha8(const u32 *key, u32 stream, u32 block, u32 words[16]) {
  u32 state[16] = {0x61707865u, 0x3320646eu, 0x79622d32u, 0x6b206574u, key[0], key[1], key[2], key[3],
                   key[4],      key[5],      key[6],      key[7],      block,  0u,     stream, 0u};
#pragma unroll
  for (int i = 0; i < 16; i++) words[i] = state[i];
#pragma unroll
  for (int round = 0; round < 4; round++) {
    QUARTER(words[0], words[4], words[8], words[12])
    QUARTER(words[1], words[5], words[9], words[13])
    QUARTER(words[2], words[6], words[10], words[14])
    QUARTER(words[3], words[7], words[11], words[15])
    QUARTER(words[0], words[5], words[10], words[15])
    QUARTER(words[1], words[6], words[11], words[12])
    QUARTER(words[2], words[7], words[8], words[13])
    QUARTER(words[3], words[4], words[9], words[14])
  }
#pragma unroll
  for (int i = 0; i < 16; i++) words[i] += state[i];
}

// Multiplies each element by its factor: 0 if its word of the row's stream is below `dropped`, else `kept`. `keys`
// holds `layers` keys for each step of the epoch; `layer` is the number of this layer.
extern "C" __global__ void dropout(const real *x, real *out, u32 rows, u32 columns, const u32 *keys, u32 layers, u32 layer,
                                   const Step *step, u64 dropped, float kept) {
  u32 blocks = (columns + 15) / 16;
  const u32 *key = keys + ((u64)step->step * layers + layer) * 8;
  EACH(i, (u64)rows * blocks) {
    u32 row = (u32)(i / blocks), block = (u32)(i % blocks), words[16];
    chacha8(key, row, block, words);
#pragma unroll
    for (u32 k = 0; k < 16; k++) {
      u32 column = block * 16 + k;
      if (column < columns) {
        u64 at = (u64)row * columns + column;
        out[at] = narrow(wide(x[at]) * (words[k] < dropped ? 0.0f : kept));
      }
    }
  }
}

extern "C" __global__ void next_step(Step *step) { step->step += 1; }
