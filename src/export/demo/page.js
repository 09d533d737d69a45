// The drawing board and the reading. Lengths are pixels of the image that the network reads.
//
// For programs, `multidigit.read(pixels)` promises the reading of height * width grey values from 0 to 255, row by row:
// { digits, probabilities }, a digit and ten probabilities for each position.
"use strict";

const element = (id) => document.getElementById(id);
const { graph, width, height, slots, examples } = JSON.parse(element("settings").textContent);

// The width of the pen: about the mean width of the strokes in MNIST.
const PEN = 2.4;
// MNIST's digits fit into a box with sides of this length.
const BOX = 20;
// A digit is not made larger than this, so that a dot stays a dot.
const MOST_GROWN = 4;
// Each pixel is the mean of this many by this many.
const FINE = 8;

// ---- the network, in its worker

function bytes(base64) {
  const text = atob(base64);
  const out = new Uint8Array(text.length);
  for (let i = 0; i < text.length; i++) out[i] = text.charCodeAt(i);
  return out;
}

const worker = new Worker(URL.createObjectURL(new Blob([element("network").textContent], { type: "text/javascript" })));
const weights = bytes(element("weights").textContent).buffer;
worker.postMessage({ graph, weights }, [weights]);
worker.onerror = ({ message }) => {
  element("failure").textContent = `The network cannot be run in this browser: ${message}`;
  element("failure").hidden = false;
};
const waiting = new Map();
worker.onmessage = ({ data: { number, logits } }) => {
  waiting.get(number)(logits);
  waiting.delete(number);
};
let questions = 0;

async function read(pixels) {
  const number = questions++;
  const answer = new Promise((resolve) => waiting.set(number, resolve));
  worker.postMessage({ number, pixels });
  const probabilities = (await answer).map((logits) => {
    const largest = Math.max(...logits);
    const powers = logits.map((logit) => Math.exp(logit - largest));
    const sum = powers.reduce((a, b) => a + b);
    return powers.map((power) => power / sum);
  });
  return { digits: probabilities.map((of) => of.indexOf(Math.max(...of))), probabilities };
}
window.multidigit = { read };

// ---- from strokes to pixels

// A picture is { strokes } or { pixels }. A stroke is a list of points [x, y].
let picture = { strokes: [] };
// The pictures before, for the button Undo.
const former = [];

// The strokes with the digit in each slot as large as MNIST's, since a network reads digits of other sizes badly. A stroke
// belongs to the slot that its middle is in.
function fitted(strokes) {
  const groups = slots.map(() => []);
  for (const stroke of strokes) {
    const { middle: [x] } = bounds(stroke);
    const slot = slots.findIndex(({ end }) => x < end);
    groups.at(slot).push(stroke);
  }
  return groups.flatMap((group, slot) => {
    if (group.length === 0) return [];
    const { middle, sides } = bounds(group.flat());
    const factor = Math.min((BOX - PEN) / Math.max(...sides), MOST_GROWN);
    const { start, end } = slots[slot];
    const place = [
      within(middle[0], start, end, (sides[0] * factor + PEN) / 2),
      within(middle[1], 0, height, (sides[1] * factor + PEN) / 2),
    ];
    return group.map((stroke) => stroke.map((point) => point.map((at, axis) => (at - middle[axis]) * factor + place[axis])));
  });
}

// The place nearest to `middle` whose distance from both ends is at least `room`.
const within = (middle, start, end, room) => Math.min(Math.max(middle, start + room), end - room);

function bounds(points) {
  const [least, most] = [Math.min, Math.max].map((of) => [0, 1].map((axis) => of(...points.map((point) => point[axis]))));
  return { middle: [0, 1].map((axis) => (least[axis] + most[axis]) / 2), sides: [0, 1].map((axis) => most[axis] - least[axis]) };
}

function paint(context, strokes) {
  Object.assign(context, { lineWidth: PEN, lineCap: "round", lineJoin: "round", strokeStyle: "#fff" });
  for (const [first, ...others] of strokes) {
    context.beginPath();
    context.moveTo(...first);
    // a line of some length, since one without is not drawn
    context.lineTo(first[0] + 0.01, first[1]);
    others.forEach((point) => context.lineTo(...point));
    context.stroke();
  }
}

const fine = new OffscreenCanvas(FINE * width, FINE * height).getContext("2d", { willReadFrequently: true });
fine.scale(FINE, FINE);

function pixelsOf({ strokes, pixels }) {
  if (pixels) return pixels;
  fine.fillRect(0, 0, width, height);
  paint(fine, fitted(strokes));
  const { data } = fine.getImageData(0, 0, FINE * width, FINE * height);
  const sums = new Uint32Array(width * height);
  for (let i = 0; i < data.length / 4; i++) {
    const [row, column] = [Math.floor(i / (FINE * width)), i % (FINE * width)];
    sums[Math.floor(row / FINE) * width + Math.floor(column / FINE)] += data[4 * i];
  }
  return Uint8Array.from(sums, (sum) => Math.round(sum / (FINE * FINE)));
}

// ---- what is shown

function image(pixels) {
  const out = new ImageData(width, height);
  out.data.forEach((_, i) => (out.data[i] = i % 4 === 3 ? 255 : pixels[i >> 2]));
  return out;
}

const drawing = element("drawing");
const board = drawing.getContext("2d");
const seen = element("seen").getContext("2d");
// a pixel of the image on the drawing area
const zoom = Math.ceil(1024 / Math.max(width, height));
Object.assign(drawing, { width: zoom * width, height: zoom * height });
drawing.style.aspectRatio = `${width} / ${height}`;

function show() {
  seen.putImageData(image(pixels), 0, 0);
  board.setTransform(zoom, 0, 0, zoom, 0, 0);
  board.fillRect(0, 0, width, height);
  board.imageSmoothingEnabled = false;
  if (picture.pixels) board.drawImage(seen.canvas, 0, 0);
  else paint(board, picture.strokes);
  Object.assign(board, { lineWidth: 0.15, strokeStyle: "#fff6" });
  board.setLineDash([1, 1]);
  for (const { start, end } of slots) board.strokeRect(start, 0, end - start, height);
  board.setLineDash([]);
  element("undo").disabled = former.length === 0;
  element("clear").disabled = !picture.pixels && picture.strokes.length === 0;
}

const percent = (share) => `${(100 * share).toFixed(1)}%`;

const positions = slots.map((_, place) => {
  const box = document.createElement("section");
  box.className = "position";
  box.innerHTML = `<h2>Digit ${place + 1}</h2><p class="digit"></p><ol></ol>`;
  const rows = Array.from({ length: 10 }, (_, digit) => {
    const row = document.createElement("li");
    row.innerHTML = `<span>${digit}</span><div class="bar"><span></span></div><span class="share"></span>`;
    box.querySelector("ol").append(row);
    return row;
  });
  element("positions").append(box);
  return { digit: box.querySelector(".digit"), rows };
});

// Shows a reading. A slot without ink has none.
function tell(reading, pixels) {
  const hasInk = slots.map(({ start, end }) => pixels.some((grey, i) => grey > 0 && i % width >= start && i % width < end));
  const words = [];
  positions.forEach(({ digit, rows }, place) => {
    const found = hasInk[place] ? reading.digits[place] : null;
    digit.textContent = found ?? "–";
    digit.classList.toggle("none", found === null);
    rows.forEach((row, number) => {
      const share = hasInk[place] ? reading.probabilities[place][number] : 0;
      row.classList.toggle("found", number === found);
      row.querySelector(".bar span").style.width = `${100 * share}%`;
      row.querySelector(".share").textContent = hasInk[place] ? percent(share) : "";
    });
    if (hasInk[place]) words.push(`digit ${place + 1} is ${found}, ${percent(reading.probabilities[place][found])}`);
  });
  if (!pen) element("status").textContent = words.length > 0 ? `The network reads: ${words.join("; ")}.` : "Nothing is drawn.";
}

// Shows the picture and its reading. If the picture changes during a reading, its last state is read next.
let pixels;
let isReading = false;
async function update() {
  pixels = pixelsOf(picture);
  show();
  if (isReading) return;
  isReading = true;
  element("reading").ariaBusy = true;
  let told;
  while (told !== pixels) {
    told = pixels;
    tell(await read(told), told);
  }
  isReading = false;
  element("reading").ariaBusy = false;
}

// ---- mouse, touch and pen; buttons

function change(next) {
  former.push(picture);
  picture = next;
  update();
}

// The pointer that draws and its stroke, if there is one.
let pen = null;

drawing.addEventListener("pointerdown", (event) => {
  if (pen || event.button !== 0) return;
  pen = { pointer: event.pointerId, stroke: [at(event)] };
  drawing.setPointerCapture(pen.pointer);
  change({ strokes: [...(picture.strokes ?? []), pen.stroke] });
});
drawing.addEventListener("pointermove", (event) => {
  if (event.pointerId !== pen?.pointer) return;
  // a fast pointer has been at several places since the last event
  const events = event.getCoalescedEvents?.() ?? [];
  pen.stroke.push(...(events.length > 0 ? events : [event]).map(at));
  update();
});
drawing.addEventListener("lostpointercapture", (event) => {
  if (event.pointerId !== pen?.pointer) return;
  pen = null;
  update();
});

function at({ clientX, clientY }) {
  const { left, top, width: wide, height: high } = drawing.getBoundingClientRect();
  return [((clientX - left) * width) / wide, ((clientY - top) * height) / high];
}

element("undo").addEventListener("click", () => {
  picture = former.pop();
  update();
});
element("clear").addEventListener("click", () => change({ strokes: [] }));

examples.forEach(({ digits, pixels: base64 }) => {
  const pixels = bytes(base64);
  const button = document.createElement("button");
  const canvas = Object.assign(document.createElement("canvas"), { width, height });
  canvas.getContext("2d").putImageData(image(pixels), 0, 0);
  button.type = "button";
  button.ariaLabel = `Show a test image of ${digits}`;
  button.append(canvas);
  button.addEventListener("click", () => change({ pixels }));
  element("examples").append(button);
});

update();
