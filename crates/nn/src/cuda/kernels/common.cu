// Definitions shared by all kernels: the two types of activations, vectors of channels, and the
// mapping of blocks to tensors.
//
// This source is compiled when the program starts, once for each type of activations (HALF: bfloat16, else float) and
// each number V of neighbouring channels that a thread handles. V corresponds to 16 bytes if it divides the number of
// channels, and is 1 otherwise. No header is included, so that only the compiler is needed on the machine where the
// program runs.

typedef unsigned char u8;
typedef unsigned int u32;
typedef unsigned long long u64;

#if HALF
typedef unsigned short real;
__device__ __forceinline__ float wide(real v) { return __uint_as_float((u32)v << 16); }
// Rounds to the nearest value, ties to even; NaN stays NaN.
__device__ __forceinline__ real narrow(float v) {
  u32 bits = __float_as_uint(v);
  if ((bits & 0x7fffffffu) > 0x7f800000u) return (real)(bits >> 16 | 0x40u);
  return (real)((bits + 0x7fffu + (bits >> 16 & 1u)) >> 16);
}
#else
typedef float real;
__device__ __forceinline__ float wide(real v) { return v; }
__device__ __forceinline__ real narrow(float v) { return v; }
#endif

// The current step. It is stored on the device, so that a captured step can be replayed unchanged.
struct Step {
  u32 step; // the step in the epoch, from 0
};

const u32 THREADS = 256;

struct Lanes {
  float at[V];
};
struct alignas(sizeof(real) * V) Reals {
  real at[V];
};
struct alignas(V) Bytes {
  u8 at[V];
};

__device__ __forceinline__ Lanes load(const real *p) {
  Reals r = *(const Reals *)p;
  Lanes l;
#pragma unroll
  for (int i = 0; i < V; i++) l.at[i] = wide(r.at[i]);
  return l;
}
__device__ __forceinline__ void store(real *p, const Lanes &l) {
  Reals r;
#pragma unroll
  for (int i = 0; i < V; i++) r.at[i] = narrow(l.at[i]);
  *(Reals *)p = r;
}
__device__ __forceinline__ Lanes floats(const float *p) {
  Lanes l;
#pragma unroll
  for (int i = 0; i < V; i++) l.at[i] = p[i];
  return l;
}
__device__ __forceinline__ Lanes zeros() {
  Lanes l;
#pragma unroll
  for (int i = 0; i < V; i++) l.at[i] = 0.0f;
  return l;
}

// A block covers up to 16 groups of V channels, selected by blockIdx.x, and loops over rows. A
// thread handles one group.
struct Place {
  u32 group;   // the thread's group, counted over all channels
  u32 lane;    // the thread's group, counted within the block
  u32 lanes;   // the number of groups in the block
  u32 first;   // the first row of the thread
  u32 step;    // the distance between two rows of the thread
  bool active; // whether the thread has work
};

__device__ __forceinline__ Place place(u32 channels) {
  Place p;
  u32 groups = channels / V;
  p.lanes = groups < 16u ? groups : 16u;
  u32 rows = THREADS / p.lanes;
  p.lane = threadIdx.x % p.lanes;
  u32 row = threadIdx.x / p.lanes;
  p.group = blockIdx.x * p.lanes + p.lane;
  p.active = row < rows && p.group < groups;
  p.first = blockIdx.y * rows + row;
  p.step = gridDim.y * rows;
  return p;
}

// Reduces two sums per channel over all rows, given the sums of each thread. Blocks write theirs to `partial`; the last
// block of a slice of channels adds them up, in an order that depends on the shape alone. Returns the channel whose
// sums are in `sums`, or -1 in threads without a channel.
__device__ int total(const Place &p, const Lanes &a, const Lanes &b, u32 channels, float *partial, u32 *tickets,
                     double sums[2]) {
  __shared__ float part[2][THREADS * V];
  __shared__ double whole[2][THREADS];
  __shared__ bool last;
  u32 row = threadIdx.x / p.lanes, rows = THREADS / p.lanes, width = p.lanes * V, tid = threadIdx.x;
  if (row < rows) {
#pragma unroll
    for (int i = 0; i < V; i++) {
      part[0][row * width + p.lane * V + i] = p.active ? a.at[i] : 0.0f;
      part[1][row * width + p.lane * V + i] = p.active ? b.at[i] : 0.0f;
    }
  }
  __syncthreads();
  float *mine = partial + (u64)(blockIdx.x * gridDim.y + blockIdx.y) * 2 * width;
  for (u32 c = tid; c < 2 * width; c += THREADS) {
    const float *from = c < width ? part[0] + c : part[1] + (c - width);
    float sum = 0.0f;
    for (u32 r = 0; r < rows; r++) sum += from[r * width];
    mine[c] = sum;
  }
  __threadfence();
  __syncthreads();
  if (tid == 0) last = atomicAdd(tickets + blockIdx.x, 1u) == gridDim.y - 1;
  __syncthreads();
  if (!last) return -1;
  __threadfence();
  const float *all = partial + (u64)blockIdx.x * gridDim.y * 2 * width;
  u32 subs = THREADS / width, c = tid % width, sub = tid / width;
  double first = 0.0, second = 0.0;
  if (sub < subs) {
#pragma unroll 8
    for (u32 y = sub; y < gridDim.y; y += subs) {
      first += (double)__ldcg(all + (u64)y * 2 * width + c);
      second += (double)__ldcg(all + (u64)y * 2 * width + width + c);
    }
    whole[0][tid] = first;
    whole[1][tid] = second;
  }
  __syncthreads();
  if (tid == 0) tickets[blockIdx.x] = 0;
  if (tid >= width) return -1;
  sums[0] = sums[1] = 0.0;
  for (u32 s = 0; s < subs; s++) {
    sums[0] += whole[0][s * width + tid];
    sums[1] += whole[1][s * width + tid];
  }
  u32 channel = blockIdx.x * width + tid;
  return channel < channels ? (int)channel : -1;
}

enum { PLAIN = 0, RELU = 1, RELU_POOL = 2 };

struct Size {
  u32 images, height, width, channels;
};

__device__ __forceinline__ float relu(float v) { return v < 0.0f ? 0.0f : v; } // NaN is propagated

// The image and the upper left pixel of a 2x2 window, and whether its right and lower pixels are inside the image.
struct Window {
  u64 at;      // the first element of the upper left pixel
  u64 pooled;  // the first element of the pooled pixel
  bool right, below;
};

// The windows cover the image. If a size is odd, the last ones extend beyond it and are not pooled.
__device__ __forceinline__ Window window(u32 number, const Size &s) {
  u32 across = (s.width + 1) / 2, down = (s.height + 1) / 2;
  u32 x = number % across, rest = number / across, y = rest % down, n = rest / down;
  Window w;
  w.at = ((u64)(n * s.height + 2 * y) * s.width + 2 * x) * s.channels;
  w.pooled = ((u64)(n * (s.height / 2) + y) * (s.width / 2) + x) * s.channels;
  w.right = 2 * x + 1 < s.width;
  w.below = 2 * y + 1 < s.height;
  return w;
}
