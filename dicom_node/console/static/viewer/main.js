// The viewer: reads what the page says, loads the pair, and turns what a user does into a new picture.
import { CanvasRenderer } from "./canvas_renderer.js";
import { Cine } from "./cine.js";
import { Frames, Loader } from "./frames.js";
import { showMeasurements, showPoint, showRegion } from "./readout.js";
import { measureRegion, rectangleBetween } from "./region.js";
import { MODES, Stage } from "./stage.js";
import { asWindow, clamp, fullRange, percentileWindow, presetsOf } from "./tone.js";
import { View } from "./view.js";
import { WebglRenderer } from "./webgl_renderer.js";

const root = document.getElementById("viewer");
const find = (selector) => root.querySelector(selector);
const address = root.dataset.address;
const stageElement = find(".stage");
const message = find(".viewer-message");
/** Regions larger than this are measured when the drag ends. */
const LARGE = 1 << 20;

start().catch((error) => say(error.problem || "The viewer did not start. Load the page again."));

async function start() {
  say("Loading…");
  const response = await fetch(`${address}/pair.json`);
  if (response.redirected) throw Object.assign(new Error(), { problem: "You are signed out. Load the page again." });
  if (!response.ok) throw Object.assign(new Error(), { problem: `The console answered ${response.status}.` });
  const pair = await response.json();
  const image = pair.before.problem ? pair.after : pair.before;
  if (image.problem) throw Object.assign(new Error(), { problem: `${pair.before.problem} ${pair.after.problem}` });
  const viewer = new Viewer(pair, image, await rendererMaker());
  await viewer.begin();
}

/** Return what makes renderers: by graphics hardware where there is some, else, or where asked for, by the processor. */
async function rendererMaker() {
  const wanted = new URLSearchParams(location.search).get("renderer");
  const plain = (canvas) => new CanvasRenderer(canvas);
  if (wanted === "canvas" || !root.dataset.twgl) return plain;
  try {
    const twgl = await import(root.dataset.twgl);
    return (canvas) => new WebglRenderer(canvas, twgl, wanted === "webgl");
  } catch {
    return plain;
  }
}

function say(text) {
  message.textContent = text;
  message.hidden = !text;
}

class Viewer {
  constructor(pair, image, makeRenderer) {
    this.pair = pair;
    this.image = image;
    this.sides = ["before", "after"].filter((side) => !pair[side].problem);
    const alike = (a, b) => JSON.stringify(a) === JSON.stringify(b);
    const shape = ({ rows, columns, frame_count: count }) => [rows, columns, count];
    this.isPair = this.sides.length === 2 && alike(shape(pair.before), shape(pair.after));
    if (!this.isPair) this.sides = this.sides.slice(0, 1);
    const loader = new Loader();
    this.frames = {};
    for (const side of this.sides) this.frames[side] = new Frames(loader, pair[side], `${address}/${side}/frames/`);
    this.sigma = pair.noise_before || 0;
    this.number = 0;
    this.chosen = null;
    this.state = {
      image,
      before: pair.before,
      after: pair.after,
      isAlike: !this.isPair || (alike(pair.before.frames, pair.after.frames) && alike(pair.before.inverted, pair.after.inverted)),
      mode: this.isPair ? "side" : "toggle",
      shown: this.sides[0],
      divider: 0.5,
      view: new View(image),
      planes: null,
      setting: null,
      isInverted: image.inverted, // as drawn: by the image, or the other way round
      squares: false,
      noiseHalf: 4 * (this.sigma || 16),
      point: null,
      region: null,
      shutter: image.shutter,
      ruler: image.spacing_at ? { spacing: image.column_spacing, at: image.spacing_at } : null,
      frameOf: (side) => this.frameOf(side),
    };
    this.tool = "window";
    this.stage = new Stage(stageElement, makeRenderer);
    this.stage.onFitted = () => this.tellView();
    this.stage.state = this.state;
    this.cine = new Cine(image, (number) => this.show(number), find);
  }

  frameOf(side) {
    const { frames } = this.pair[side];
    return frames[Math.min(this.number || 1, frames.length) - 1];
  }

  async begin() {
    if (!this.isPair) {
      for (const input of root.querySelectorAll("[data-needs-pair]")) input.disabled = true;
    }
    this.orient();
    this.listen();
    await this.show(1);
    say(this.isPair ? "" : this.whyAlone());
    this.choosePreset(0);
    this.setMode(this.state.mode);
    root.dataset.renderer = this.stage.panes[0].renderer instanceof CanvasRenderer ? "canvas" : "webgl";
    root.dataset.ready = "true";
    if (document.activeElement === document.body) stageElement.focus({ preventScroll: true });
  }

  whyAlone() {
    const { before, after } = this.pair;
    return before.problem || after.problem || "The two images differ in rows, columns or frames, so only one is shown.";
  }

  orient() {
    const [along, down] = this.image.patient_orientation;
    if (!along) return;
    const other = { L: "R", R: "L", A: "P", P: "A", H: "F", F: "H" };
    const against = (text) => [...text].map((letter) => other[letter]).join("");
    const sides = { right: along, left: against(along), bottom: down, top: against(down) };
    for (const pane of this.stage.panes) {
      for (const letter of pane.letters) letter.textContent = sides[letter.dataset.side];
    }
  }

  // -- frames -----------------------------------------------------------------------------------

  /** Show a frame as soon as it is there; of several that are asked for in a row the last one counts. */
  async show(number) {
    number = clamp(number, 1, this.image.frame_count);
    this.wanted = number;
    const ahead = this.cine.isPlaying ? [1, 2, 3].map((n) => ((number + n - 1) % this.image.frame_count) + 1) : [];
    for (const side of this.sides) this.frames[side].abandonAllBut([number, ...ahead]);
    let loaded;
    try {
      loaded = await Promise.all(this.sides.map((side) => this.frames[side].get(number)));
    } catch (error) {
      if (this.wanted === number && error.problem !== "") {
        this.cine.pause();
        say(error.problem || "The frame did not come.");
      }
      return;
    }
    for (const side of this.sides) for (const next of ahead) this.frames[side].get(next).catch(() => {});
    if (this.wanted !== number) return;
    this.number = number;
    this.state.planes = Object.fromEntries(this.sides.map((side, index) => [side, loaded[index]]));
    stageElement.dataset.frame = number;
    this.cine.at(number);
    if (this.chosen !== null) this.choosePreset(this.chosen);
    this.say();
    this.stage.draw();
  }

  // -- windows ----------------------------------------------------------------------------------

  /** Return everything that the menu of windows offers for the frame that is shown. */
  presets() {
    const side = this.sides[0], frame = this.frameOf(side), { histogram } = this.state.planes[side];
    return [
      ...presetsOf(frame),
      { ...percentileWindow(this.image, frame, histogram, 0.01, 0.99), name: "Auto (1 % to 99 %)" },
      { ...fullRange(this.image, frame), name: "Full range" },
    ];
  }

  choosePreset(index) {
    const presets = this.presets();
    const menu = find("#preset");
    menu.replaceChildren(...presets.map((preset, at) => new Option(`${at + 1}  ${preset.name}`, at)), new Option("Own", "own"));
    index = clamp(index, 0, presets.length - 1);
    this.chosen = index;
    menu.value = String(index);
    this.setWindow(presets[index], false);
  }

  setWindow(setting, isOwn = true) {
    this.state.setting = setting;
    if (isOwn) {
      this.chosen = null;
      find("#preset").value = "own";
    }
    const shown = asWindow(setting), digits = shown.width < 20 ? 2 : 0;
    find("#center").value = shown.center.toFixed(digits);
    find("#width").value = shown.width.toFixed(digits);
    stageElement.dataset.window = `${shown.center} ${shown.width}`;
    this.stage.draw();
  }

  /** Make the window wider and brighter in parts of itself. */
  bendWindow(wider, higher) {
    const { center, width, function: kind } = asWindow(this.state.setting);
    const least = kind === "LINEAR" ? 1 : 1e-3;
    this.setWindow({ function: kind, center: center + higher * width, width: Math.max(width * Math.exp(wider), least) });
  }

  // -- what else is chosen ----------------------------------------------------------------------

  setMode(mode) {
    if (!this.isPair && mode !== "toggle") return;
    this.state.mode = mode;
    stageElement.dataset.mode = mode;
    stageElement.dataset.shown = this.state.shown;
    find(`input[name="mode"][value="${mode}"]`).checked = true;
    find("#flip").hidden = mode !== "toggle" || !this.isPair;
    find("#noise-range").hidden = !MODES[mode].flat().includes("removed");
    this.stage.arrange();
  }

  flip() {
    if (!this.isPair) return;
    if (this.state.mode !== "toggle") this.setMode("toggle");
    this.state.shown = this.state.shown === "before" ? "after" : "before";
    stageElement.dataset.shown = this.state.shown;
    this.stage.draw();
  }

  setTool(tool) {
    this.tool = tool;
    stageElement.dataset.tool = tool;
    find(`input[name="tool"][value="${tool}"]`).checked = true;
  }

  setDivider(share) {
    this.state.divider = clamp(share, 0, 1);
    const { divider } = this.stage;
    divider.setAttribute("aria-valuenow", String(Math.round(this.state.divider * 100)));
    this.stage.moving();
  }

  setInverted(isInverted) {
    this.state.isInverted = isInverted !== this.image.inverted;
    find("#invert").checked = isInverted;
    stageElement.dataset.inverted = isInverted;
    this.stage.draw();
  }

  setSquares(squares) {
    this.state.squares = squares;
    find("#squares").checked = squares;
    this.stage.draw();
  }

  zoom(factor, at) {
    const [pane] = this.stage.visible;
    this.state.view.zoom(factor, pane.width, pane.height, at);
    this.moved();
  }

  oneToOne(at) {
    const [pane] = this.stage.visible;
    this.state.view.oneToOne(pane.width, pane.height, at);
    this.moved();
  }

  fit() {
    const [pane] = this.stage.visible;
    this.state.view.fit(pane.width, pane.height);
    this.moved();
  }

  pan(dx, dy) {
    this.state.view.pan(dx, dy);
    this.moved();
  }

  moved() {
    this.tellView();
    this.stage.moving();
  }

  tellView() {
    const { view } = this.state;
    find("#scale").textContent = `${(view.scale * 100).toPrecision(3)} %`;
    stageElement.dataset.view = `${view.x} ${view.y} ${view.scale}`;
  }

  setNoiseRange(sigmas) {
    this.state.noiseHalf = sigmas * (this.sigma || 16);
    this.stage.draw();
  }

  // -- numbers ----------------------------------------------------------------------------------

  pointAt(x, y) {
    const inside = x >= 0 && y >= 0 && x < this.image.columns && y < this.image.rows;
    this.state.point = inside ? { x: Math.floor(x), y: Math.floor(y) } : null;
    this.say();
    this.stage.draw();
  }

  movePoint(dx, dy) {
    const { point, view } = this.state;
    const from = point ?? { x: Math.floor(view.x), y: Math.floor(view.y) };
    this.pointAt(clamp(from.x + dx, 0, this.image.columns - 1), clamp(from.y + dy, 0, this.image.rows - 1));
  }

  setRegion(region, isFinal) {
    this.state.region = region;
    if (isFinal || region.width * region.height <= LARGE) this.say();
    const typed = { x: region.x + 1, y: region.y + 1, width: region.width, height: region.height };
    for (const [key, value] of Object.entries(typed)) find(`#region-${key}`).value = value;
    this.stage.draw();
  }

  say() {
    const { planes, point, region } = this.state;
    if (!planes) return;
    const values = {};
    const { columns } = this.image;
    for (const side of this.sides) {
      if (point) values[side] = planes[side].levels[0].data[point.y * columns + point.x] + this.pair[side].lowest;
    }
    showPoint(find, { point, values, frame: this.frameOf(this.sides[0]), sigma: this.sigma, image: this.image });
    if (!region) return;
    const found = {};
    for (const side of this.sides) {
      found[side] = measureRegion(planes[side].levels[0], this.pair[side].lowest, this.pair[side].padding, region);
    }
    showRegion(find, { region, found, image: this.image });
  }

  async measureAgain() {
    const button = find("#measure-again");
    button.disabled = true;
    button.textContent = "Measuring…";
    const number = this.number;
    try {
      const response = await fetch(`${address}/measurements/${number}`);
      const answer = await response.json();
      showMeasurements(find, response.ok ? answer : { reason: answer.problem, numbers: [] }, this.image.frame_count);
      // What is known exactly of this frame is a better unit than the median over all.
      if (answer.noise_before && !this.sigma) this.sigma = answer.noise_before;
    } catch {
      showMeasurements(find, { reason: "The console did not answer. Try again.", numbers: [] }, 1);
    } finally {
      button.disabled = false;
      button.textContent = "Measure this frame";
    }
  }

  // -- what a user does -------------------------------------------------------------------------

  listen() {
    const on = (selector, event, act) => find(selector).addEventListener(event, act);
    for (const input of root.querySelectorAll('input[name="mode"]')) input.addEventListener("change", () => this.setMode(input.value));
    for (const input of root.querySelectorAll('input[name="tool"]')) input.addEventListener("change", () => this.setTool(input.value));
    on("#preset", "change", ({ target }) => {
      if (target.value === "own") this.setWindow(asWindow(this.state.setting));
      else this.choosePreset(Number(target.value));
    });
    for (const name of ["center", "width"]) on(`#${name}`, "change", () => this.typedWindow());
    on("#invert", "change", ({ target }) => this.setInverted(target.checked));
    on("#squares", "change", ({ target }) => this.setSquares(target.checked));
    on("#fit", "click", () => this.fit());
    on("#one", "click", () => this.oneToOne());
    on("#closer", "click", () => this.zoom(1.25));
    on("#farther", "click", () => this.zoom(0.8));
    on("#flip", "click", () => this.flip());
    on("#sigmas", "change", ({ target }) => this.setNoiseRange(Number(target.value)));
    on("#measure-again", "click", () => this.measureAgain());
    on("#shutter", "change", ({ target }) => {
      this.state.shutter = target.checked ? this.image.shutter : null;
      this.stage.draw();
    });
    find("#shutter").closest("label").hidden = !this.image.shutter;
    for (const key of ["x", "y", "width", "height"]) on(`#region-${key}`, "change", () => this.typedRegion());
    stageElement.addEventListener("keydown", (event) => this.key(event));
    stageElement.addEventListener("wheel", (event) => this.wheel(event), { passive: false });
    stageElement.addEventListener("pointerdown", (event) => this.press(event));
    stageElement.addEventListener("pointermove", (event) => this.hover(event));
    stageElement.addEventListener("contextmenu", (event) => event.preventDefault());
    stageElement.addEventListener("dblclick", (event) => this.doubleClick(event));
  }

  typedWindow() {
    const center = Number(find("#center").value), width = Number(find("#width").value);
    const kind = asWindow(this.state.setting).function;
    if (Number.isFinite(center) && width > 0) this.setWindow({ function: kind, center, width: kind === "LINEAR" ? Math.max(width, 1) : width });
    else this.setWindow(this.state.setting, this.chosen === null);
  }

  typedRegion() {
    const [x, y, width, height] = ["x", "y", "width", "height"].map((key) => Math.floor(Number(find(`#region-${key}`).value)));
    if (![x, y, width, height].every(Number.isFinite) || width < 1 || height < 1) return;
    const from = { x: x - 1, y: y - 1 };
    this.setRegion(rectangleBetween(from, { x: x + width - 2, y: y + height - 2 }, this.image.columns, this.image.rows), true);
  }

  paneOf(event) {
    return this.stage.visible.find((pane) => pane.element.contains(event.target));
  }

  placeIn(pane, event) {
    const { x, y } = pane.pointOf(event);
    return { pane: { x, y }, image: this.state.view.toImage(x, y, pane.width, pane.height) };
  }

  hover(event) {
    const pane = this.paneOf(event);
    if (!pane || this.drag) return;
    const { image } = this.placeIn(pane, event);
    this.pointAt(image.x, image.y);
  }

  wheel(event) {
    const pane = this.paneOf(event);
    if (!pane) return;
    event.preventDefault();
    this.zoom(Math.exp(-clamp(event.deltaY, -240, 240) / 480), this.placeIn(pane, event).pane);
  }

  doubleClick(event) {
    const pane = this.paneOf(event);
    if (!pane) return;
    if (this.state.view.fitted) this.oneToOne(this.placeIn(pane, event).pane);
    else this.fit();
  }

  press(event) {
    const isDivider = event.target === this.stage.divider;
    const pane = isDivider ? this.stage.panes[0] : this.paneOf(event);
    if (!pane) return;
    stageElement.focus({ preventScroll: true });
    if (isDivider) this.stage.divider.focus({ preventScroll: true });
    event.preventDefault();
    // The middle and the right button move the image whatever the left one does.
    const act = isDivider ? "divider" : event.button !== 0 ? "pan" : this.tool;
    const begun = this.placeIn(pane, event);
    let last = begun.pane;
    this.drag = act;
    stageElement.setPointerCapture(event.pointerId);
    const size = Math.min(pane.width, pane.height);
    const move = (moved) => {
      const now = this.placeIn(pane, moved);
      const dx = now.pane.x - last.x, dy = now.pane.y - last.y;
      last = now.pane;
      if (act === "divider") this.setDivider(now.pane.x / pane.width);
      else if (act === "pan") this.pan(dx, dy);
      else if (act === "measure") this.setRegion(rectangleBetween(begun.image, now.image, this.image.columns, this.image.rows), false);
      else {
        this.stage.moving();
        this.bendWindow((2 * dx) / size, dy / size);
      }
    };
    const end = () => {
      stageElement.removeEventListener("pointermove", move);
      stageElement.removeEventListener("pointerup", end);
      stageElement.removeEventListener("pointercancel", end);
      this.drag = null;
      if (act === "measure" && this.state.region) this.setRegion(this.state.region, true);
    };
    stageElement.addEventListener("pointermove", move);
    stageElement.addEventListener("pointerup", end);
    stageElement.addEventListener("pointercancel", end);
  }

  key(event) {
    if (event.ctrlKey && !event.key.startsWith("Arrow")) return;
    if (event.metaKey || event.altKey) return;
    const arrow = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
    if (arrow && event.target === this.stage.divider) this.setDivider(this.state.divider + 0.02 * (arrow[0] || -arrow[1]));
    else if (arrow) this.arrow(arrow, event);
    else if (!this.named(event.key)) return;
    event.preventDefault();
  }

  arrow([x, y], { shiftKey, ctrlKey }) {
    if (ctrlKey) this.movePoint(x, y);
    else if (shiftKey) this.bendWindow(0.1 * x, 0.05 * y);
    else this.pan(-60 * x, -60 * y);
  }

  /** Do what a key stands for; tells whether it stands for anything. */
  named(key) {
    const count = this.image.frame_count;
    const acts = {
      s: () => this.setMode("side"),
      d: () => this.setMode("divider"),
      t: () => this.setMode("toggle"),
      n: () => this.setMode("removed"),
      a: () => this.setMode("all"),
      x: () => this.flip(),
      w: () => this.setTool("window"),
      p: () => this.setTool("pan"),
      m: () => this.setTool("measure"),
      i: () => this.setInverted(!find("#invert").checked),
      q: () => this.setSquares(!this.state.squares),
      f: () => this.fit(),
      o: () => this.oneToOne(),
      "+": () => this.zoom(1.25),
      "=": () => this.zoom(1.25),
      "-": () => this.zoom(0.8),
      "[": () => find("#previous-image")?.click(),
      "]": () => find("#next-image")?.click(),
    };
    if (count > 1) {
      Object.assign(acts, {
        " ": () => this.cine.toggle(),
        ",": () => this.step(-1),
        ".": () => this.step(1),
        PageUp: () => this.step(-1),
        PageDown: () => this.step(1),
        Home: () => this.show(1),
        End: () => this.show(count),
      });
    }
    if (/^[1-9]$/.test(key)) acts[key] = () => this.choosePreset(Number(key) - 1);
    const act = acts[key] ?? acts[key.toLowerCase()];
    act?.();
    return Boolean(act);
  }

  step(by) {
    this.cine.pause();
    this.show(this.wanted + by);
  }
}
