// Draws planes by the processor, a pixel of the screen at a time: what it costs depends on the screen alone.
import { isPlain, levelFor } from "./view.js";

const BLACK = 0xff000000;

export class CanvasRenderer {
  constructor(canvas) {
    this.canvas = canvas;
    this.context = canvas.getContext("2d", { alpha: false });
    this.greys = new Uint32Array(65536);
    this.painted = null;
  }

  /**
   * Draw layers side by side, each from `from` to `to` in device pixels.
   *
   * @param layers Of `plane`, `table`, `from`, `to`.
   * @param options `squares`: magnified pixels have edges; `hasty`: fast rather than smooth.
   */
  draw(layers, view, options) {
    const { width, height } = this.canvas;
    if (!width || !height) return;
    if (!this.pixels || this.pixels.width !== width || this.pixels.height !== height) {
      this.pixels = this.context.createImageData(width, height);
      this.out = new Uint32Array(this.pixels.data.buffer);
    }
    for (const layer of layers) {
      for (let i = 0; i < 65536; i++) this.greys[i] = BLACK | (layer.table[i] * 0x010101);
      this.paint(layer, view, options);
    }
    this.context.putImageData(this.pixels, 0, 0);
  }

  paint({ plane, from, to }, view, { squares, hasty }) {
    const { width, height } = this.canvas, { out, greys } = this;
    const index = levelFor(view, plane.levels.length);
    const { data, columns, rows } = plane.levels[index];
    const smooth = !hasty && !(index === 0 && isPlain(view, squares));
    const across = places(width, view.x, view.scale, view.columns, columns, 2 ** index, smooth);
    const down = places(height, view.y, view.scale * view.aspect, view.rows, rows, 2 ** index, smooth);
    const first = Math.max(from, across.first), last = Math.min(to, across.last);
    for (let y = 0; y < height; y++) {
      const line = y * width;
      if (y < down.first || y >= down.last || first >= last) {
        out.fill(BLACK, line + from, line + to);
        continue;
      }
      out.fill(BLACK, line + from, line + first);
      out.fill(BLACK, line + last, line + to);
      const above = down.at[y] * columns;
      if (!smooth) {
        for (let x = first; x < last; x++) out[line + x] = greys[data[above + across.at[x]]];
        continue;
      }
      const below = Math.min(down.at[y] + 1, rows - 1) * columns, g = down.part[y], h = 128 - g;
      const end = columns - 1;
      for (let x = first; x < last; x++) {
        const left = across.at[x], right = left < end ? left + 1 : end, f = across.part[x], e = 128 - f;
        // Weights of 7 bits: the sum of 16 + 14 bits is a small integer to the engine.
        const value =
          (data[above + left] * e + data[above + right] * f) * h + (data[below + left] * e + data[below + right] * f) * g;
        out[line + x] = greys[(value + 8192) >> 14];
      }
    }
  }
}

/** Return for each pixel of a line of the screen the pixel of the image, and the part of the next one in 128ths. */
function places(count, middle, scale, whole, size, shrunk, smooth) {
  const at = new Int32Array(count), part = new Int32Array(count);
  let first = count, last = 0;
  for (let i = 0; i < count; i++) {
    const place = middle + (i + 0.5 - count / 2) / scale;
    if (place < 0 || place >= whole) continue;
    first = Math.min(first, i);
    last = i + 1;
    const here = Math.min(Math.max(place / shrunk - (smooth ? 0.5 : 0), 0), size - 1);
    at[i] = here;
    part[i] = smooth ? (here - at[i]) * 128 : 0;
  }
  return { at, part, first, last };
}
