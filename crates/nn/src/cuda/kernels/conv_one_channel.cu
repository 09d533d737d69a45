// The convolution of images with one channel, the first layer, and the gradient of its weight. cuDNN's engines convert
// such images to four or more channels, and take many times as long. The arithmetic is in float32 for every precision.

const u32 PART = 4; // channels per thread

struct alignas(sizeof(real) * PART) Four {
  real at[PART];
};

// Copies the lines of a tile, with their padding, to shared memory; 0 outside the image.
__device__ __forceinline__ void first_tile(const real *image, int height, int width, int padding, int line, int lines,
                                           int across, float *tile) {
  for (int i = threadIdx.x; i < lines * across; i += THREADS) {
    int y = line + i / across - padding, x = i % across - padding;
    bool inside = y >= 0 && y < height && x >= 0 && x < width;
    tile[i] = inside ? wide(image[y * width + x]) : 0.0f;
  }
  __syncthreads();
}

// A block computes some lines of the output of one image.
template <int K>
__device__ void first_forward(const real *x, const real *weight, real *out, int height, int width, int outputs,
                              int padding, int tile_lines, float *tile) {
  int lines = height + 2 * padding - K + 1, columns = width + 2 * padding - K + 1, across = width + 2 * padding;
  int line = blockIdx.y * tile_lines, count = min(tile_lines, lines - line);
  first_tile(x + (u64)blockIdx.x * height * width, height, width, padding, line, count + K - 1, across, tile);
  int groups = outputs / PART, lane = threadIdx.x % groups, step = THREADS / groups;
  float w[K * K][PART];
#pragma unroll
  for (int k = 0; k < PART; k++) {
#pragma unroll
    for (int t = 0; t < K * K; t++) w[t][k] = wide(weight[(lane * PART + k) * K * K + t]);
  }
  real *into = out + ((u64)blockIdx.x * lines + line) * columns * outputs + lane * PART;
  for (int p = threadIdx.x / groups; p < count * columns; p += step) {
    const float *from = tile + p / columns * across + p % columns;
    float sum[PART] = {0.0f, 0.0f, 0.0f, 0.0f};
#pragma unroll
    for (int t = 0; t < K * K; t++) {
      float v = from[t / K * across + t % K];
#pragma unroll
      for (int k = 0; k < PART; k++) sum[k] += v * w[t][k];
    }
    Four four;
#pragma unroll
    for (int k = 0; k < PART; k++) four.at[k] = narrow(sum[k]);
    *(Four *)(into + (u64)p * outputs) = four;
  }
}

// Blocks loop over the tiles of all images. Each block writes a sum for every weight to `partial`.
template <int K>
__device__ void first_weights(const real *x, const real *grad, float *partial, int images, int height, int width,
                              int outputs, int padding, int tile_lines, float *tile) {
  int lines = height + 2 * padding - K + 1, columns = width + 2 * padding - K + 1, across = width + 2 * padding;
  int groups = outputs / PART, lane = threadIdx.x % groups, step = THREADS / groups;
  int tiles = (lines + tile_lines - 1) / tile_lines;
  float sum[K * K][PART];
#pragma unroll
  for (int t = 0; t < K * K; t++) {
#pragma unroll
    for (int k = 0; k < PART; k++) sum[t][k] = 0.0f;
  }
  for (int unit = blockIdx.x; unit < images * tiles; unit += gridDim.x) {
    int image = unit / tiles, line = unit % tiles * tile_lines, count = min(tile_lines, lines - line);
    first_tile(x + (u64)image * height * width, height, width, padding, line, count + K - 1, across, tile);
    const real *from = grad + ((u64)image * lines + line) * columns * outputs + lane * PART;
    for (int p = threadIdx.x / groups; p < count * columns; p += step) {
      Four four = *(const Four *)(from + (u64)p * outputs);
      const float *window = tile + p / columns * across + p % columns;
      float g[PART];
#pragma unroll
      for (int k = 0; k < PART; k++) g[k] = wide(four.at[k]);
#pragma unroll
      for (int t = 0; t < K * K; t++) {
        float v = window[t / K * across + t % K];
#pragma unroll
        for (int k = 0; k < PART; k++) sum[t][k] += v * g[k];
      }
    }
    __syncthreads();
  }
  // the sums of the threads of one channel group are added in order, weight by weight
  __shared__ float part[THREADS * PART];
#pragma unroll
  for (int t = 0; t < K * K; t++) {
#pragma unroll
    for (int k = 0; k < PART; k++) part[threadIdx.x * PART + k] = sum[t][k];
    __syncthreads();
    for (int c = threadIdx.x; c < outputs; c += THREADS) {
      float all = 0.0f;
      for (int s = 0; s < step; s++) all += part[(s * groups + c / PART) * PART + c % PART];
      partial[((u64)blockIdx.x * outputs + c) * K * K + t] = all;
    }
    __syncthreads();
  }
}

#define FIRST(K)                                                                                                         \
  extern "C" __global__ void __launch_bounds__(256)                                                                      \
  first_forward_##K(const real *x, const real *weight, real *out, int height, int width, int outputs, int padding,       \
                    int tile_lines) {                                                                                    \
    extern __shared__ float tile[];                                                                                      \
    first_forward<K>(x, weight, out, height, width, outputs, padding, tile_lines, tile);                                 \
  }                                                                                                                      \
  extern "C" __global__ void __launch_bounds__(256)                                                                      \
  first_weights_##K(const real *x, const real *grad, float *partial, int images, int height, int width, int outputs,     \
                    int padding, int tile_lines) {                                                                       \
    extern __shared__ float tile[];                                                                                      \
    first_weights<K>(x, grad, partial, images, height, width, outputs, padding, tile_lines, tile);                       \
  }
FIRST(3)
FIRST(5)

// Adds the sums of the blocks: a block handles 32 weights, with eight threads for each.
extern "C" __global__ void __launch_bounds__(256) first_total(const float *partial, real *into, u32 weights, u32 blocks) {
  __shared__ double part[THREADS];
  u32 weight = blockIdx.x * 32 + threadIdx.x % 32, sub = threadIdx.x / 32;
  double sum = 0.0;
  if (weight < weights) {
#pragma unroll 8
    for (u32 b = sub; b < blocks; b += 8) sum += (double)partial[(u64)b * weights + weight];
  }
  part[threadIdx.x] = sum;
  __syncthreads();
  if (sub || weight >= weights) return;
  for (u32 s = 1; s < 8; s++) sum += part[s * 32 + threadIdx.x];
  into[weight] = narrow((float)sum);
}
