"use strict";
// What the page does beyond HTML: colours, the metric switch, definitions on hover, and the gallery.
// Nothing is fetched and nothing is stored; names and classes are only ever set as text.
(() => {
  const all = (selector, inside = document) => [...inside.querySelectorAll(selector)];
  const one = (selector, inside = document) => inside.querySelector(selector);

  // Colours

  for (const input of all('input[name="theme"]')) {
    input.addEventListener("change", () => { document.documentElement.style.colorScheme = input.value; });
  }

  // Metric switch: the tables of every metric lie in templates

  one("#metric").addEventListener("change", (event) => {
    for (const shown of all(".by-metric")) {
      const source = all("template", shown.parentElement).find(
        (item) => item.dataset.part === shown.dataset.part && item.dataset.metric === event.target.value,
      );
      shown.replaceChildren(source.content.cloneNode(true));
    }
  });

  // Definitions: a click or Enter opens them without any script; hovering does so after a moment

  const DELAY = 300; // ms
  let timer = 0;
  let hovered = null; // the definition that is open because of the pointer
  let anchor = null; // the word that the next definition belongs to

  const definitionOf = (term) => document.getElementById(term.getAttribute("popovertarget"));
  const termAt = (target) => (target instanceof Element ? target.closest(".term") : null);

  const beside = (definition) => {
    if (!anchor) return;
    const word = anchor.getBoundingClientRect();
    const box = definition.getBoundingClientRect();
    const below = word.bottom + 6;
    const top = below + box.height > innerHeight - 8 ? Math.max(8, word.top - box.height - 6) : below;
    definition.style.left = `${Math.max(8, Math.min(word.left, document.documentElement.clientWidth - box.width - 8))}px`;
    definition.style.top = `${top}px`;
  };

  const leave = () => {
    clearTimeout(timer);
    timer = setTimeout(() => { if (hovered) hovered.hidePopover(); hovered = null; }, DELAY);
  };

  document.addEventListener("pointerover", (event) => {
    if (event.pointerType !== "mouse") return;
    const term = termAt(event.target);
    if (hovered && hovered.contains(event.target)) { clearTimeout(timer); return; }
    if (!term) { if (hovered) leave(); else clearTimeout(timer); return; }
    clearTimeout(timer);
    timer = setTimeout(() => {
      const definition = definitionOf(term);
      if (definition.matches(":popover-open")) return;
      anchor = term;
      definition.showPopover();
      hovered = definition;
    }, DELAY);
  });

  document.addEventListener("click", (event) => {
    const term = termAt(event.target);
    if (!term) return;
    clearTimeout(timer);
    anchor = term;
    if (hovered === definitionOf(term)) { event.preventDefault(); hovered = null; } // a click keeps what hovering opened
  }, true);

  for (const definition of all(".definition")) {
    definition.addEventListener("toggle", (event) => {
      if (event.newState === "open") beside(definition);
      else if (hovered === definition) hovered = null;
    });
  }
  addEventListener("scroll", () => { if (hovered) hovered.hidePopover(); }, { passive: true });

  // Maps: bilinear, half-pixel centres, clamped edges, as kernels/resize.py

  const decode = (text) => Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));

  // `start` and `length`: which part of the picture the map covers, in shares of its side
  const table = (old, size, start = 0, length = 1) => {
    const low = new Uint16Array(size), high = new Uint16Array(size), along = new Float32Array(size);
    for (let i = 0; i < size; i += 1) {
      const position = Math.min(Math.max(((i + 0.5) / size - start) / length * old - 0.5, 0), old - 1);
      low[i] = Math.floor(position);
      high[i] = Math.min(low[i] + 1, old - 1);
      along[i] = position - low[i];
    }
    return { low, high, along };
  };

  const WHOLE = [0, 0, 1, 1]; // (top, left, height, width) of what the network saw, in shares of the picture

  const upsample = (values, h, w, height, width, [top, left, tall, broad] = WHOLE) => {
    const rows = table(h, height, top, tall), columns = table(w, width, left, broad);
    const wide = new Float32Array(h * width), large = new Float32Array(height * width);
    for (let r = 0; r < h; r += 1) {
      for (let c = 0; c < width; c += 1) {
        const start = values[r * w + columns.low[c]];
        wide[r * width + c] = start + columns.along[c] * (values[r * w + columns.high[c]] - start);
      }
    }
    for (let r = 0; r < height; r += 1) {
      const upper = rows.low[r] * width, lower = rows.high[r] * width;
      for (let c = 0; c < width; c += 1) {
        large[r * width + c] = wide[upper + c] + rows.along[r] * (wide[lower + c] - wide[upper + c]);
      }
    }
    return large;
  };

  const unseen = (height, width, [top, left, tall, broad] = WHOLE) => { // pixels outside of what the network saw
    const pixels = [];
    for (let r = 0; r < height; r += 1) {
      const down = ((r + 0.5) / height - top) / tall;
      for (let c = 0; c < width; c += 1) {
        const across = ((c + 0.5) / width - left) / broad;
        if (down < 0 || down > 1 || across < 0 || across > 1) pixels.push(r * width + c);
      }
    }
    return pixels;
  };

  const largest = (values) => values.reduce((most, value) => Math.max(most, value), 0);

  // each map by its own maximum, that in padding included; zeros where there is no map
  const relative = (map, height, width, window = WHOLE) => {
    if (map.length === 1) return new Float32Array(height * width);
    const values = decode(map[2]), [h, w] = map;
    const large = upsample(values, h, w, height, width, window);
    for (const i of unseen(height, width, window)) large[i] = 0;
    const view = [height * window[2], width * window[3]].map((side) => Math.max(1, Math.round(side)));
    const peak = Math.max(largest(large), largest(upsample(values, h, w, ...view)));
    return peak > 0 ? large.map((value) => value / peak) : large;
  };

  const veiled = (pixels, height, width, window, rule) => { // stripes over what the network did not see
    for (const i of unseen(height, width, window)) {
      const place = Math.floor(i / width) + i % width;
      const level = rule.levels[place % rule.period < Math.floor(rule.period / 2) ? 0 : 1];
      pixels.set([level, level, level, 255 * rule.opacity], 4 * i);
    }
    return pixels;
  };

  // RGBA of values in 0..1: as opaque as they are large
  const painted = (values, colours, strength) => {
    const pixels = new Uint8ClampedArray(4 * values.length);
    values.forEach((value, i) => {
      const position = 3 * Math.min(255, Math.floor(256 * value));
      pixels.set(colours.subarray(position, position + 3), 4 * i);
      pixels[4 * i + 3] = 255 * strength * value;
    });
    return pixels;
  };

  // Differences: as harness/report/change.py

  const topMask = (values, percent, n = values.length) => { // n: how many of the values belong to the map
    const k = Math.max(1, Math.floor((percent * n + 99) / 100)), threshold = values.slice().sort()[values.length - k];
    return Uint8Array.from(values, (value) => value >= threshold && value > 0);
  };

  const outline = (mask, height, width, rule, dashed) => { // indices of the pixels of the line
    const thick = Math.max(1, Math.floor(Math.min(height, width) / rule.perWidth));
    const isOutside = (r, c) => r < 0 || c < 0 || r >= height || c >= width || !mask[r * width + c];
    const pixels = [];
    for (let r = 0; r < height; r += 1) {
      for (let c = 0; c < width; c += 1) {
        if (!mask[r * width + c]) continue;
        let flat = false, steep = false;
        for (let d = 1; d <= thick; d += 1) {
          flat = flat || isOutside(r - d, c) || isOutside(r + d, c);
          steep = steep || isOutside(r, c - d) || isOutside(r, c + d);
        }
        const along = flat ? c : r;
        if ((flat || steep) && (!dashed || along % (rule.period * thick) < rule.dash * thick)) pixels.push(r * width + c);
      }
    }
    return pixels;
  };

  // RGBA that dims the picture below it and colours what was lost and gained; strength 1 is Python's
  const changed = (before, after, height, width, rule, strength, n = before.length) => {
    const pixels = new Uint8ClampedArray(4 * before.length);
    const dim = 1 - (1 - rule.dim) * Math.min(1, strength);
    before.forEach((start, i) => {
      const change = after[i] - start;
      const opacity = Math.min(1, strength * rule.opacity * Math.min(1, Math.abs(change) / rule.full));
      const cover = 1 - (1 - opacity) * dim;
      pixels.set((change < 0 ? rule.lost : rule.gained).map((level) => cover > 0 ? level * opacity / cover : 0), 4 * i);
      pixels[4 * i + 3] = 255 * cover;
    });
    if (!(strength > 0)) return pixels;
    const line = (values, dashed, colour) => {
      for (const i of outline(topMask(values, rule.top, n), height, width, rule, dashed)) pixels.set([...colour, 255], 4 * i);
    };
    line(before, true, rule.lineBefore);
    line(after, false, rule.lineAfter);
    return pixels;
  };

  globalThis.evidenceDrift = { upsample, relative, painted, changed, decode, veiled };

  // Gallery

  const data = JSON.parse(one("#gallery-data").textContent);
  if (!data) return;

  const SQUARE = 320; // pixels of a panel without a radiograph
  const KINDS = {
    most: "most drifted", least: "least drifted", vanished: "vanished",
    unseen: "same answer, other evidence", flipped: "answer flipped",
  };
  const colours = decode(data.colours);
  const gallery = one(".gallery");
  const strip = one(".strip");
  const state = { pair: one("#gallery-pair").value, kind: "", layer: 0, method: 0, number: 0, strength: data.strongest };

  const groups = () => data.groups.filter((group) => group.pair === state.pair);
  const group = () => groups().find((item) => item.kind === state.kind);
  const current = () => data.cases[group().cases[state.number]];
  const index = () => state.layer * data.methods.length + state.method;
  const radios = (name) => all(`input[name="${name}"]`, gallery);

  const noteOf = (maps, panel) => {
    if (panel === "before" || panel === "after") return maps[panel === "before" ? 0 : 1];
    if (panel === "difference") return maps.find((map) => map.length === 1 && map[0].startsWith("undefined")) || [];
    return [];
  };

  const pixelsOf = (maps, panel, height, width, window) => { // null where there is nothing to draw
    if (panel === "radiograph") return null;
    const [before, after] = maps.map((map) => relative(map, height, width, window));
    const veil = (pixels) => veiled(pixels, height, width, window, data.unseen);
    if (panel !== "difference") return veil(painted(panel === "before" ? before : after, colours, state.strength));
    if (noteOf(maps, panel).length) return null;
    const seen = before.length - unseen(height, width, window).length;
    return veil(changed(before, after, height, width, data.change, state.strength / data.strongest, seen));
  };

  const outlineRegions = (context, lines, height, width) => { // polygons in shares of the picture: down, right, ...
    context.lineWidth = Math.max(1, Math.min(height, width) / 160);
    for (const [region, points] of lines) {
      context.strokeStyle = data.regionColours[region % data.regionColours.length];
      context.beginPath();
      for (let i = 0; i < points.length; i += 2) context.lineTo(points[i + 1] * width, points[i] * height);
      context.closePath();
      context.stroke();
    }
  };

  const drawPanel = (figure, item) => {
    const panel = figure.dataset.panel;
    const [height, width, source] = data.images[item.radiograph] || [SQUARE, SQUARE, ""];
    const image = one("img", figure), canvas = one("canvas", figure);
    const maps = item.maps[index()];
    if (source) image.src = source; else image.removeAttribute("src");
    image.width = canvas.width = width;
    image.height = canvas.height = height;
    const pixels = pixelsOf(maps, panel, height, width, item.window);
    if (pixels) canvas.getContext("2d").putImageData(new ImageData(pixels, width, height), 0, 0);
    outlineRegions(canvas.getContext("2d"), data.outlines[item.radiograph] || [], height, width);
    const missing = panel === "radiograph" && !source ? data.gone : "";
    const note = noteOf(maps, panel);
    one(".blank-note", figure).textContent = missing || (note.length === 1 ? note[0] : "");
    image.alt = `${figure.dataset.panel} of image ${item.image}`;
    const words = { radiograph: `true class ${item.class}`, before: item.predicted[0], after: item.predicted[1] }[panel];
    one("figcaption span", figure).textContent = words || `${data.metric} ${item.values[index()]}`;
  };

  const caption = (item) => {
    const position = `Case ${state.number + 1} of ${group().cases.length}, ${KINDS[state.kind]}`;
    const where = `${data.layers[state.layer]} ${data.methods[state.method]}`;
    return `${position}: image ${item.image}, patient ${item.patient}, class ${item.class}. ` +
      `${data.metric} ${item.values[index()]} (${where}). ` +
      `Before says ${item.predicted[0]}; after says ${item.predicted[1]}.`;
  };

  const draw = () => {
    const item = current();
    for (const figure of all(".stage figure", gallery)) drawPanel(figure, item);
    one("#case").textContent = caption(item);
    one("#strength-shown").textContent = `${Math.round(100 * state.strength)} %`;
    all("button", strip).forEach((button, number) => {
      const on = number === state.number;
      button.setAttribute("aria-current", String(on));
      button.tabIndex = on ? 0 : -1;
    });
  };

  const thumbnail = (index, number) => {
    const item = data.cases[index];
    const button = document.createElement("button");
    const source = data.images[item.radiograph];
    button.type = "button";
    button.setAttribute("aria-label", `Case ${number + 1}, image ${item.image}, ${item.class}`);
    if (source) {
      const image = document.createElement("img");
      image.src = source[2];
      image.alt = "";
      button.append(image);
    }
    const value = document.createElement("span");
    value.textContent = item.values[group().path].replace(", vanished", "");
    button.append(value);
    button.addEventListener("click", () => { state.number = number; draw(); });
    return button;
  };

  const check = (name, value) => { for (const input of radios(name)) input.checked = input.value === String(value); };

  const chooseGroup = (kind) => { // another group starts at the layer and method that it was chosen by
    const there = groups().map((item) => item.kind);
    state.kind = there.includes(kind) ? kind : there[0];
    state.number = 0;
    for (const input of radios("kind")) input.disabled = !there.includes(input.value);
    one("#no-cases").hidden = there.length > 0;
    one(".stage", gallery).hidden = strip.hidden = !there.length;
    if (!there.length) return;
    state.layer = Math.floor(group().path / data.methods.length);
    state.method = group().path % data.methods.length;
    check("kind", state.kind);
    check("layer", state.layer);
    check("method", state.method);
    strip.replaceChildren(...group().cases.map(thumbnail));
    draw();
  };

  const step = (by) => {
    const count = group().cases.length;
    state.number = (state.number + by + count) % count;
    draw();
    const button = all("button", strip)[state.number];
    if (strip.contains(document.activeElement)) button.focus();
    button.scrollIntoView({ block: "nearest", inline: "nearest" });
  };

  one("#gallery-pair").addEventListener("change", (event) => {
    state.pair = event.target.value;
    chooseGroup(state.kind);
  });
  for (const input of radios("kind")) input.addEventListener("change", () => chooseGroup(input.value));
  for (const name of ["layer", "method"]) {
    for (const input of radios(name)) input.addEventListener("change", () => { state[name] = Number(input.value); draw(); });
  }
  one("#strength").value = 100 * state.strength;
  one("#strength").addEventListener("input", (event) => { state.strength = event.target.value / 100; draw(); });
  one("#previous").addEventListener("click", () => step(-1));
  one("#next").addEventListener("click", () => step(1));
  gallery.addEventListener("keydown", (event) => { // in a choice or a slider the arrows are its own
    const by = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (!by || event.altKey || event.ctrlKey || event.metaKey || event.target.matches("input, select")) return;
    event.preventDefault();
    step(by);
  });

  // Paper: every block unfolded, and the cases of the chosen group as a sheet

  let folded = [];
  addEventListener("beforeprint", () => {
    folded = all("details:not([open])");
    for (const block of folded) block.open = true;
    one(".sheet").replaceChildren(...(group() ? group().cases.map(sheetCase) : []));
  });
  addEventListener("afterprint", () => {
    for (const block of folded) block.open = false;
    one(".sheet").replaceChildren();
  });

  const sheetCase = (number) => {
    const item = data.cases[number];
    const figure = document.createElement("figure");
    const panels = one(".stage .panels", gallery).cloneNode(true);
    const words = document.createElement("figcaption");
    words.textContent = `image ${item.image}, ${item.class}: ${data.metric} ${item.values[index()]}`;
    for (const panel of all("figure", panels)) { drawPanel(panel, item); one("figcaption", panel).remove(); }
    figure.append(panels, words);
    return figure;
  };

  const first = data.groups[0];
  if (first) {
    state.pair = one("#gallery-pair").value = first.pair;
    gallery.hidden = false;
    chooseGroup("most");
  }
})();
