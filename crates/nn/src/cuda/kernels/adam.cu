// Adam over all parameters. The gradients of weights have the type of the activations; those of biases and norms are
// floats. Parameters and moments are floats, and a weight also has a copy in the type of the activations.

const int TENSORS = 96; // tensors per launch: the tables below are passed as an argument of at most 4 KB
const u32 CHUNK = 2048; // elements per block

struct Tensors {
  u64 values[TENSORS];
  u64 gradients[TENSORS];
  u64 copies[TENSORS];   // copies in the type of the activations; null if there is none
  u64 moments[TENSORS];  // the first moments, then the second
  u32 counts[TENSORS];
  u32 starts[TENSORS];   // the first chunk of each tensor
};

// The numbers that a step derives from its learning rate: rate / (1 - beta1^t), sqrt(1 - beta2^t),
// 1 - rate * weight decay.
struct Rate {
  float rate, root, kept;
};

extern "C" __global__ void __launch_bounds__(256)
adam(const __grid_constant__ Tensors t, u32 tensors, const Rate *rates, const Step *step, u32 narrow_gradients) {
  const float A = (float)(1.0 - 0.9), B = (float)(1.0 - 0.999), BETA2 = 0.999f, EPSILON_ADAM = 1e-8f;
  u32 low = 0, high = tensors;
  while (high - low > 1) {
    u32 middle = (low + high) / 2;
    if (t.starts[middle] <= blockIdx.x) low = middle; else high = middle;
  }
  Rate rate = rates[step->step];
  u32 count = t.counts[low], begin = (blockIdx.x - t.starts[low]) * CHUNK, end = min(begin + CHUNK, count);
  float *values = (float *)t.values[low], *first = (float *)t.moments[low], *second = first + count;
  real *copy = (real *)t.copies[low];
  const real *typed = (const real *)t.gradients[low];
  const float *floats = (const float *)t.gradients[low];
  bool is_typed = copy != 0 || !narrow_gradients;
  for (u32 i = begin + threadIdx.x; i < end; i += 256) {
    float g = is_typed ? wide(typed[i]) : floats[i];
    float m = first[i], v = second[i], value = values[i];
    m += A * (g - m);
    v = BETA2 * v + B * g * g;
    value = rate.kept * value - rate.rate * m / (sqrtf(v) / rate.root + EPSILON_ADAM);
    first[i] = m;
    second[i] = v;
    values[i] = value;
    if (copy) copy[i] = narrow(value);
  }
}

// Moves the average of a tensor towards its values by a share of the distance. A share of 1 copies the values of an
// average that is 0.
extern "C" __global__ void average(const float *values, float *average, u64 n, float share) {
  EACH(i, n) average[i] += share * (values[i] - average[i]);
}
