// Reads images with a network. The page runs this script in a worker, so that drawing never waits for it.
//
// A network is a graph of the operators that `multidigit export onnx` writes. A tensor is { shape, data }, with its numbers
// in row-major order. The first message to the worker is { graph, weights }. Each further message is { number, pixels } and
// is answered by { number, logits }, where logits are ten numbers for each digit.
//
// Plain JavaScript is fast enough for these networks and small: onnxruntime-web's WebAssembly adds 19 MB to the page. On one
// core, this script reads an image in 20 to 50 ms and with the ResNet in 0.6 s; onnxruntime-web takes 10 to 25 ms and 0.2 s.
"use strict";

const size = (shape) => shape.reduce((product, length) => product * length, 1);
const empty = (shape) => ({ shape, data: new Float32Array(size(shape)) });

// Sets out[start + i * step + j] to the scalar product of row i of `a` and row j of `b`. Rows have `length` numbers.
function products(a, rows, b, columns, length, out, start, step) {
  for (let i = 0; i < rows; i += 4) {
    for (let j = 0; j < columns; j += 2) {
      const at = start + i * step + j;
      if (i + 4 <= rows && j + 2 <= columns) {
        block(a, i * length, b, j * length, length, out, at, step);
        continue;
      }
      for (let r = i; r < Math.min(i + 4, rows); r++) {
        for (let c = j; c < Math.min(j + 2, columns); c++) {
          let sum = 0;
          for (let k = 0; k < length; k++) sum += a[r * length + k] * b[c * length + k];
          out[start + r * step + c] = sum;
        }
      }
    }
  }
}

// Four rows of `a` by two of `b`. Eight sums keep the processor busy, where one waits for each of its additions.
function block(a, a0, b, b0, length, out, at, step) {
  const [a1, a2, a3, b1] = [a0 + length, a0 + 2 * length, a0 + 3 * length, b0 + length];
  let s00 = 0, s01 = 0, s10 = 0, s11 = 0, s20 = 0, s21 = 0, s30 = 0, s31 = 0;
  for (let k = 0; k < length; k++) {
    const x = b[b0 + k], y = b[b1 + k];
    let w = a[a0 + k];
    s00 += w * x;
    s01 += w * y;
    w = a[a1 + k];
    s10 += w * x;
    s11 += w * y;
    w = a[a2 + k];
    s20 += w * x;
    s21 += w * y;
    w = a[a3 + k];
    s30 += w * x;
    s31 += w * y;
  }
  out[at] = s00;
  out[at + 1] = s01;
  out[at + step] = s10;
  out[at + step + 1] = s11;
  out[at + 2 * step] = s20;
  out[at + 2 * step + 1] = s21;
  out[at + 3 * step] = s30;
  out[at + 3 * step + 1] = s31;
}

// ---- convolution

// The number of positions, or of tiles, whose inputs are gathered at a time.
const GATHERED = 64;

function conv([x, weight, bias], { strides: [stride], pads: [padding] }) {
  const [images, , height, width] = x.shape;
  const [filters, , side] = weight.shape;
  const [rows, columns] = [height, width].map((length) => Math.floor((length + 2 * padding - side) / stride) + 1);
  const out = empty([images, filters, rows, columns]);
  for (let image = 0; image < images; image++) {
    if (side === 3 && stride === 1) winograd(x, weight, padding, image, out);
    else direct(x, weight, stride, padding, image, out);
  }
  if (bias) {
    for (let i = 0; i < out.data.length; i++) out.data[i] += bias.data[Math.floor(i / (rows * columns)) % filters];
  }
  return out;
}

// Copies a square of each channel of an image. What lies outside the image is 0.
function gather(x, image, channel, top, left, side, out, target) {
  const [, channels, height, width] = x.shape;
  const plane = (image * channels + channel) * height;
  for (let row = top; row < top + side; row++) {
    for (let column = left; column < left + side; column++, target++) {
      const isInside = row >= 0 && row < height && column >= 0 && column < width;
      out[target] = isInside ? x.data[(plane + row) * width + column] : 0;
    }
  }
}

// Each filter times the inputs of each position.
function direct(x, weight, stride, padding, image, out) {
  const [filters, channels, side] = weight.shape;
  const [, , rows, columns] = out.shape;
  const [area, length] = [rows * columns, channels * side * side];
  const inputs = new Float32Array(GATHERED * length);
  for (let first = 0; first < area; first += GATHERED) {
    const count = Math.min(GATHERED, area - first);
    for (let n = 0; n < count; n++) {
      const top = Math.floor((first + n) / columns) * stride - padding;
      const left = ((first + n) % columns) * stride - padding;
      for (let channel = 0; channel < channels; channel++) {
        gather(x, image, channel, top, left, side, inputs, n * length + channel * side * side);
      }
    }
    products(weight.data, filters, inputs, count, length, out.data, image * filters * area + first, area);
  }
}

// Winograd's F(4x4, 3x3), with the matrices of Lavin and Gray: https://arxiv.org/abs/1509.09308. A tile of 6x6 inputs gives
// 4x4 outputs with 36 multiplications for each filter and channel instead of 144. This halves the time of the ResNet.
const [TILE, STEP] = [6, 4];
const OF_INPUT = [
  [4, 0, -5, 0, 1, 0],
  [0, -4, -4, 1, 1, 0],
  [0, 4, -4, -1, 1, 0],
  [0, -2, -1, 2, 1, 0],
  [0, 2, -1, -2, 1, 0],
  [0, 4, 0, -5, 0, 1],
].flat();
const OF_FILTER = [
  [1 / 4, 0, 0],
  [-1 / 6, -1 / 6, -1 / 6],
  [-1 / 6, 1 / 6, -1 / 6],
  [1 / 24, 1 / 12, 1 / 6],
  [1 / 24, -1 / 12, 1 / 6],
  [0, 0, 1],
].flat();
const OF_OUTPUT = [
  [1, 1, 1, 1, 1, 0],
  [0, 1, -1, 2, -2, 0],
  [0, 1, 1, 4, 4, 0],
  [0, 1, -1, 8, -8, 1],
].flat();

// matrix · tile · matrixᵀ, where the matrix has `rows` rows and the tile has `side` rows and columns.
function transform(matrix, rows, tile, side, out) {
  for (let i = 0; i < rows; i++) {
    for (let j = 0; j < side; j++) {
      let sum = 0;
      for (let k = 0; k < side; k++) sum += matrix[i * side + k] * tile[k * side + j];
      half[i * side + j] = sum;
    }
  }
  for (let i = 0; i < rows; i++) {
    for (let j = 0; j < rows; j++) {
      let sum = 0;
      for (let k = 0; k < side; k++) sum += half[i * side + k] * matrix[j * side + k];
      out[i * rows + j] = sum;
    }
  }
}
const [half, tile, result] = [0, 1, 2].map(() => new Float64Array(TILE * TILE));

function transformedFilters({ shape: [filters, channels], data }) {
  const count = filters * channels;
  const out = new Float32Array(TILE * TILE * count);
  for (let n = 0; n < count; n++) {
    transform(OF_FILTER, TILE, data.subarray(9 * n, 9 * n + 9), 3, result);
    for (let i = 0; i < TILE * TILE; i++) out[i * count + n] = result[i];
  }
  return out;
}

function winograd(x, weight, padding, image, out) {
  const [filters, channels] = weight.shape;
  const [, , rows, columns] = out.shape;
  const [down, across] = [rows, columns].map((length) => Math.ceil(length / STEP));
  weight.transformed ??= transformedFilters(weight);
  const [inputs, sums] = [channels, filters].map((planes) => new Float32Array(TILE * TILE * planes * GATHERED));
  for (let first = 0; first < down * across; first += GATHERED) {
    const count = Math.min(GATHERED, down * across - first);
    const place = (n) => [STEP * Math.floor((first + n) / across), STEP * ((first + n) % across)];
    for (let n = 0; n < count; n++) {
      const [top, left] = place(n);
      for (let channel = 0; channel < channels; channel++) {
        gather(x, image, channel, top - padding, left - padding, TILE, tile, 0);
        transform(OF_INPUT, TILE, tile, TILE, result);
        for (let i = 0; i < TILE * TILE; i++) inputs[(i * GATHERED + n) * channels + channel] = result[i];
      }
    }
    for (let i = 0; i < TILE * TILE; i++) {
      const [ofFilters, ofInputs] = [weight.transformed, inputs].map((all) => all.subarray((i * all.length) / (TILE * TILE)));
      products(ofFilters, filters, ofInputs, count, channels, sums, i * filters * GATHERED, GATHERED);
    }
    for (let n = 0; n < count; n++) {
      const [top, left] = place(n);
      for (let filter = 0; filter < filters; filter++) {
        for (let i = 0; i < TILE * TILE; i++) tile[i] = sums[(i * filters + filter) * GATHERED + n];
        transform(OF_OUTPUT, STEP, tile, TILE, result);
        const target = ((image * filters + filter) * rows + top) * columns + left;
        for (let row = 0; row < Math.min(STEP, rows - top); row++) {
          for (let column = 0; column < Math.min(STEP, columns - left); column++) {
            out.data[target + row * columns + column] = result[row * STEP + column];
          }
        }
      }
    }
  }
}

// ---- other operators

// By the running statistics.
function batchNorm([x, scale, shift, mean, variance], { epsilon }) {
  const [images, channels, ...sides] = x.shape;
  const [out, area] = [empty(x.shape), size(sides)];
  for (let plane = 0; plane < images * channels; plane++) {
    const channel = plane % channels;
    const factor = scale.data[channel] / Math.sqrt(variance.data[channel] + epsilon);
    const offset = shift.data[channel] - factor * mean.data[channel];
    for (let i = plane * area; i < (plane + 1) * area; i++) out.data[i] = factor * x.data[i] + offset;
  }
  return out;
}

function relu([x]) {
  const out = empty(x.shape);
  for (let i = 0; i < out.data.length; i++) out.data[i] = Math.max(0, x.data[i]);
  return out;
}

// The maximum over 2x2 positions. An odd last row or column is left out.
function maxPool([x]) {
  const [images, channels, height, width] = x.shape;
  const [rows, columns] = [height >> 1, width >> 1];
  const out = empty([images, channels, rows, columns]);
  for (let i = 0; i < out.data.length; i++) {
    const [plane, row, column] = [Math.floor(i / (rows * columns)), Math.floor(i / columns) % rows, i % columns];
    const at = (plane * height + 2 * row) * width + 2 * column;
    out.data[i] = Math.max(x.data[at], x.data[at + 1], x.data[at + width], x.data[at + width + 1]);
  }
  return out;
}

// One number for each channel of each image.
const globalPool = (pool) => ([x]) => {
  const [images, channels, ...sides] = x.shape;
  const [out, area] = [empty([images, channels, 1, 1]), size(sides)];
  out.data.forEach((_, i) => (out.data[i] = pool(x.data.subarray(i * area, (i + 1) * area))));
  return out;
};
const largest = (values) => values.reduce((a, b) => Math.max(a, b));
const mean = (values) => values.reduce((a, b) => a + b) / values.length;

// A linear layer.
function gemm([x, weight, bias]) {
  const [images, inputs] = x.shape;
  const [outputs] = weight.shape;
  const out = empty([images, outputs]);
  products(x.data, images, weight.data, outputs, inputs, out.data, 0, outputs);
  out.data.forEach((sum, i) => (out.data[i] = sum + bias.data[i % outputs]));
  return out;
}

// A matrix product for each image.
function matMul([a, b]) {
  const [images, rows, length] = a.shape;
  const columns = b.shape[2];
  const out = empty([images, rows, columns]);
  for (let i = 0; i < out.data.length; i++) {
    const [image, row, column] = [Math.floor(i / (rows * columns)), Math.floor(i / columns), i % columns];
    for (let k = 0; k < length; k++) out.data[i] += a.data[row * length + k] * b.data[(image * length + k) * columns + column];
  }
  return out;
}

// Exchanges the last two of three axes.
function transpose([x]) {
  const [images, rows, columns] = x.shape;
  const out = empty([images, columns, rows]);
  for (let i = 0; i < x.data.length; i++) {
    const [image, row, column] = [Math.floor(i / (rows * columns)), Math.floor(i / columns) % rows, i % columns];
    out.data[(image * columns + column) * rows + row] = x.data[i];
  }
  return out;
}

// Over the last axis.
function softmax([x]) {
  const [out, length] = [empty(x.shape), x.shape.at(-1)];
  for (let start = 0; start < x.data.length; start += length) {
    const values = x.data.subarray(start, start + length);
    const powers = values.map((value) => Math.exp(value - largest(values)));
    const sum = powers.reduce((a, b) => a + b);
    out.data.set(powers.map((power) => power / sum), start);
  }
  return out;
}

// The part of a tensor from `start` to `end` along an axis. A part that extends beyond the tensor is 0 there.
function part(x, axis, start, end) {
  const [before, length, after] = [x.shape.slice(0, axis), x.shape[axis], x.shape.slice(axis + 1)];
  const [out, inner] = [empty([...before, end - start, ...after]), size(after)];
  const [from, to] = [Math.max(0, start), Math.min(length, end)];
  for (let outer = 0; outer < size(before); outer++) {
    const values = x.data.subarray((outer * length + from) * inner, (outer * length + to) * inner);
    out.data.set(values, (outer * (end - start) + from - start) * inner);
  }
  return out;
}

// Equal parts along an axis.
function split([x], { axis, num_outputs: parts }) {
  const length = x.shape[axis] / parts;
  return Array.from({ length: parts }, (_, number) => part(x, axis, number * length, (number + 1) * length));
}

// Along the first axis.
function concat(parts) {
  const [, ...sides] = parts[0].shape;
  const out = empty([parts.reduce((sum, { shape }) => sum + shape[0], 0), ...sides]);
  let start = 0;
  for (const { data } of parts) {
    out.data.set(data, start);
    start += data.length;
  }
  return out;
}

// The second operand has one number, or the shape of the first.
const elementwise = (calculate) => ([a, b]) => {
  const isOne = b.data.length === 1;
  return { shape: a.shape, data: a.data.map((value, i) => calculate(value, b.data[isOne ? 0 : i])) };
};

// The operators, in the forms that occur in multidigit's networks: src/export/onnx/networks.rs.
const OPERATORS = {
  Add: elementwise((a, b) => a + b),
  Sub: elementwise((a, b) => a - b),
  Div: elementwise((a, b) => a / b),
  Cast: ([x]) => x,
  Identity: ([x]) => x,
  Conv: conv,
  BatchNormalization: batchNorm,
  Relu: relu,
  MaxPool: maxPool,
  GlobalMaxPool: globalPool(largest),
  GlobalAveragePool: globalPool(mean),
  Gemm: gemm,
  MatMul: matMul,
  Softmax: softmax,
  Transpose: transpose,
  Flatten: ([{ shape: [images, ...sides], data }]) => ({ shape: [images, size(sides)], data }),
  Reshape: ([{ shape: [images, channels, ...sides], data }]) => ({ shape: [images, channels, size(sides)], data }),
  Pad: ([x, pads]) => part(x, 3, -pads.data[3], x.shape[3] + pads.data[7]),
  Slice: ([x, starts, ends, axes]) => part(x, axes.data[0], starts.data[0], ends.data[0]),
  Split: split,
  Concat: concat,
};

// The function that a graph stands for: from grey pixels, row by row, to the logits of each digit.
function network({ shape, nodes, tensors, outputs }, weights) {
  const constants = tensors.map(({ name, shape, start, values }) => {
    return [name, { shape, data: values ?? new Float32Array(weights, 4 * start, size(shape)) }];
  });
  return (pixels) => {
    const known = new Map(constants).set("images", { shape, data: Float32Array.from(pixels) });
    for (const { operator, inputs, outputs, attributes } of nodes) {
      const results = OPERATORS[operator](inputs.map((name) => known.get(name)), attributes);
      [results].flat().forEach((tensor, i) => known.set(outputs[i], tensor));
    }
    return outputs.map((name) => Array.from(known.get(name).data));
  };
}

let read;
globalThis.onmessage = ({ data: { graph, weights, number, pixels } }) => {
  if (graph) read = network(graph, weights);
  else postMessage({ number, logits: read(pixels) });
};
