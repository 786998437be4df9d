// The panes together: what each shows in which mode, drawn at most once for each picture of the screen.
import { Pane } from "./pane.js";
import { differencePlane, pyramid } from "./planes.js";
import { noiseTable, toneTable } from "./tone.js";

/** What each mode shows, pane by pane. */
export const MODES = {
  side: [["before"], ["after"]],
  divider: [["before", "after"]],
  toggle: [["shown"]],
  removed: [["removed"]],
  all: [["before"], ["after"], ["removed"]],
};
const NAMES = { before: "Before", after: "After", removed: "Removed noise" };
/** Beyond this time for a picture the processor draws without smoothing while something moves. */
const SLOW_MS = 24;
const REST_MS = 160;

export class Stage {
  constructor(element, makeRenderer) {
    this.element = element;
    this.panes = [...element.querySelectorAll(".pane")].map((pane) => new Pane(pane, makeRenderer));
    this.divider = element.querySelector(".divider");
    this.differences = new WeakMap();
    this.state = null;
    this.drawn = 0;
    this.spent = 0;
    this.movedAt = 0;
    new ResizeObserver(() => this.refit()).observe(element);
    element.addEventListener("redraw", () => this.draw());
  }

  get visible() {
    return this.panes.filter((pane) => pane.isVisible);
  }

  /** Say that something moves: until it rests, speed counts. */
  moving() {
    this.movedAt = performance.now();
    clearTimeout(this.rest);
    this.rest = setTimeout(() => this.draw(), REST_MS);
    this.draw();
  }

  /** Arrange the panes for the mode of the state. */
  arrange() {
    const { mode } = this.state;
    const count = MODES[mode].length;
    this.panes.forEach((pane, index) => (pane.element.hidden = index >= count));
    this.element.dataset.panes = count;
    this.divider.hidden = mode !== "divider";
    this.refit();
  }

  refit() {
    if (!this.state) return;
    for (const pane of this.visible) pane.resize();
    const { view } = this.state;
    const [first] = this.visible;
    if (first && view.fitted) {
      view.fit(first.width, first.height);
      this.onFitted?.();
    }
    this.draw();
  }

  draw() {
    if (this.pending) return;
    this.pending = requestAnimationFrame(() => {
      this.pending = 0;
      if (this.state?.planes) this.paint();
    });
  }

  paint() {
    const begun = performance.now(), { state } = this;
    const tables = this.tables();
    const options = { squares: state.squares, hasty: begun - this.movedAt < REST_MS && this.spent > SLOW_MS };
    MODES[state.mode].forEach((contents, index) => {
      const pane = this.panes[index];
      pane.resize();
      const kinds = contents.map((kind) => (kind === "shown" ? state.shown : kind));
      const ends = kinds.length === 2 ? [0, state.divider, 1] : [0, 1];
      const layers = kinds.map((kind, at) => ({
        plane: this.planeOf(kind), table: tables[kind](), left: ends[at], right: ends[at + 1],
      }));
      if (pane.renderer.takes && !pane.renderer.takes(state.image)) pane.drawByProcessor();
      pane.draw(layers, state.view, options);
      pane.drawOver(state.view, state);
      const names = kinds.map((kind) => NAMES[kind]);
      if (kinds[0] === "removed") names[0] += ` ±${state.noiseHalf.toPrecision(3)}`;
      pane.label.textContent = names.join(" | ");
    });
    this.divider.style.left = `${state.divider * 100}%`;
    this.spent = performance.now() - begun;
    this.drawn += 1;
    this.element.dataset.drawn = this.drawn;
  }

  tables() {
    const { state } = this, made = {};
    const tone = (side) => {
      const key = state.isAlike ? "before" : side;
      made[key] ??= toneTable(state[key], state.frameOf(key), state.setting, state.isInverted);
      return made[key];
    };
    return {
      before: () => tone("before"),
      after: () => tone("after"),
      removed: () => noiseTable(state.noiseHalf),
    };
  }

  planeOf(kind) {
    const { before, after } = this.state.planes;
    if (kind !== "removed") return kind === "after" ? after : before;
    let difference = this.differences.get(before);
    if (!difference) {
      const [a] = before.levels, [b] = after.levels;
      difference = { levels: pyramid(differencePlane(a.data, b.data), a.columns, a.rows) };
      this.differences.set(before, difference);
    }
    return difference;
  }
}
