import * as ort from "./node_modules/onnxruntime-web/dist/ort.wasm.min.mjs";
import { inferno, ruleOf, sampler, view } from "./images.js";
import { readMetadata } from "./onnx-metadata.js";
import { withoutExif } from "./exif.js";

const LARGEST = 448, UNSEEN = [112, 112, 112]; // side of the canvas in pixels, and what the network does not see
const element = (id) => document.getElementById(id);
const state = { session: null, about: null, picture: null, result: null, run: 0 };
const changes = {}; // per input: how often it has changed
window.selfExplaining = state; // for tests, and for the curious

ort.env.wasm.numThreads = 1; // more need a page that is isolated from other origins

function say(text, isError = false) {
  element("status").textContent = text;
  element("status").classList.toggle("error", isError);
}

/**
 * Do the work that a changed input asks for, and show what goes wrong. What was shown before is taken away first: it
 * would stand under the name of another file. Work is out of date once the same input has changed again.
 */
function guarded(work) {
  return async (event) => {
    const input = event.target.id, change = (changes[input] ?? 0) + 1, isLast = () => change === changes[input];
    changes[input] = change;
    clear();
    try {
      await work(event, isLast);
    } catch (error) {
      if (isLast()) say(String(error.message ?? error), true);
    }
  };
}

/** Empty the picture and the table; a result that is still being computed will not be shown. */
function clear() {
  Object.assign(state, { result: null, run: state.run + 1 });
  const canvas = element("picture");
  canvas.getContext("2d").clearRect(0, 0, canvas.width, canvas.height);
  element("classes").replaceChildren();
}

/** Empty a choice that belongs to a model. */
function empty(id) {
  element(id).replaceChildren();
  element(id).disabled = true;
}

async function loadModel(event, isLast) {
  const [file] = event.target.files;
  Object.assign(state, { session: null, about: null });
  ["map", "target"].forEach(empty);
  if (!file) return say("Choose a model.");
  say("Loading the model …");
  const bytes = new Uint8Array(await file.arrayBuffer());
  const about = readMetadata(bytes, "evidence_drift.");
  if (about.format !== 1) throw new Error("This is not an exported graph of format 1; make one with `python -m export`.");
  about.rule = ruleOf(about.image_rule);
  const maps = about.layers.flatMap((layer) => Object.entries(layer.maps).map(([method, output]) => ({ output, label: `${method}, ${layer.role ?? layer.name}` })));
  if (!maps.length) throw new Error("This graph holds no map; export it with --fuse layercam.");
  const session = await ort.InferenceSession.create(bytes);
  if (!isLast()) return;
  Object.assign(state, { session, about });
  fill("map", maps.map(({ output, label }) => [output, label]));
  fill("target", [["-1", "the predicted one"], ...about.classes.map((name, k) => [String(k), name])]);
  await explain();
}

async function loadImage(event, isLast) {
  const [file] = event.target.files;
  state.picture = null;
  if (!file) return say("Choose a picture.");
  const bytes = new Uint8Array(await file.arrayBuffer());
  const picture = { apply: await decoded(bytes), ignore: await decoded(withoutExif(bytes)) };
  if (!isLast()) return;
  state.picture = picture;
  await explain();
}

/** RGBA pixels of a file; browsers turn it by its EXIF orientation. */
async function decoded(bytes) {
  const bitmap = await createImageBitmap(new Blob([bytes]), { colorSpaceConversion: "none", imageOrientation: "from-image" });
  const { width, height } = bitmap, context = new OffscreenCanvas(width, height).getContext("2d");
  context.drawImage(bitmap, 0, 0);
  return { data: context.getImageData(0, 0, width, height).data, height, width };
}

/** One call of the graph: logits and map. */
async function explain() {
  const { session, about, picture } = state;
  if (!session || !picture) return say(session ? "Choose a picture." : "Choose a model.");
  const [height, width] = about.input_size, original = picture[about.rule.orientation];
  const { planes, window } = view(original.data, original.height, original.width, about.rule, height, width);
  const image = new Float32Array(3 * height * width);
  for (let channel = 0; channel < 3; channel++) image.set(planes[channel % planes.length], channel * height * width);
  const output = element("map").value, run = ++state.run;
  const started = performance.now();
  const found = await session.run({
    image: new ort.Tensor("float32", image, [1, 3, height, width]),
    target: new ort.Tensor("int64", BigInt64Array.of(BigInt(element("target").value)), [1]),
  }, ["logits", output]);
  const milliseconds = performance.now() - started;
  if (run !== state.run) return;
  state.result = { planes: planes.map((plane) => [...plane]), window, original, logits: [...found.logits.data], map: [...found[output].data], shape: found[output].dims.slice(1) };
  show();
  say(`Explained in ${milliseconds.toFixed(0)} ms.`);
}

function probabilities({ logits }) {
  if (state.about.score_kind === "softmax") {
    const top = Math.max(...logits), raised = logits.map((x) => Math.exp(x - top));
    const sum = raised.reduce((a, b) => a + b, 0);
    return raised.map((x) => x / sum);
  }
  const sigmoid = logits.map((x) => 1 / (1 + Math.exp(-x)));
  return state.about.score_kind === "binary" ? [1 - sigmoid[0], sigmoid[0]] : sigmoid;
}

function show() {
  if (!state.result) return;
  const shares = probabilities(state.result), chosen = Number(element("target").value);
  const explained = chosen >= 0 ? chosen : shares.indexOf(Math.max(...shares));
  element("classes").replaceChildren(...state.about.classes.map((name, k) => {
    const row = document.createElement("tr");
    row.classList.toggle("explained", k === explained);
    for (const text of [name, shares[k].toFixed(3)]) row.insertCell().textContent = text;
    return row;
  }));
  draw(state.result);
}

/**
 * The picture as it was before it was cropped, padded or squashed, and over it the map relative to its maximum, as
 * opaque as it is high; what the network does not see is grey.
 */
function draw({ original, window, map, shape }) {
  const scale = Math.min(1, LARGEST / Math.max(original.height, original.width));
  const [height, width] = [original.height, original.width].map((side) => Math.max(1, Math.round(side * scale)));
  const small = view(original.data, original.height, original.width, { ...state.about.rule, fit: "squash", levels: "fractions", interpolation: "area", resampler: "opencv" }, height, width).planes;
  const canvas = Object.assign(element("picture"), { width, height });
  const of = sampler(map, ...shape, height, width, window), top = Math.max(...map);
  const strongest = element("opacity").value / 100, pixels = new ImageData(width, height);
  for (let i = 0; i < height * width; i++) {
    const value = of(Math.floor(i / width), i % width), share = top > 0 ? (value ?? 0) / top : 0;
    const opacity = value === null ? strongest : strongest * share, over = value === null ? UNSEEN : inferno(share);
    over.forEach((colour, k) => { pixels.data[4 * i + k] = (1 - opacity) * small[k % small.length][i] + opacity * colour; });
    pixels.data[4 * i + 3] = 255;
  }
  canvas.getContext("2d").putImageData(pixels, 0, 0);
}

function drawScale() {
  const context = element("scale").getContext("2d");
  for (let x = 0; x < 256; x++) {
    context.fillStyle = `rgb(${inferno(x / 255).join(" ")})`;
    context.fillRect(x, 0, 1, 12);
  }
}

function fill(id, options) {
  element(id).replaceChildren(...options.map(([value, text]) => new Option(text, value)));
  element(id).disabled = false;
}

element("model").addEventListener("change", guarded(loadModel));
element("image").addEventListener("change", guarded(loadImage));
element("map").addEventListener("change", guarded(explain));
element("target").addEventListener("change", guarded(explain));
element("opacity").addEventListener("input", show);
element("inputs").addEventListener("submit", (event) => event.preventDefault());
drawScale();
