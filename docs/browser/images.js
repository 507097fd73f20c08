// The image rule of harness/images.py ("grey-squash/1") for 8-bit pictures, and bilinear resizing of maps.

/** RGBA pixels to grey levels 0..255: ITU-R BT.601 weights, rounded as OpenCV rounds; grey pictures stay as they are. */
export function grey(rgba) {
  const result = new Float32Array(rgba.length / 4);
  for (let i = 0; i < result.length; i++) {
    const [r, g, b] = [rgba[4 * i], rgba[4 * i + 1], rgba[4 * i + 2]];
    result[i] = r === g && g === b ? r : Math.floor(0.299 * r + 0.587 * g + 0.114 * b + 0.5);
  }
  return result;
}

/** Squash a plane (h, w) to (H, W), each axis by itself: area means where it shrinks, linear where it grows. */
export function squash(plane, h, w, H, W) {
  const rows = H < h ? areaTable(h, H) : linearTable(h, H);
  const columns = W < w ? areaTable(w, W) : linearTable(w, W);
  const half = new Float64Array(H * w);
  rows.forEach((taps, y) => taps.forEach(([from, share]) => {
    for (let x = 0; x < w; x++) half[y * w + x] += share * plane[from * w + x];
  }));
  const result = new Float32Array(H * W);
  columns.forEach((taps, x) => {
    for (let y = 0; y < H; y++) result[y * W + x] = taps.reduce((sum, [from, share]) => sum + share * half[y * w + from], 0);
  });
  return result;
}

/** Per output the inputs it reads and their shares: half-pixel centres, clamped edges. */
function linearTable(old, size) {
  return Array.from({ length: size }, (_, i) => {
    const x = Math.min(Math.max((i + 0.5) * (old / size) - 0.5, 0), old - 1);
    const low = Math.floor(x), high = Math.min(low + 1, old - 1);
    return [[low, 1 - (x - low)], [high, x - low]];
  });
}

/** Per output the inputs that it covers, weighted by how much of each. */
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

const STOPS = [
  [0, 0, 4], [12, 8, 38], [36, 12, 79], [66, 10, 104], [93, 18, 110], [120, 28, 109], [147, 38, 103], [174, 48, 92],
  [199, 62, 76], [221, 81, 58], [237, 105, 37], [248, 133, 15], [252, 165, 10], [250, 198, 45], [242, 230, 97], [252, 255, 164],
]; // the colour map inferno at 16 equal steps

/** The colour [r, g, b] of a share 0..1. */
export function inferno(share) {
  const at = Math.min(Math.max(share, 0), 1) * (STOPS.length - 1), low = Math.min(Math.floor(at), STOPS.length - 2);
  return STOPS[low].map((from, k) => from + (at - low) * (STOPS[low + 1][k] - from));
}
