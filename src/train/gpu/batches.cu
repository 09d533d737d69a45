// Makes a batch from the data set on the GPU: images are gathered, augmented and normalised.
//
// The arithmetic is that of src/augment/{apply,warp,gather}.rs, operation by operation, and the pixels are the same. It
// is compiled without contraction to fused multiply-adds, which would round differently.

#define INLINE __device__ __forceinline__

enum { STILL = 0, HALF_TURN = 1, LEFT = 2, RIGHT = 3, FIXED = 4, FLOATING = 5, SCALE = 6, BILINEAR = 7 };

// A `Warp`: the source of the pixels in one resampling.
struct Warp {
  int kind;
  int fixed[6];     // for FIXED: origin x, y; right x, y; down x, y, in 16.16 fixed point
  double matrix[6]; // for the other kinds: x' = a x + b y + c, y' = d x + e y + f
};

// A `Transform`: the warps of an image, and the rectangle that is erased afterwards.
struct Transform {
  int warps; // 0 to 2
  int erase[5]; // top, left, height, width, value
  Warp warp[2];
};

INLINE int whole(double position, int size) {
  return position >= 0.0 && position < (double)size ? (int)position : -1;
}

INLINE double advance(double from, double by, int times) {
  for (int i = 0; i < times; i++) from += by;
  return from;
}

INLINE int fixed_pixel(const u8 *source, int height, int width, const int *f, int x, int y) {
  // the sums wrap around, so that negative positions exceed every side
  u32 at_x = (u32)f[0] + (u32)f[2] * (u32)x + (u32)f[4] * (u32)y, at_y = (u32)f[1] + (u32)f[3] * (u32)x + (u32)f[5] * (u32)y;
  u32 wide_side = (u32)(width < 32768 ? width : 32768) << 16, high_side = (u32)(height < 32768 ? height : 32768) << 16;
  return at_x < wide_side && at_y < high_side ? source[(at_y >> 16) * (u32)width + (at_x >> 16)] : 0;
}

INLINE void neighbours(double position, int size, int *first, int *second, double *share) {
  position = position - 0.5;
  if (position < 0.0) {
    *first = *second = 0;
    *share = position + 1.0;
    return;
  }
  *first = (int)position;
  *second = *first + 1 < size ? *first + 1 : size - 1;
  *share = position - (double)*first;
}

INLINE int bilinear_pixel(const u8 *source, int height, int width, const double *m, int column, int row) {
  double at_x = (double)column + 0.5, at_y = (double)row + 0.5;
  double x = m[0] * at_x + m[1] * at_y + m[2], y = m[3] * at_x + m[4] * at_y + m[5];
  if (!(x >= 0.0 && x < (double)width && y >= 0.0 && y < (double)height)) return 0;
  int left, right, above, below;
  double dx, dy;
  neighbours(x, width, &left, &right, &dx);
  neighbours(y, height, &above, &below, &dy);
  const u8 *a = source + above * width, *b = source + below * width;
  double upper = (double)a[left] + (double)((int)a[right] - (int)a[left]) * dx;
  double lower = (double)b[left] + (double)((int)b[right] - (int)b[left]) * dx;
  return (int)(upper + (lower - upper) * dy);
}

// The two kinds that accumulate in floating point: a position is the sum of one increment for each preceding pixel.
INLINE int accumulated_pixel(const u8 *source, int height, int width, const Warp *warp, int column, int row) {
  const double *m = warp->matrix;
  double x, y;
  if (warp->kind == SCALE) {
    x = advance(m[2] + m[0] * 0.5, m[0], column);
    y = advance(m[5] + m[4] * 0.5, m[4], row);
  } else {
    x = advance(advance(m[2] + m[1] * 0.5 + m[0] * 0.5, m[1], row), m[0], column);
    y = advance(advance(m[5] + m[4] * 0.5 + m[3] * 0.5, m[4], row), m[3], column);
  }
  int from_x = whole(x, width), from_y = whole(y, height);
  return from_x < 0 || from_y < 0 ? 0 : source[from_y * width + from_x];
}

INLINE int warped_pixel(const u8 *source, int height, int width, const Warp *warp, int x, int y) {
  switch (warp->kind) {
  case STILL: return source[y * width + x];
  case HALF_TURN: return source[height * width - 1 - (y * width + x)];
  case LEFT: return source[x * width + (width - 1 - y)];
  case RIGHT: return source[(height - 1 - x) * width + y];
  case FIXED: return fixed_pixel(source, height, width, warp->fixed, x, y);
  case BILINEAR: return bilinear_pixel(source, height, width, warp->matrix, x, y);
  default: return accumulated_pixel(source, height, width, warp, x, y);
  }
}

INLINE int erased_pixel(int grey, const int *e, int x, int y) {
  return y >= e[0] && y < e[0] + e[2] && x >= e[1] && x < e[1] + e[3] ? e[4] : grey;
}

// Images of the data set, after the exchange of digits.
struct Images {
  const u8 *pixels;
  int height, width, digits;
  const u32 *donors; // the row that each slot of each image is taken from; null: no exchange
};

// The columns of a slot, as `slot` of src/plan/mod.rs.
INLINE int slot_left(int place, int digits, int width) { return (int)((u64)place * width / digits); }

INLINE int pixel(const Images *images, u32 row, int x, int y) {
  if (images->donors) {
    const u32 *donors = images->donors + (u64)row * images->digits;
    int wide = images->width / images->digits, place = images->digits - 1;
    for (; place > 0; place--) {
      int left = slot_left(place, images->digits, images->width);
      if (x >= left && x < left + wide) break;
    }
    row = donors[place];
  }
  return images->pixels[((u64)row * images->height + y) * images->width + x];
}

// Augments one image with all threads of the block: the whole image if `parts` is 1, and otherwise each slot as an image of
// its own. `one` and `two` have room for an image each, and `transform` for a transform. `write` takes a position of the
// image and its grey.
template <class Write>
INLINE void augment(const Images *images, u32 row, const Transform *transforms, int parts, Transform *transform, u8 *one,
                    u8 *two, Write write) {
  int height = images->height, width = images->width;
  if (width % parts) { // some columns belong to no slot
    for (int i = threadIdx.x; i < height * width; i += blockDim.x) {
      write(i % width, i / width, pixel(images, row, i % width, i / width));
    }
  }
  int wide = width / parts, area = height * wide;
  for (int part = 0; part < parts; part++) {
    int left = slot_left(part, parts, width);
    const u32 *from = (const u32 *)(transforms + (u64)row * parts + part);
    __syncthreads();
    for (u32 i = threadIdx.x; i < sizeof(Transform) / 4; i += blockDim.x) ((u32 *)transform)[i] = from[i];
    for (int i = threadIdx.x; i < area; i += blockDim.x) one[i] = (u8)pixel(images, row, left + i % wide, i / wide);
    __syncthreads();
    const u8 *source = one;
    if (transform->warps == 2) {
      for (int i = threadIdx.x; i < area; i += blockDim.x) {
        two[i] = (u8)warped_pixel(one, height, wide, transform->warp, i % wide, i / wide);
      }
      source = two;
      __syncthreads();
    }
    const Warp *last = transform->warp + (transform->warps == 2);
    for (int i = threadIdx.x; i < area; i += blockDim.x) {
      int x = i % wide, y = i / wide, grey = source[i];
      if (transform->warps) grey = warped_pixel(source, height, wide, last, x, y);
      write(left + x, y, erased_pixel(grey, transform->erase, x, y));
    }
  }
}

// One block per image. `order` and `step` select the images of the data set; without `order`, they are consecutive from
// `first` on. If `transforms` is null, nothing is augmented; otherwise there are `parts` of them per image. `between` has
// room for two images per block if they do not fit into shared memory.
extern "C" __global__ void __launch_bounds__(256)
images(const u8 *pixels, u32 stride, int height, int width, const u32 *order, u32 first, const Step *step, int digits,
       const u32 *donors, const Transform *transforms, int parts, const float *normalised, real *out, u8 *between) {
  extern __shared__ u8 shared[];
  __shared__ float table[256];
  __shared__ Transform transform;
  u32 area = (u32)(height * width), at = order ? step->step * stride + blockIdx.x : first + blockIdx.x;
  u32 row = order ? order[at] : at;
  u8 *one = between ? between + (u64)blockIdx.x * 2 * area : shared, *two = one + area;
  real *into = out + (u64)blockIdx.x * area;
  table[threadIdx.x] = normalised[threadIdx.x];
  __syncthreads();
  if (!transforms) {
    const u8 *source = pixels + (u64)row * area;
    for (u32 i = threadIdx.x; i < area; i += blockDim.x) into[i] = narrow(table[source[i]]);
    return;
  }
  Images set = {pixels, height, width, digits, donors};
  augment(&set, row, transforms, parts, &transform, one, two,
          [&](int x, int y, int grey) { into[y * width + x] = narrow(table[grey]); });
}

// Augments some images like `images`, but without normalisation.
extern "C" __global__ void __launch_bounds__(256)
augmented(const u8 *pixels, int height, int width, int digits, const u32 *donors, const Transform *transforms, int parts,
          u8 *out, u8 *between) {
  __shared__ Transform transform;
  u32 area = (u32)(height * width);
  u8 *one = between + (u64)blockIdx.x * 2 * area, *into = out + (u64)blockIdx.x * area;
  Images set = {pixels, height, width, digits, donors};
  augment(&set, blockIdx.x, transforms, parts, &transform, one, one + area,
          [&](int x, int y, int grey) { into[y * width + x] = (u8)grey; });
}
