// One picture on the screen: a canvas, and over it what is drawn about the image.
import { CanvasRenderer } from "./canvas_renderer.js";

const SVG = "http://www.w3.org/2000/svg";

export class Pane {
  /** @param makeRenderer Makes one for a canvas, or throws; then the processor draws. */
  constructor(element, makeRenderer) {
    this.element = element;
    this.label = element.querySelector(".pane-label");
    this.letters = element.querySelectorAll(".letter");
    this.overlay = element.querySelector("svg");
    this.makeRenderer = makeRenderer;
    this.replaceCanvas();
  }

  get width() {
    return this.canvas.width;
  }

  get height() {
    return this.canvas.height;
  }

  get isVisible() {
    return !this.element.hidden;
  }

  /** Begin with a new canvas: one that was drawn on in one way can't be drawn on in the other. */
  replaceCanvas() {
    const canvas = document.createElement("canvas");
    canvas.setAttribute("aria-hidden", "true");
    if (this.canvas) {
      canvas.width = this.canvas.width;
      canvas.height = this.canvas.height;
      this.canvas.replaceWith(canvas);
    } else {
      this.element.prepend(canvas);
    }
    this.canvas = canvas;
    try {
      this.renderer = this.makeRenderer(canvas);
    } catch {
      // A canvas that failed to give one context may still refuse the other.
      this.makeRenderer = (plain) => new CanvasRenderer(plain);
      this.replaceCanvas();
      return;
    }
    canvas.addEventListener("webglcontextlost", (event) => {
      event.preventDefault();
      this.drawByProcessor();
      this.element.dispatchEvent(new CustomEvent("redraw", { bubbles: true }));
    });
  }

  drawByProcessor() {
    if (this.renderer instanceof CanvasRenderer) return;
    this.makeRenderer = (canvas) => new CanvasRenderer(canvas);
    this.replaceCanvas();
  }

  /** Follow the size on the screen, in pixels of the device; tells whether it changed. */
  resize() {
    const ratio = window.devicePixelRatio || 1;
    const width = Math.round(this.element.clientWidth * ratio), height = Math.round(this.element.clientHeight * ratio);
    if (width === this.canvas.width && height === this.canvas.height) return false;
    this.canvas.width = width;
    this.canvas.height = height;
    this.overlay.setAttribute("viewBox", `0 0 ${width} ${height}`);
    return true;
  }

  draw(layers, view, options) {
    for (const layer of layers) {
      layer.from = Math.round((layer.left ?? 0) * this.width);
      layer.to = Math.round((layer.right ?? 1) * this.width);
    }
    this.renderer.draw(layers, view, options);
  }

  /** Return the device pixel of a pointer event. */
  pointOf(event) {
    const box = this.element.getBoundingClientRect();
    return {
      x: ((event.clientX - box.left) / box.width) * this.width,
      y: ((event.clientY - box.top) / box.height) * this.height,
    };
  }

  // -- what is drawn about the image ------------------------------------------------------------

  drawOver(view, { point, region, shutter, ruler }) {
    const shapes = [];
    const place = (x, y) => view.toPane(x, y, this.width, this.height);
    if (shutter) shapes.push(...this.shutterOver(shutter, view, place));
    if (region) {
      const a = place(region.x, region.y), b = place(region.x + region.width, region.y + region.height);
      const box = { x: a.x, y: a.y, width: Math.max(b.x - a.x, 1), height: Math.max(b.y - a.y, 1) };
      shapes.push(shape("rect", { ...box, class: "region-under" }), shape("rect", { ...box, class: "region" }));
    }
    if (point) {
      const at = place(point.x + 0.5, point.y + 0.5);
      const [reach, gap] = [14, 5];
      for (const [dx, dy] of [[1, 0], [-1, 0], [0, 1], [0, -1]]) {
        const line = { x1: at.x + dx * gap, y1: at.y + dy * gap, x2: at.x + dx * reach, y2: at.y + dy * reach };
        shapes.push(shape("line", { ...line, class: "cross-under" }), shape("line", { ...line, class: "cross" }));
      }
    }
    if (ruler) shapes.push(...this.rulerOver(ruler, view));
    this.overlay.replaceChildren(...shapes);
  }

  shutterOver(shutter, view, place) {
    const whole = `M0 0H${this.width}V${this.height}H0Z`;
    const hide = (inside) => shape("path", { d: `${whole}${inside}`, class: "shutter", "fill-rule": "evenodd" });
    const shapes = [];
    if (shutter.rectangle) {
      // Edges are the first columns and rows that are hidden, counted from 1.
      const [left, right, upper, lower] = shutter.rectangle;
      const a = place(left, upper), b = place(right - 1, lower - 1);
      shapes.push(hide(`M${a.x} ${a.y}H${b.x}V${b.y}H${a.x}Z`));
    }
    if (shutter.circle) {
      const [row, column, radius] = shutter.circle, { x, y } = place(column - 0.5, row - 0.5);
      const rx = radius * view.scale, ry = radius * view.scale * view.aspect;
      shapes.push(hide(`M${x - rx} ${y}a${rx} ${ry} 0 1 0 ${2 * rx} 0a${rx} ${ry} 0 1 0 ${-2 * rx} 0Z`));
    }
    if (shutter.polygon.length) {
      const points = shutter.polygon.map(([row, column]) => place(column - 0.5, row - 0.5));
      shapes.push(hide(`M${points.map(({ x, y }) => `${x} ${y}`).join("L")}Z`));
    }
    return shapes;
  }

  rulerOver({ spacing, at }, view) {
    const most = (this.width / 4 / view.scale) * spacing;
    const power = 10 ** Math.floor(Math.log10(most));
    const length = power * (most / power >= 5 ? 5 : most / power >= 2 ? 2 : 1);
    const pixels = (length / spacing) * view.scale;
    const ratio = window.devicePixelRatio || 1;
    const [x, y] = [12 * ratio, this.height - 14 * ratio];
    const line = { d: `M${x} ${y - 5 * ratio}v${5 * ratio}h${pixels}v${-5 * ratio}` };
    const text = shape("text", { x, y: y - 8 * ratio, class: "ruler-text", "font-size": 11 * ratio });
    text.textContent = `${Number(length.toPrecision(1))} mm ${at === "detector" ? "at the detector" : ""}`;
    return [shape("path", { ...line, class: "ruler-under" }), shape("path", { ...line, class: "ruler" }), text];
  }
}

function shape(name, attributes) {
  const element = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  return element;
}
