// What all kernels share: the two types of activations, vectors of channels, and how a block stands on a tensor.
//
// Compiled when the program starts, once per type of activations (HALF: bfloat16, else float) and number V of
// neighbouring channels that a thread takes: 16 bytes of them where the channels divide by it, else 1. No header is
// included, so that nothing but the compiler is needed on the machine that runs this.

typedef unsigned char u8;
typedef unsigned int u32;
typedef unsigned long long u64;

#if HALF
typedef unsigned short real;
__device__ __forceinline__ float wide(real v) { return __uint_as_float((u32)v << 16); }
// To the nearest, halves to even; NaN stays NaN.
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

// Where a run of steps stands; on the device, so that a recorded step can be repeated as it is.
struct Step {
  u32 step; // of the epoch, from 0
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

// A block takes up to 16 groups of V channels (blockIdx.x tells which) and walks over rows; a thread stays with one group.
struct Place {
  u32 group;   // of the thread, counted over all channels
  u32 lane;    // of the thread among those of the block
  u32 lanes;   // groups that the block takes
  u32 first;   // row that the thread begins with
  u32 step;    // rows from one of the thread's to its next
  bool active; // whether there is anything to do
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

// Two sums per channel over all rows, from each thread's own. Blocks leave theirs in `partial`; the last block of a
// slice of channels adds them up, in an order that depends on nothing but the shape. Returns the channel whose sums are
// in `sums`, or -1 in threads that have none.
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

__device__ __forceinline__ float relu(float v) { return v < 0.0f ? 0.0f : v; } // NaN passes

// The image and the upper left pixel of a 2x2 window, and whether all of it is inside.
struct Window {
  u64 at;      // first element of the upper left pixel
  u64 pooled;  // first element of the pooled pixel
  bool right, below;
};

// Windows cover the image; of an odd size the last ones stick out, and are in no pool.
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
