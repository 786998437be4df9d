// Pixels as both renderers take them: 16 bits from 0 on, with smaller copies by averaging, for views from afar.

const SMALLEST = 256;

/** Return the values of an answer as numbers from 0 on: stored value less `lowest`. */
export function indexPlane(buffer, kind, layout, lowest) {
  if (kind === "uint8" || kind === "int8") {
    const values = kind === "uint8" ? new Uint8Array(buffer) : new Int8Array(buffer);
    return Uint16Array.from(values, (value) => value - lowest);
  }
  let values;
  if (layout === "planes") {
    const bytes = new Uint8Array(buffer), count = bytes.length / 2;
    values = new Uint16Array(count);
    for (let i = 0; i < count; i++) values[i] = bytes[i] | (bytes[count + i] << 8);
  } else {
    const view = new DataView(buffer);
    values = new Uint16Array(buffer.byteLength / 2);
    for (let i = 0; i < values.length; i++) values[i] = view.getUint16(2 * i, true);
  }
  // Modulo 65536, so the same for both signs.
  if (lowest) for (let i = 0; i < values.length; i++) values[i] -= lowest;
  return values;
}

/** Return a plane of `columns` x `rows` with its smaller copies, each half as wide and high as the one before. */
export function pyramid(data, columns, rows) {
  const levels = [{ data, columns, rows }];
  while (Math.max(columns, rows) > SMALLEST && Math.min(columns, rows) > 1) {
    const last = levels[levels.length - 1];
    columns = last.columns >> 1;
    rows = last.rows >> 1;
    const half = new Uint16Array(columns * rows);
    for (let y = 0, to = 0; y < rows; y++) {
      let above = 2 * y * last.columns, below = above + last.columns;
      for (let x = 0; x < columns; x++, above += 2, below += 2) {
        const from = last.data;
        half[to++] = (from[above] + from[above + 1] + from[below] + from[below + 1] + 2) >> 2;
      }
    }
    levels.push({ data: half, columns, rows });
  }
  return levels;
}

/** Return before less after, in stored values, from -32768 on; what does not fit is cut. */
export function differencePlane(before, after) {
  const data = new Uint16Array(before.length);
  for (let i = 0; i < data.length; i++) {
    const difference = before[i] - after[i] + 32768;
    data[i] = difference < 0 ? 0 : difference > 65535 ? 65535 : difference;
  }
  return data;
}

/** Return how often each value occurs, but for padding, from a sample of at most a million pixels. */
export function histogramOf(data, padding, lowest, count) {
  const histogram = new Uint32Array(count);
  const step = Math.max(1, Math.floor(data.length / 1e6));
  for (let i = 0; i < data.length; i += step) if (data[i] < count) histogram[data[i]]++;
  if (padding) histogram.fill(0, Math.max(0, padding[0] - lowest), Math.max(0, padding[1] - lowest + 1));
  return histogram;
}
