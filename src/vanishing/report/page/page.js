"use strict";

const data = JSON.parse(document.getElementById("data").textContent);
const byId = (id) => document.getElementById(id);
const names = {
  epoch: "epoch",
  layer: "layer",
  step: "step (norms of each filter)",
  relative_distance: "distance, relative to the norm of the kernels",
  loss: "loss (nats)",
  train_accuracy: "training accuracy (%)",
  val_accuracy: "validation accuracy (%)",
  train_loss: "training loss (nats)",
  val_loss: "validation loss (nats)",
  learning_rate: "learning rate",
  mean_abs_gradient: "mean absolute gradient",
  gradient_weight_ratio: "norm of the gradient over that of the weights",
  relative_change: "change of the gradient, relative to its norm",
  loss_range: "range of the loss on the way (nats)",
  cosine: "cosine to the gradient at the start",
};
const FEW = 8; // runs that are chosen at first: as many as there are colours

// --- figures ---

const figures = {};
const dark = window.matchMedia("(prefers-color-scheme: dark)");

function theme(darkly) {
  const [front, soft, line] = darkly ? ["#e6edf3", "#9da7b1", "#3b434c"] : ["#1b1f24", "#57606a", "#d0d7de"];
  return {
    background: null,
    view: { stroke: line },
    axis: { domainColor: soft, gridColor: line, labelColor: front, tickColor: soft, titleColor: front },
    legend: { labelColor: front, titleColor: front, labelLimit: 240 },
    font: "system-ui, sans-serif",
  };
}

const options = (darkly) => ({
  actions: false, ast: true, config: theme(darkly), defaultStyle: false, mode: "vega-lite", renderer: "svg",
  tooltip: { disableDefaultStyle: true },
});

// Draws a figure, or says why there is none; the latest of several calls stands.
async function draw(id, rows, spec, none = "None of the chosen runs has been measured.") {
  const figure = byId(id);
  const empty = rows.length === 0;
  const entry = { rows, spec, none };
  figures[id]?.result?.finalize();
  figures[id] = entry;
  figure.querySelector(".none").textContent = none;
  figure.querySelector(".none").hidden = !empty;
  figure.querySelector(".save").hidden = empty;
  const place = figure.querySelector(".plot");
  if (empty) return place.replaceChildren();
  const made = Object.assign(document.createElement("div"), { className: "making" }); // as wide as it will be
  place.append(made);
  const result = await vegaEmbed(made, { ...spec(rows), data: { values: rows } }, options(dark.matches));
  if (figures[id] !== entry) {
    made.remove();
    return result.finalize();
  }
  entry.result = result;
  made.className = "made";
  place.replaceChildren(made);
}

const scaling = (log) => (log ? { type: "log" } : { type: "linear", zero: false });

// Describes an axis with whole numbers alone, at most about twelve.
function wholes(values) {
  const [least, most] = [Math.min(...values), Math.max(...values)];
  const step = [1, 2, 5, 10, 20, 25, 50].find((each) => (most - least) / each <= 12) ?? 100;
  const first = step * Math.ceil(least / step);
  const marked = Array.from({ length: 1 + Math.floor((most - first) / step) }, (_, at) => first + at * step);
  return { values: marked, format: "d" };
}

// Describes an axis with powers of ten alone, at most about eight.
function powers(values) {
  const [least, most] = [Math.min(...values), Math.max(...values)].map(Math.log10);
  const step = Math.max(1, Math.ceil((most - least) / 8));
  const first = step * Math.floor(least / step);
  const marked = Array.from({ length: 2 + Math.ceil((most - first) / step) }, (_, at) => 10 ** (first + at * step));
  return { values: marked, format: ".0e" };
}

// Describes lines with bands, a line a run, from rows of run, label, x, mean, low, high and n.
function lines({ x, y, runs, label = (run) => run, log = false, guess = null, domain = null, square = false }) {
  const looks = looksOf(runs);
  const scale = { domain: runs.map(label), range: runs.map((run) => looks[run].colour) };
  const dashes = { domain: scale.domain, range: runs.map((run) => looks[run].dash) };
  const narrow = byId("answer").clientWidth < 500;
  const legend = {
    orient: "bottom", title: null, columns: narrow ? 1 : 4, symbolType: "stroke", symbolSize: 400,
    symbolStrokeWidth: 2, symbolFillColor: "transparent", symbolOpacity: 1,
  };
  const vertical = {
    type: "quantitative",
    title: names[y],
    scale: { ...scaling(log), ...(domain && { domain }) },
  };
  const horizontal = {
    field: x, type: "quantitative", title: names[x],
    scale: { ...scaling(square), nice: false },
  };
  const colour = { field: "label", type: "nominal", scale, legend, sort: null };
  const tooltip = [
    { field: "label", title: "run" },
    { field: x, title: names[x] },
    { field: "mean", title: names[y], format: ".4g" },
    { field: "n" },
  ];
  return (rows) => {
    if (log) vertical.axis = powers(domain ?? rows.flatMap(({ low, high }) => [low, high]));
    const places = rows.map((row) => row[x]);
    if (square) horizontal.axis = powers(places);
    else if (places.every(Number.isInteger)) horizontal.axis = wholes(places);
    return {
      $schema: "https://vega.github.io/schema/vega-lite/v6.json",
      description: `${names[y]} by ${names[x]}, a line each for ${scale.domain.join("; ")}`,
      width: "container",
      height: 320,
      encoding: { x: horizontal, color: colour },
      layer: [
        ...(guess === null ? [] : [{
          data: { values: [{}] },
          mark: { type: "rule", strokeDash: [2, 3], color: "gray", aria: false },
          encoding: { x: null, color: null, y: { datum: guess, type: "quantitative" } },
        }]),
        {
          mark: { type: "area", opacity: 0.2, clip: true, aria: false },
          encoding: { y: { ...vertical, field: "low" }, y2: { field: "high" } },
        },
        {
          mark: { type: "line", clip: true, strokeWidth: 1.8, aria: false },
          encoding: { y: { ...vertical, field: "mean" }, strokeDash: { field: "label", type: "nominal", scale: dashes, legend, sort: null } },
        },
        {
          mark: { type: "point", clip: true, filled: true, aria: false, size: rows.length > 12 * runs.length ? 12 : 28 },
          encoding: { y: { ...vertical, field: "mean" }, tooltip },
        },
      ],
    };
  };
}

function surface(rows) {
  const axis = (field, sort) => ({
    field, type: "ordinal", sort, title: `${field === "x" ? "first" : "second"} direction (norms)`,
    axis: { labelAngle: 0, labelOverlap: true, format: "~g" },
  });
  return {
    $schema: "https://vega.github.io/schema/vega-lite/v6.json",
    description: "loss in a plane through the weights, the darker the lower",
    width: "container",
    height: 320,
    mark: { type: "rect", aria: false },
    encoding: {
      x: axis("x", "ascending"),
      y: axis("y", "descending"),
      color: {
        field: "loss", type: "quantitative", title: "loss (nats)",
        scale: { scheme: "viridis", domain: [0, 2 * data.chance.val.loss], clamp: true },
      },
      tooltip: [{ field: "x" }, { field: "y" }, { field: "loss", title: "loss (nats)", format: ".4g" }],
    },
  };
}

// Gathers [run, place, value] into rows of run, label, x, mean, low, high and n, in the order of their first appearance.
function rowsOf(x, values, band, label = (run) => run) {
  const groups = new Map();
  for (const [run, place, value] of values) {
    if (value === null) continue;
    const key = `${run} ${place}`;
    if (!groups.has(key)) groups.set(key, { run, place, values: [] });
    groups.get(key).values.push(value);
  }
  return [...groups.values()].map(({ run, place, values: found }) => {
    const n = found.length;
    const mean = found.reduce((sum, value) => sum + value, 0) / n;
    const deviation = Math.sqrt(found.reduce((sum, value) => sum + (value - mean) ** 2, 0) / Math.max(1, n - 1));
    const [low, high] = band === "deviation"
      ? [mean - deviation, mean + deviation]
      : [Math.min(...found), Math.max(...found)];
    const [middle, least, most] = [mean, low, high].map((value) => Number(value.toPrecision(6)));
    return { run, label: label(run), [x]: place, mean: middle, low: least, high: most, n };
  });
}

// --- what is chosen ---

const chosen = new Set();
const withResults = Object.keys(data.looks);
const inOrder = () => withResults.filter((run) => chosen.has(run));

// Gives each run its own colour and dashes, or where another has them, the first that none has.
function looksOf(runs) {
  const taken = new Set();
  const free = (look) => !taken.has(JSON.stringify(look));
  return Object.fromEntries(runs.map((run) => {
    const look = [data.looks[run], ...data.palette].find(free) ?? data.looks[run];
    taken.add(JSON.stringify(look));
    return [run, look];
  }));
}
const trained = (run) => data.trainings.filter((training) => training.run === run);

function drawStart() {
  const runs = Object.keys(data.start);
  const label = (run) => data.start[run];
  const values = runs.flatMap(trained).flatMap(({ run, snapshots, flow }) =>
    snapshots[0] === 0 ? flow.mean_abs_gradient[0].map((value, at) => [run, at + 1, value]) : []);
  const rows = rowsOf("layer", values, "range", label).filter((row) => row.low > 0);
  const spec = lines({ x: "layer", y: "mean_abs_gradient", runs, label, log: true });
  draw("start", rows, spec, "No network has been measured yet.");
}

function drawCurves() {
  const metric = byId("metric").value;
  const [accuracy, loss] = [metric.endsWith("accuracy"), metric.endsWith("loss")];
  const scale = accuracy ? 100 : 1;
  const values = inOrder().flatMap(trained).flatMap(({ run, history }) =>
    history[metric].map((value, at) => [run, at + 1, value === null ? null : scale * value]));
  const chance = data.chance[metric.split("_")[0]];
  const guess = accuracy ? 100 * chance.accuracy : loss ? chance.loss : null;
  // a single early loss of hundreds would flatten everything else
  const domain = loss ? [0, 1.5 * Math.max(guess, data.chance.val.loss)] : null;
  const spec = lines({ x: "epoch", y: metric, runs: inOrder(), guess, domain });
  draw("curves", rowsOf("epoch", values, "deviation"), spec, "No run is chosen.");
}

function drawFlow() {
  const measure = byId("measure").value;
  const trainings = inOrder().flatMap(trained).filter(({ flow }) => measure in flow);
  const epoch = slide("epoch", trainings.flatMap(({ snapshots }) => snapshots));
  const values = trainings.flatMap(({ run, snapshots, flow }) =>
    (flow[measure][snapshots.indexOf(epoch)] ?? []).map((value, at) => [run, at + 1, value]));
  const rows = rowsOf("layer", values, "range").filter((row) => row.low > 0);
  const every = trainings.flatMap(({ flow }) => flow[measure].flat()).filter((value) => value > 0);
  const domain = every.length ? [every.reduce((a, b) => Math.min(a, b)), every.reduce((a, b) => Math.max(a, b))] : null;
  draw("flow", rows, lines({ x: "layer", y: measure, runs: inOrder(), log: true, domain }));
}

function drawLandscape() {
  const measured = data.landscape.filter(({ run }) => chosen.has(run));
  const epoch = slide("landscape-epoch", measured.map((each) => each.epoch));
  const values = measured.filter((each) => each.epoch === epoch).flatMap(({ run, cuts }) =>
    cuts.loss.map((loss, at) => [run, cuts.x[at], loss]));
  const domain = [0, 2 * data.chance.val.loss];
  const runs = inOrder().filter((run) => measured.some((each) => each.run === run));
  const spec = lines({ x: "step", y: "loss", runs, guess: data.chance.train.loss, domain });
  draw("landscape", rowsOf("step", values, "range"), spec);
}

function drawSurface() {
  const grids = data.landscape.filter(({ run, grid }) => chosen.has(run) && grid.loss.length);
  const runs = [...new Set(grids.map(({ run }) => run))];
  offer(byId("surface-run"), runs.map((run) => [run, run]));
  const shown = grids.find(({ run }) => run === byId("surface-run").value);
  const rows = shown ? shown.grid.loss.map((loss, at) => ({ x: shown.grid.x[at], y: shown.grid.y[at], loss })) : [];
  draw("surface", rows, surface);
}

function drawSmoothness() {
  const measure = byId("smoothness-measure").value;
  const measured = data.smoothness.filter(({ run }) => chosen.has(run));
  const epoch = slide("smoothness-epoch", measured.map((each) => each.epoch));
  const values = measured.filter((each) => each.epoch === epoch).flatMap((each) =>
    each[measure].map((value, at) => [each.run, each.relative_distance[at], value]));
  const log = measure !== "cosine";
  const rows = rowsOf("relative_distance", values, "range").filter((row) => !log || row.low > 0);
  const runs = inOrder().filter((run) => measured.some((each) => each.run === run));
  draw("smoothness", rows, lines({ x: "relative_distance", y: measure, runs, log, square: true }));
}

const explored = [drawCurves, drawFlow, drawLandscape, drawSurface, drawSmoothness];

// Says how many runs are chosen, and gives those listed the colours and dashes that they have in the figures.
function mark() {
  const looks = looksOf(inOrder());
  byId("runs").firstElementChild.textContent = `Runs, ${chosen.size} chosen`;
  byId("runs").querySelectorAll("label").forEach((label) => {
    const run = label.firstElementChild.value;
    label.querySelector("svg").replaceWith(swatch(looks[run] ?? data.looks[run]));
  });
}

function explore() {
  mark();
  explored.forEach((each) => each());
}

// --- controls ---

// Puts options into a menu, and keeps what was chosen where that is still among them.
function offer(menu, options, before = menu.value) {
  menu.replaceChildren(...options.map(([value, text]) => new Option(text, value)));
  if (options.some(([value]) => value === before)) menu.value = before;
}

// Sets a slider to run over these epochs, as near to where it was as can be, and returns the epoch that it stands at.
function slide(id, epochs) {
  const slider = byId(id);
  const every = [...new Set(epochs)].sort((a, b) => a - b);
  const before = Number(slider.dataset.epoch ?? 0);
  if (slider.dataset.epochs !== every.join()) {
    slider.max = Math.max(0, every.length - 1);
    slider.value = Math.max(0, every.findLastIndex((epoch) => epoch <= before));
    slider.dataset.epochs = every.join();
  }
  const epoch = every[slider.value] ?? 0;
  const text = epoch === 0 ? "0, initialisation" : `${epoch}`;
  slider.disabled = every.length < 2;
  slider.dataset.epoch = epoch;
  slider.setAttribute("aria-valuetext", `epoch ${text}`);
  document.querySelector(`output[for="${id}"]`).textContent = text;
  return epoch;
}

function swatch({ colour, dash }) {
  const image = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  const line = document.createElementNS("http://www.w3.org/2000/svg", "line");
  const attributes = { x1: 0, x2: 32, y1: 5, y2: 5, stroke: colour, "stroke-width": 3, "stroke-dasharray": dash.join(" ") };
  Object.entries(attributes).forEach(([name, value]) => line.setAttribute(name, value));
  image.setAttribute("viewBox", "0 0 32 10");
  image.setAttribute("aria-hidden", "true");
  image.append(line);
  return image;
}

function box(run) {
  const label = document.createElement("label");
  const input = Object.assign(document.createElement("input"), { type: "checkbox", value: run, checked: chosen.has(run) });
  label.append(input, " ", swatch(data.looks[run]), ` ${run}`);
  return label;
}

function listed() {
  const study = data.studies.find(({ key }) => key === byId("study").value);
  const wanted = byId("find").value.trim().toLowerCase();
  return (study?.runs ?? withResults).filter((run) => run.includes(wanted));
}

function list() {
  byId("runs").replaceChildren(byId("runs").firstElementChild, ...listed().map(box));
  mark();
}

function choose(runs) {
  chosen.clear();
  runs.forEach((run) => chosen.add(run));
  list();
  explore();
}

// --- tables ---

const compare = new Intl.Collator("en", { numeric: true }).compare;

function sort(table, column, head) {
  const descending = head.getAttribute("aria-sort") === "ascending";
  table.querySelectorAll("th[aria-sort]").forEach((each) => each.removeAttribute("aria-sort"));
  head.setAttribute("aria-sort", descending ? "descending" : "ascending");
  const body = table.tBodies[0];
  const keyed = [...body.rows].map((row) => [row.cells[column].dataset.value, row]);
  keyed.sort(([a], [b]) => {
    if (a === "" || b === "") return (a === "") - (b === "");
    const [x, y] = [Number(a), Number(b)];
    const order = Number.isNaN(x) || Number.isNaN(y) ? compare(a, b) : x - y;
    return descending ? -order : order;
  });
  body.append(...keyed.map(([, row]) => row));
}

function filter(name) {
  const words = document.querySelector(`[data-filter="${name}"]`).value.toLowerCase().split(/\s+/);
  const rows = [...byId(`${name}-table`).tBodies[0].rows];
  rows.forEach((row) => {
    const text = [...row.cells].map((cell) => cell.textContent).join(" ").toLowerCase();
    row.hidden = !words.every((word) => text.includes(word));
  });
  const shown = rows.filter((row) => !row.hidden).length;
  document.querySelector(`[data-count="${name}"]`).textContent = `${shown} of ${rows.length} rows`;
}

function configurations() {
  const [first, second] = ["first", "second"].map((id) => byId(id).value);
  const [left, right] = [first, second].map((run) => ({ ...data.shared, ...data.configurations[run] }));
  const cell = (kind, text) => Object.assign(document.createElement(kind), { textContent: text });
  const keys = [...new Set([...Object.keys(left), ...Object.keys(right)])].sort();
  const rows = keys.filter((key) => !byId("differences").checked || left[key] !== right[key]).map((key) => {
    const row = document.createElement("tr");
    const head = Object.assign(cell("th", key), { scope: "row" });
    row.append(head, cell("td", left[key] ?? "-"), cell("td", right[key] ?? "-"));
    row.classList.toggle("differs", left[key] !== right[key]);
    return row;
  });
  const [, one, other] = byId("configuration-table").tHead.rows[0].cells;
  [one.textContent, other.textContent] = [first, second];
  byId("configuration-table").tBodies[0].replaceChildren(...rows);
}

// --- downloads ---

function save(name, text, type) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([text], { type }));
  link.download = name;
  link.click();
  URL.revokeObjectURL(link.href);
}

const field = (value) => (/[",\n]/.test(value) ? `"${`${value}`.replaceAll('"', '""')}"` : `${value}`);
const csv = (rows) => rows.map((row) => `${row.map(field).join(",")}\n`).join("");

async function saveFigure(id, kind) {
  const { rows, spec } = figures[id];
  const [menu, slider] = ["select", "input[type=range]"].map((kind) => byId(id).querySelector(kind));
  const name = [id, menu?.value, slider && `epoch${slider.dataset.epoch}`].filter(Boolean).join("-");
  if (kind === "svg") {
    const onPaper = { ...spec(rows), width: 700, background: "white", data: { values: rows } };
    const { view } = await vegaEmbed(document.createElement("div"), onPaper, options(false));
    return save(`${name}.svg`, await view.toSVG(), "image/svg+xml");
  }
  const heads = Object.keys(rows[0]).filter((head) => head !== "label" || rows.some(({ run, label }) => run !== label));
  save(`${name}.csv`, csv([heads, ...rows.map((row) => heads.map((head) => row[head]))]), "text/csv");
}

function saveTable(name) {
  const rows = [...byId(`${name}-table`).rows].filter((row) => !row.hidden);
  save(`${name}.csv`, csv(rows.map((row) => [...row.cells].map((cell) => cell.textContent))), "text/csv");
}

// --- start ---

function start() {
  offer(byId("study"), [...data.studies.map(({ key, title }) => [key, `${key}: ${title}`]), ["", "every run"]], data.study);
  Object.entries(data.menus).forEach(([id, keys]) => offer(byId(id), keys.map((key) => [key, names[key]])));
  const runs = Object.keys(data.configurations).map((run) => [run, run]);
  offer(byId("first"), runs);
  offer(byId("second"), runs, runs[1]?.[0]);
  const on = (id, event, action) => byId(id).addEventListener(event, action);
  on("study", "change", () => choose(listed().slice(0, FEW)));
  on("find", "input", list);
  on("all", "click", () => choose([...chosen, ...listed()]));
  on("none", "click", () => choose([]));
  on("runs", "change", ({ target }) => {
    chosen[target.checked ? "add" : "delete"](target.value);
    explore();
  });
  on("metric", "change", drawCurves);
  ["measure", "epoch"].forEach((id) => on(id, "input", drawFlow));
  on("landscape-epoch", "input", drawLandscape);
  on("surface-run", "change", drawSurface);
  ["smoothness-measure", "smoothness-epoch"].forEach((id) => on(id, "input", drawSmoothness));
  ["first", "second", "differences"].forEach((id) => on(id, "change", configurations));
  document.querySelectorAll("[data-filter]").forEach((input) => {
    input.addEventListener("input", () => filter(input.dataset.filter));
    filter(input.dataset.filter);
  });
  document.querySelectorAll("thead button").forEach((button) => {
    const head = button.closest("th");
    button.addEventListener("click", () => sort(button.closest("table"), head.cellIndex, head));
  });
  document.querySelectorAll("[data-save]").forEach((button) =>
    button.addEventListener("click", () => saveFigure(button.closest("figure").id, button.dataset.save)));
  document.querySelectorAll("[data-save-table]").forEach((button) =>
    button.addEventListener("click", () => saveTable(button.dataset.saveTable)));
  dark.addEventListener("change", () => { drawStart(); explore(); });
  drawStart();
  configurations();
  choose(listed().slice(0, FEW));
}

start();
