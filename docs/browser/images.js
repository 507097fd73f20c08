// The image rule of a graph (harness/images/rule.py, view.py) for 8-bit pictures, and bilinear resizing of maps.

/** The default rule, which graphs name instead of holding it. */
export const GREY = { name: "grey-squash", version: 1, colour: "grey", fit: "squash", interpolation: "area", resampler: "opencv", levels: "fractions", orientation: "ignore", pad: 0 };

/** The rule that a graph's metadata name or hold. */
export function ruleOf(stored) {
  if (stored === "grey-squash/1") return GREY;
  if (stored?.version === 1) return stored;
  const name = typeof stored === "string" ? stored : `${stored?.name}/${stored?.version}`;
  throw new Error(`Exported under image rule ${name}; this page knows grey-squash/1 and rules of version 1.`);
}

/** What the network sees of RGBA pixels (h, w): planes of (H, W), one or three, and the window, as (top, left, height, width) in shares of the picture. */
export function view(rgba, h, w, rule, H, W) {
  const { resized: [rh, rw], origin: [down, right] } = fit(rule, h, w, H, W);
  const planes = (rule.colour === "grey" ? [grey(rgba)] : colours(rgba)).map((plane) => {
    const small = resize(plane, h, w, rh, rw, rule), seen = new Float32Array(H * W).fill(rule.pad);
    for (let y = Math.max(0, -down); y < Math.min(H, rh - down); y++) {
      for (let x = Math.max(0, -right); x < Math.min(W, rw - right); x++) seen[y * W + x] = small[(y + down) * rw + x + right];
    }
    return seen;
  });
  return { planes, window: [down / rh, right / rw, H / rh, W / rw] };
}

/** The size that a picture is resized to, and where in it the view begins: lengths are cut, offsets rounded as Python does. */
export function fit(rule, h, w, H, W) {
  if (rule.fit === "crop") {
    const [rh, rw] = covering(h, w, rule.shorter, H, W);
    return { resized: [rh, rw], origin: [roundEven((rh - H) / 2), roundEven((rw - W) / 2)] };
  }
  if (rule.fit === "letterbox") {
    const share = Math.min(H / h, W / w), [rh, rw] = [[h, H], [w, W]].map(([side, most]) => Math.min(Math.max(roundEven(side * share), 1), most));
    return { resized: [rh, rw], origin: [-Math.floor((H - rh) / 2) || 0, -Math.floor((W - rw) / 2) || 0] };
  }
  if (rule.fit === "native" && (h !== H || w !== W)) throw new Error(`The picture has ${w} x ${h} pixels; this model takes ${W} x ${H} as they are.`);
  return { resized: [H, W], origin: [0, 0] };
}

function covering(h, w, shorter, H, W) {
  if (shorter) return h <= w ? [shorter, Math.floor(shorter * w / h)] : [Math.floor(shorter * h / w), shorter];
  return H * w >= W * h ? [H, Math.max(Math.floor(H * w / h), 1)] : [Math.floor(W * h / w), W];
}

const roundEven = (x) => (x % 1 === 0.5 || x % 1 === -0.5 ? 2 * Math.round(x / 2) : Math.round(x));

/** RGBA pixels to grey levels 0..255: ITU-R BT.601 weights, rounded as OpenCV rounds; grey pictures stay as they are. */
export function grey(rgba) {
  const result = new Float32Array(rgba.length / 4);
  for (let i = 0; i < result.length; i++) {
    const [r, g, b] = [rgba[4 * i], rgba[4 * i + 1], rgba[4 * i + 2]];
    result[i] = r === g && g === b ? r : Math.floor(0.299 * r + 0.587 * g + 0.114 * b + 0.5);
  }
  return result;
}

const colours = (rgba) => [0, 1, 2].map((k) => Float32Array.from({ length: rgba.length / 4 }, (_, i) => rgba[4 * i + k]));

/** A plane (h, w) at (H, W) by the interpolation of a rule: columns first, rounded after each axis where levels are whole. */
function resize(plane, h, w, H, W, rule) {
  const tables = [[h, H], [w, W]].map(([old, size]) => tableOf(rule, old, size));
  const isWhole = rule.levels === "whole", byAxis = isWhole && rule.resampler === "pillow";
  const level = (value) => Math.min(Math.max(Math.round(value), 0), 255);
  return applied(plane, h, w, H, W, tables[0], tables[1], byAxis ? level : (value) => value, isWhole ? level : (value) => value);
}

/** Squash a plane (h, w) to (H, W), each axis by itself: area means where it shrinks, linear where it grows. */
export function squash(plane, h, w, H, W) {
  const same = (value) => value;
  return applied(plane, h, w, H, W, tableOf(GREY, h, H), tableOf(GREY, w, W), same, same);
}

function applied(plane, h, w, H, W, rows, columns, between, after) {
  const half = new Float64Array(h * W);
  columns.forEach((taps, x) => {
    for (let y = 0; y < h; y++) half[y * W + x] = between(taps.reduce((sum, [from, share]) => sum + share * plane[y * w + from], 0));
  });
  const result = new Float32Array(H * W);
  rows.forEach((taps, y) => {
    for (let x = 0; x < W; x++) result[y * W + x] = after(taps.reduce((sum, [from, share]) => sum + share * half[from * W + x], 0));
  });
  return result;
}

// Per output the inputs that it reads and their shares. Kernels: [support, value at x], Pillow's and OpenCV's.

const cubic = (a) => [2, (x) => (x < 1 ? ((a + 2) * x - (a + 3)) * x * x + 1 : x < 2 ? (((x - 5) * x + 8) * x - 4) * a : 0)];
const sinc = (x) => (x === 0 ? 1 : Math.sin(Math.PI * x) / (Math.PI * x));
const lanczos = (n) => [n, (x) => (x < n ? sinc(x) * sinc(x / n) : 0)];
const linear = [1, (x) => Math.max(0, 1 - x)];
const PILLOW = { area: [0.5, (x) => (x <= 0.5 ? 1 : 0)], bilinear: linear, bicubic: cubic(-0.5), lanczos: lanczos(3) };
const OPENCV = { bilinear: linear, bicubic: cubic(-0.75), lanczos: lanczos(4) };

function tableOf({ resampler, interpolation }, old, size) {
  if (interpolation === "nearest") return Array.from({ length: size }, (_, i) => [[Math.floor((i + 0.5) * old / size), 1]]);
  if (resampler === "pillow") return antialiased(PILLOW[interpolation], old, size);
  if (interpolation !== "area") return interpolated(OPENCV[interpolation], old, size);
  return size < old ? areaTable(old, size) : interpolated(linear, old, size);
}

/** The kernel stretched over what shrinks; at an edge its inner part alone, as Pillow's precompute_coeffs. */
function antialiased([support, kernel], old, size) {
  const step = old / size, stretch = Math.max(step, 1);
  return Array.from({ length: size }, (_, i) => {
    const centre = (i + 0.5) * step, taps = [];
    const first = Math.max(0, Math.floor(centre - support * stretch + 0.5)), end = Math.min(old, Math.floor(centre + support * stretch + 0.5));
    for (let from = first; from < end; from++) taps.push([from, kernel(Math.abs((from - centre + 0.5) / stretch))]);
    return normalised(taps);
  });
}

/** The kernel at half-pixel centres, without antialiasing; edges are repeated. */
function interpolated([support, kernel], old, size) {
  return Array.from({ length: size }, (_, i) => {
    const position = (i + 0.5) * (old / size) - 0.5, low = Math.floor(position), taps = [];
    for (let from = low - support + 1; from <= low + support; from++) taps.push([Math.min(Math.max(from, 0), old - 1), kernel(Math.abs(position - from))]);
    return normalised(taps);
  });
}

function normalised(taps) {
  const sum = taps.reduce((total, [, share]) => total + share, 0);
  return taps.map(([from, share]) => [from, share / sum]);
}

/** The inputs that an output covers, weighted by how much of each. */
function areaTable(old, size) {
  const step = old / size;
  return Array.from({ length: size }, (_, i) => {
    const start = i * step, end = Math.min((i + 1) * step, old), taps = [];
    for (let from = Math.floor(start); from < end; from++) {
      const covered = Math.min(from + 1, end) - Math.max(from, start);
      if (covered > 1e-9) taps.push([from, covered / (end - start)]);
    }
    return taps;
  });
}

/** A map (h, w) of the view at pixel (y, x) of the picture (H, W), null where the network sees nothing. */
export function sampler(map, h, w, H, W, [top, left, height, width]) {
  const along = (i, count, start, length, old) => {
    const share = ((i + 0.5) / count - start) / length, position = Math.min(Math.max(share * old - 0.5, 0), old - 1);
    return share < 0 || share > 1 ? null : [Math.floor(position), Math.min(Math.floor(position) + 1, old - 1), position % 1];
  };
  const rows = Array.from({ length: H }, (_, y) => along(y, H, top, height, h));
  const columns = Array.from({ length: W }, (_, x) => along(x, W, left, width, w));
  return (y, x) => {
    if (!rows[y] || !columns[x]) return null;
    const [[up, low, down], [near, far, right]] = [rows[y], columns[x]];
    const of = (row) => map[row * w + near] + right * (map[row * w + far] - map[row * w + near]);
    return of(up) + down * (of(low) - of(up));
  };
}

const STOPS = [
  [0, 0, 4], [12, 8, 38], [36, 12, 79], [66, 10, 104], [93, 18, 110], [120, 28, 109], [147, 38, 103], [174, 48, 92],
  [199, 62, 76], [221, 81, 58], [237, 105, 37], [248, 133, 15], [252, 165, 10], [250, 198, 45], [242, 230, 97], [252, 255, 164],
]; // the colour map inferno at 16 equal steps

/** The colour [r, g, b] of a share 0..1. */
export function inferno(share) {
  const at = Math.min(Math.max(share, 0), 1) * (STOPS.length - 1), low = Math.min(Math.floor(at), STOPS.length - 2);
  return STOPS[low].map((from, k) => from + (at - low) * (STOPS[low + 1][k] - from));
}
