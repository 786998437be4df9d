// Where an image lies in a pane: one view for all panes, so that they move in step.
import { clamp } from "./tone.js";

export const MOST = 32;

/** Centre of the view in image pixels, and device pixels per column. */
export class View {
  constructor(image) {
    this.columns = image.columns;
    this.rows = image.rows;
    // Height of a pixel to its width: pixels that are not square are shown as they are.
    this.aspect = image.row_spacing / image.column_spacing;
    this.x = this.columns / 2;
    this.y = this.rows / 2;
    this.scale = 1;
    this.fitted = true;
  }

  fitScale(width, height) {
    return Math.min(width / this.columns, height / (this.rows * this.aspect));
  }

  fit(width, height) {
    this.x = this.columns / 2;
    this.y = this.rows / 2;
    this.scale = this.fitScale(width, height);
    this.fitted = true;
  }

  /** Zoom by a factor so that what lies at a point of a pane stays there. */
  zoom(factor, width, height, at = { x: width / 2, y: height / 2 }) {
    const before = this.toImage(at.x, at.y, width, height);
    const least = Math.min(1, this.fitScale(width, height)) / 2;
    this.scale = clamp(this.scale * factor, least, MOST);
    const after = this.toImage(at.x, at.y, width, height);
    this.x += before.x - after.x;
    this.y += before.y - after.y;
    this.fitted = false;
    this.hold();
  }

  oneToOne(width, height, at) {
    this.zoom(1 / this.scale, width, height, at);
  }

  /** Move the image by device pixels. */
  pan(dx, dy) {
    this.x -= dx / this.scale;
    this.y -= dy / (this.scale * this.aspect);
    this.fitted = false;
    this.hold();
  }

  /** Return the place in image pixels of a point in device pixels; whole numbers are the upper left corners of pixels. */
  toImage(x, y, width, height) {
    return {
      x: this.x + (x - width / 2) / this.scale,
      y: this.y + (y - height / 2) / (this.scale * this.aspect),
    };
  }

  toPane(x, y, width, height) {
    return {
      x: (x - this.x) * this.scale + width / 2,
      y: (y - this.y) * this.scale * this.aspect + height / 2,
    };
  }

  hold() {
    this.x = clamp(this.x, 0, this.columns);
    this.y = clamp(this.y, 0, this.rows);
  }
}

/** Return which of the smaller copies to draw from, so that a pixel of it is about a pixel of the screen. */
export function levelFor(view, count) {
  const shrunk = 1 / (view.scale * Math.min(1, view.aspect));
  return clamp(Math.floor(Math.log2(shrunk) + 0.5), 0, count - 1);
}

/** Tell whether pixels are shown as they are: at their own size, or where a user wants to see them as squares. */
export function isPlain(view, squares) {
  if (view.aspect !== 1) return false;
  return view.scale === 1 || (squares && view.scale > 1);
}
