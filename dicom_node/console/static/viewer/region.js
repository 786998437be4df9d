// What a rectangle of an image says: mean, standard deviation, and the latter without the slope that anatomy has.

/**
 * Measure a rectangle of a plane, in stored values.
 *
 * @param padding Values that don't count, or null.
 * @returns count, mean, deviation, and `flat`: deviation after the best plane was taken off; NaN where padding is inside.
 */
export function measureRegion({ data, columns }, lowest, padding, { x, y, width, height }) {
  const [low, high] = padding ? [padding[0] - lowest, padding[1] - lowest] : [1, 0];
  // Sums of differences to one value: squares of large values would lose the small ones.
  const base = data[y * columns + x], middleX = (width - 1) / 2, middleY = (height - 1) / 2;
  let count = 0, sum = 0, squares = 0, alongX = 0, alongY = 0;
  for (let row = 0; row < height; row++) {
    let at = (y + row) * columns + x, inRow = 0;
    for (let column = 0; column < width; column++, at++) {
      const value = data[at];
      if (value >= low && value <= high) continue;
      const d = value - base;
      count++;
      inRow += d;
      squares += d * d;
      alongX += d * (column - middleX);
    }
    sum += inRow;
    alongY += inRow * (row - middleY);
  }
  if (!count) return { count, mean: NaN, deviation: NaN, flat: NaN };
  const mean = sum / count;
  const variance = Math.max(0, squares / count - mean * mean);
  let flat = NaN;
  if (count === width * height) {
    // Of places 0 to n-1 about their middle the mean square is (n² - 1) / 12.
    const spreadX = (width * width - 1) / 12, spreadY = (height * height - 1) / 12;
    const explained = (spreadX ? (alongX / count) ** 2 / spreadX : 0) + (spreadY ? (alongY / count) ** 2 / spreadY : 0);
    flat = Math.sqrt(Math.max(0, variance - explained));
  }
  return { count, mean: mean + base + lowest, deviation: Math.sqrt(variance), flat };
}

/** Return the rectangle between two places of an image, whole pixels, at least one. */
export function rectangleBetween(a, b, columns, rows) {
  const limit = (value, most) => Math.min(Math.max(Math.floor(value), 0), most - 1);
  const x0 = limit(Math.min(a.x, b.x), columns), x1 = limit(Math.max(a.x, b.x), columns);
  const y0 = limit(Math.min(a.y, b.y), rows), y1 = limit(Math.max(a.y, b.y), rows);
  return { x: x0, y: y0, width: x1 - x0 + 1, height: y1 - y0 + 1 };
}
