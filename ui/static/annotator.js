// Draws an image with its landmarks, which can be dragged, nudged and typed, and reports moved ones to Python.
// Gradio calls this text as a function of (element, trigger, props, server, upload, watch). Points are in pixels
// of the original image, with pixel centers at integers, so that the image spans -0.5 .. width - 0.5; the units
// of the svg are these pixels.
const find = (selector) => element.querySelector(selector);
const root = find(".annotator"),
  svg = find(".picture"),
  marks = find(".marks"),
  rows = find("tbody");
const SVG = "http://www.w3.org/2000/svg";
// predicted, open in the middle so that the place itself is seen; corrected by a person
const CROSS = "M-8-8L-2-2M2 2L8 8M-8 8L-2 2M2-2L8-8",
  RING = "M6 0A6 6 0 1 1-6 0A6 6 0 1 1 6 0";
const SEND_AFTER_MS = 200,
  MAX_ZOOM = 40,
  ZOOM_STEP = 1.4;

let shown = null; // the value as Python sent it
let points = []; // where they are now: [x, y], or null for a landmark that is not there
let chosen = 0,
  undone = [],
  view = null,
  waiting = null, // the last move while it waits to be sent
  numMoves = 0;
const moves = new Map(); // the last move of each image
const keyOf = ({ folder, image }) => `${folder}/${image}`;

// ---- what Python sends, and what is reported back

async function draw() {
  await Promise.all(reading.values()); // what was typed in the image that is left counts
  const before = shown;
  flush();
  shown = props.value?.image ? props.value : null;
  root.hidden = !shown;
  if (!shown) return;
  const isShown = (other) => other && other.image === shown.image && other.folder === shown.folder;
  // a value that Python made before it heard of the last move gives way to that move
  const last = moves.get(keyOf(shown));
  const kept = last?.number > shown.heard && last.points.length === shown.points.length ? last : shown;
  points = kept.points.map((point) => point && [...point]);
  undone = [];
  chosen = Math.min(chosen, Math.max(0, points.length - 1));
  sayWords();
  place(find(".source-image"), shown.source);
  if (!isShown(before)) fit();
  buildMarks();
  buildHead();
  if (!isShown(before) || String(shown.names) !== String(before.names)) buildRows();
  refresh();
  showHeatmap();
}

function send() {
  clearTimeout(waiting?.timer);
  const { folder, image } = shown;
  const message = { folder, image, points: points.map((point) => point && [...point]), number: ++numMoves };
  moves.set(keyOf(shown), message);
  waiting = { message, timer: setTimeout(flush, SEND_AFTER_MS) };
}

function flush() {
  if (!waiting) return;
  clearTimeout(waiting.timer);
  trigger("moved", waiting.message);
  waiting = null;
}

root.report = async () => {
  // for an action that needs Python to know every move
  await Promise.all(reading.values());
  flush();
};

async function showHeatmap() {
  const mode = find("[data-heatmap]").value,
    image = shown.image;
  const asked = { folder: shown.folder, image, width: shown.width, height: shown.height };
  asked.landmark = mode === "all" ? -1 : chosen;
  const source = mode === "off" || !points.length ? "" : await server.heatmap_source(asked);
  if (shown && shown.image === image) place(find(".heat"), source);
}

function sayWords() {
  const words = shown.words;
  for (const node of element.querySelectorAll("[data-say]")) node.textContent = words[node.dataset.say];
  for (const button of element.querySelectorAll("[data-do]")) {
    const word = words[button.dataset.do];
    if (button.dataset.do.startsWith("zoom")) button.setAttribute("aria-label", word);
    else button.textContent = word;
    button.title = word;
  }
  svg.setAttribute("aria-label", `${words.picture}: ${shown.title}`);
  find(".tools").setAttribute("aria-label", words.tools);
  find("[data-title]").textContent = shown.title;
  find("[data-spacing]").textContent = shown.spacing;
  for (const part of [".points", ".hint"]) find(part).hidden = !points.length;
}

// ---- points

function change(k, point) {
  if (String(point) === String(points[k])) return;
  undone.push(points.map((old) => old && [...old]));
  points[k] = point && inside(point);
  send();
  refresh();
}

function restore(earlier) {
  points = earlier.map((point) => point && [...point]);
  send();
  refresh();
}

const round = (value) => Math.round(value * 100) / 100;
const clamp = (value, low, high) => Math.min(high, Math.max(low, value));
const inside = ([x, y]) => [
  clamp(round(x), -0.5, shown.width - 0.5),
  clamp(round(y), -0.5, shown.height - 0.5),
];
const isMoved = (k) => String(points[k]) !== String(shown.predicted[k]);

function choose(k, focus) {
  const other = k !== chosen;
  chosen = k;
  refresh();
  if (focus) marks.children[k].focus({ preventScroll: true });
  if (other && find("[data-heatmap]").value === "chosen") showHeatmap();
}

function distance(k) {
  // how far a point was moved, in mm if the spacing is known
  const [from, to] = [shown.predicted[k], points[k]];
  if (!isMoved(k)) return "";
  if (!from || !to) return shown.words.missing;
  const [sx, sy] = shown.mm_per_px_xy || [1, 1];
  return (
    Math.hypot((to[0] - from[0]) * sx, (to[1] - from[1]) * sy).toFixed(shown.mm_per_px_xy ? 2 : 1) +
    (shown.mm_per_px_xy ? " mm" : " px")
  );
}

// ---- the picture

function make(name, parent, attributes) {
  const node = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  return parent.appendChild(node);
}

function buildMarks() {
  marks.replaceChildren();
  shown.names.forEach((name, k) => {
    const level = shown.confidence[k].level;
    const mark = make("g", marks, { class: `mark ${level}`, role: "button", "data-k": k });
    make("circle", mark, { class: "hit", r: 16 });
    make("circle", mark, { class: "warning", r: 14 });
    make("circle", mark, { class: "chosen-ring", r: 10.5 });
    make("path", mark, { class: "edge" });
    make("path", mark, { class: "line" });
    make("text", mark, { x: 10, y: -8 }).textContent = name;
  });
}

function refresh() {
  // everything that follows from points, view and choice
  svg.setAttribute("viewBox", `${view.x} ${view.y} ${view.w} ${view.h}`);
  svg.classList.toggle("zoomed", view.w < shown.width);
  const box = svg.getBoundingClientRect();
  const unit = box.width ? Math.max(view.w / box.width, view.h / box.height) : 1; // image px per screen px
  [...marks.children].forEach((mark, k) => {
    const point = points[k];
    mark.style.display = point ? "" : "none";
    mark.setAttribute("tabindex", k === chosen ? 0 : -1);
    mark.classList.toggle("chosen", k === chosen);
    mark.classList.toggle("corrected", isMoved(k));
    for (const path of mark.querySelectorAll("path")) path.setAttribute("d", isMoved(k) ? RING : CROSS);
    if (!point) return;
    mark.setAttribute("transform", `translate(${point[0]} ${point[1]}) scale(${unit})`);
    mark.setAttribute("aria-label", `${shown.names[k]}: ${point[0].toFixed(1)}, ${point[1].toFixed(1)} px`);
  });
  for (const [k, row] of [...rows.children].entries()) fillRow(row, k);
  const moved = points.some((_, k) => isMoved(k));
  const usable = { undo: undone.length > 0, reset: points.length > 0 && isMoved(chosen), reset_all: moved };
  usable.remove = Boolean(points[chosen]);
  for (const [name, use] of Object.entries(usable)) find(`[data-do=${name}]`).disabled = !use;
}

function place(image, source) {
  for (const [key, value] of Object.entries({ x: -0.5, y: -0.5, width: shown.width, height: shown.height }))
    image.setAttribute(key, value);
  if (source) image.setAttribute("href", source);
  else image.removeAttribute("href");
}

function fit() {
  view = { x: -0.5, y: -0.5, w: shown.width, h: shown.height };
  svg.style.aspectRatio = `${shown.width} / ${shown.height}`;
}

function zoom(factor, center) {
  // the image point `center` stays where it is on the screen
  const w = clamp(view.w / factor, shown.width / MAX_ZOOM, shown.width),
    h = (w * shown.height) / shown.width;
  const at = center || { x: view.x + view.w / 2, y: view.y + view.h / 2 };
  view = {
    x: at.x - ((at.x - view.x) / view.w) * w,
    y: at.y - ((at.y - view.y) / view.h) * h,
    w,
    h,
  };
  pan(0, 0);
}

function pan(dx, dy) {
  view.x = clamp(view.x + dx, -0.5, shown.width - 0.5 - view.w);
  view.y = clamp(view.y + dy, -0.5, shown.height - 0.5 - view.h);
  refresh();
}

function imagePoint(event) {
  return new DOMPoint(event.clientX, event.clientY).matrixTransform(svg.getScreenCTM().inverse());
}

// ---- the table

const cell = (name, text) => Object.assign(document.createElement(name), { textContent: text });

function buildHead() {
  const words = shown.words,
    axes = shown.mm_per_px_xy ? ["x, px", "y, px", "x, mm", "y, mm"] : ["x, px", "y, px"];
  const titles = [words.landmark, ...axes, words.confidence, words.moved];
  find("thead tr").replaceChildren(...titles.map((title) => cell("th", title)));
}

function buildRows() {
  rows.replaceChildren(
    ...shown.names.map((name, k) => {
      const row = document.createElement("tr");
      row.dataset.k = k;
      const head = row.appendChild(document.createElement("th"));
      head.scope = "row";
      head.appendChild(Object.assign(cell("button", name), { type: "button" }));
      for (const axis of ["x", "y"]) {
        const input = row
          .appendChild(document.createElement("td"))
          .appendChild(document.createElement("input"));
        Object.assign(input, {
          type: "text",
          inputMode: "decimal",
          autocomplete: "off",
          ariaLabel: `${name} ${axis}, px`,
        });
      }
      row.append(cell("td", ""), cell("td", ""), cell("td", "")); // x and y in mm, confidence
      row.appendChild(cell("td", "")).appendChild(cell("bdi", ""));
      return row;
    }),
  );
}

function fillRow(row, k) {
  const point = points[k];
  row.classList.toggle("chosen", k === chosen);
  if (row.dataset.at !== String(point)) inputsOf(row).forEach(release); // the landmark was moved by hand
  row.dataset.at = String(point);
  if (!row.querySelector("input:focus"))
    // what is being typed stays
    inputsOf(row).forEach((input, axis) => {
      if (!held.has(input)) input.value = point ? point[axis].toFixed(2) : "";
    });
  [0, 1].forEach((axis) => {
    const mm = row.children[3 + axis];
    mm.hidden = !shown.mm_per_px_xy;
    if (!mm.hidden) mm.textContent = point ? (point[axis] * shown.mm_per_px_xy[axis]).toFixed(2) : "-";
  });
  const sure = isMoved(k) ? { words: shown.words.corrected, level: "" } : shown.confidence[k];
  Object.assign(row.lastElementChild.previousElementSibling, {
    textContent: sure.words,
    className: sure.level,
  });
  row.querySelector("bdi").textContent = distance(k);
}

// what was typed and is not in `points`: {typed} while Python reads it, {typed, mistake}, or {typed, value} while
// the other axis is not known; it stays as it was typed until the landmark is moved
const held = new WeakMap();
const reading = new Map(); // a field, and the reading of what was typed in it
const inputsOf = (row) => [...row.querySelectorAll("input")];

function hold(input, what) {
  held.set(input, what);
  const wrong = Boolean(what.mistake),
    words = input.nextElementSibling;
  input.setAttribute("aria-invalid", wrong);
  if (!wrong) words?.remove();
  else if (!words)
    input.after(Object.assign(document.createElement("small"), { role: "alert", textContent: what.mistake }));
  else words.textContent = what.mistake;
}

function release(input) {
  hold(input, {});
  held.delete(input);
}

async function readTyped(input) {
  const row = input.closest("tr"),
    k = Number(row.dataset.k),
    inputs = inputsOf(row),
    typed = input.value;
  hold(input, { typed });
  const read = (await server.read_typed(typed)) ?? { mistake: shown.words.unread }; // nothing: no connection
  if (!input.isConnected || held.get(input)?.typed !== typed) return; // moved or typed again meanwhile
  const { value } = read,
    mistake = read.mistake ?? outside(value, [shown.width, shown.height][inputs.indexOf(input)]);
  if (mistake) return hold(input, { typed, mistake: shown.words.mistake.replace("{what}", () => mistake) });
  hold(input, { typed, value });
  const at = inputs.map((other, axis) => {
    const read = held.get(other)?.value;
    return read === undefined ? (points[k]?.[axis] ?? null) : read;
  });
  const isWhole = at.every((one) => one !== null),
    isEmpty = at.every((one) => one === null);
  if (isWhole || isEmpty) {
    const point = isWhole ? inside(at) : null;
    inputs.filter((other) => other === input || !reading.has(other)).forEach(release);
    row.dataset.at = String(point); // so that what is still being read of the other axis stays
    change(k, point);
  }
}

function outside(value, side) {
  // what is wrong with a coordinate; nothing if it is within the image or left empty
  const [minimum, maximum] = [-0.5, side - 0.5],
    places = { number: value, minimum, maximum };
  if (value === null || (value >= minimum && value <= maximum)) return "";
  return shown.words.outside.replace(/\{(\w+)\}/g, (_, name) => places[name]);
}

function settle(row) {
  // an axis that was emptied alone comes back once the row is left
  const inputs = inputsOf(row);
  if (!row.querySelector("input:focus") && !inputs.some((input) => reading.has(input)))
    inputs.filter((input) => held.get(input)?.value === null).forEach(release);
  if (shown) refresh();
}

rows.addEventListener("change", ({ target }) => {
  const read = readTyped(target).finally(() => {
    if (reading.get(target) !== read) return; // typed again meanwhile
    reading.delete(target);
    settle(target.closest("tr"));
  });
  reading.set(target, read);
});
rows.addEventListener("focusin", (event) => choose(Number(event.target.closest("tr").dataset.k)));
rows.addEventListener("focusout", (event) => requestAnimationFrame(() => settle(event.target.closest("tr"))));
rows.addEventListener("click", (event) => {
  const row = event.target.closest("tr");
  if (row) choose(Number(row.dataset.k), event.target.tagName === "BUTTON");
});

// ---- pointer, wheel and keys on the picture

let drag = null; // {k, dx, dy}: a point, and the pointer's offset from it; or {x, y}: the picture

svg.addEventListener("pointerdown", (event) => {
  if (!shown || event.button) return;
  const mark = event.target.closest(".mark"),
    at = imagePoint(event);
  if (mark) {
    const k = Number(mark.dataset.k);
    choose(k, true);
    drag = {
      k,
      dx: points[k][0] - at.x,
      dy: points[k][1] - at.y,
      before: points.map((point) => point && [...point]),
    };
  } else if (view.w < shown.width) drag = { x: at.x, y: at.y };
  if (!drag) return;
  svg.setPointerCapture(event.pointerId);
  event.preventDefault();
});
svg.addEventListener("pointermove", (event) => {
  if (!drag) return;
  const at = imagePoint(event);
  if (drag.k === undefined) return pan(drag.x - at.x, drag.y - at.y);
  points[drag.k] = inside([at.x + drag.dx, at.y + drag.dy]);
  refresh();
});
for (const end of ["pointerup", "pointercancel"])
  svg.addEventListener(end, () => {
    if (drag?.before && String(drag.before) !== String(points)) {
      undone.push(drag.before);
      send();
    }
    drag = null;
    if (shown) refresh();
  });
svg.addEventListener("dblclick", (event) => {
  // puts the chosen landmark there
  if (!points.length || event.target.closest(".mark")) return;
  const at = imagePoint(event);
  change(chosen, [at.x, at.y]);
});
svg.addEventListener(
  "wheel",
  (event) => {
    // only once the picture was clicked, so that the page can be scrolled past it
    if (!shown || !(event.ctrlKey || svg.contains(document.activeElement))) return;
    event.preventDefault();
    zoom(event.deltaY < 0 ? ZOOM_STEP : 1 / ZOOM_STEP, imagePoint(event));
  },
  { passive: false },
);
svg.addEventListener("keydown", (event) => {
  const steps = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
  const actions = { "+": "zoom_in", "-": "zoom_out", 0: "fit", Delete: "remove" };
  if (steps[event.key] && points[chosen]) {
    const by = event.shiftKey ? 10 : 1,
      [dx, dy] = steps[event.key];
    change(chosen, [points[chosen][0] + dx * by, points[chosen][1] + dy * by]);
  } else if ((event.ctrlKey || event.metaKey) && event.key === "z") act("undo");
  else if (actions[event.key]) act(actions[event.key]);
  else return;
  event.preventDefault();
});

// ---- tools

function act(name) {
  if (name === "zoom_in") zoom(ZOOM_STEP, points[chosen] && { x: points[chosen][0], y: points[chosen][1] });
  if (name === "zoom_out") zoom(1 / ZOOM_STEP);
  if (name === "fit") {
    fit();
    refresh();
  }
  if (name === "undo" && undone.length) restore(undone.pop());
  if (name === "reset") {
    undone.push(points);
    restore(points.map((at, k) => (k === chosen ? shown.predicted[k] : at)));
  }
  if (name === "remove") change(chosen, null);
  if (name === "reset_all") {
    undone.push(points);
    restore(shown.predicted);
  }
}

for (const button of element.querySelectorAll("[data-do]"))
  button.addEventListener("click", () => act(button.dataset.do));
find("[data-names]").addEventListener("change", (event) =>
  svg.classList.toggle("nameless", !event.target.checked),
);
find("[data-heatmap]").addEventListener("change", showHeatmap);
find("[data-opacity]").addEventListener("input", (event) => {
  find(".heat").style.opacity = event.target.value;
});
find(".heat").style.opacity = find("[data-opacity]").value;
if (window.innerWidth < 600) find("[data-names]").click();
new ResizeObserver(() => shown && refresh()).observe(svg);
watch("value", draw);
draw();
