// Stored values to grey: Modality LUT, VOI LUT and polarity as one table (PS3.3 C.11.1, C.11.2, C.7.6.3.1.2).

/** Return what a stored value means after the Modality LUT. */
export function modalityValue(frame, stored) {
  const table = frame.modality_table;
  if (table) return table.values[clamp(stored - table.first, 0, table.values.length - 1)];
  return stored * frame.slope + frame.intercept;
}

/** Return the grey, 0 to 1, of a value after the Modality LUT. */
export function voi(setting, value) {
  const { center, width } = setting;
  switch (setting.function) {
    case "TABLE": {
      const { first, bits, values } = setting.table;
      return values[clamp(Math.floor(value) - first, 0, values.length - 1)] / (2 ** bits - 1);
    }
    case "SIGMOID":
      return 1 / (1 + Math.exp((-4 * (value - center)) / width));
    case "LINEAR_EXACT":
      return clamp((value - center) / width + 0.5, 0, 1);
    default:
      // C.11.2.1.2: a width of 1 is a threshold.
      if (value <= center - 0.5 - (width - 1) / 2) return 0;
      if (value > center - 0.5 + (width - 1) / 2) return 1;
      return (value - (center - 0.5)) / (width - 1) + 0.5;
  }
}

/**
 * Return the grey, 0 to 255, of each stored value from image.lowest on.
 *
 * Padding is black whatever the polarity: a collimated border that shines white would dazzle.
 */
export function toneTable(image, frame, setting, inverted) {
  const table = new Uint8Array(65536);
  const count = image.highest - image.lowest + 1;
  for (let index = 0; index < count; index++) {
    const grey = Math.round(255 * voi(setting, modalityValue(frame, index + image.lowest)));
    table[index] = inverted ? 255 - grey : grey;
  }
  table.fill(table[count - 1], count);
  if (image.padding) {
    const [low, high] = image.padding;
    table.fill(0, clamp(low - image.lowest, 0, count), clamp(high - image.lowest + 1, 0, count));
  }
  return table;
}

export const NO_DIFFERENCE = 32768;

/** Return the grey of each difference from -32768 on: mid-grey for none, black and white at -half and +half. */
export function noiseTable(half) {
  const table = new Uint8Array(65536);
  for (let index = 0; index < 65536; index++) {
    table[index] = clamp(Math.round(128 + (127 * (index - NO_DIFFERENCE)) / half), 0, 255);
  }
  return table;
}

/** Return the windows and tables that an image offers, each with its name. */
export function presetsOf(frame) {
  const named = (item, other) => (item.explanation ? item.explanation : other);
  return [
    ...frame.windows.map((window, index) => ({ ...window, name: named(window, `Window ${index + 1}`) })),
    ...frame.tables.map((table, index) => ({ function: "TABLE", table, name: named(table, `VOI LUT ${index + 1}`) })),
  ];
}

/** Return the window over all values that can be stored. */
export function fullRange(image, frame) {
  return windowBetween(modalityValue(frame, image.lowest), modalityValue(frame, image.highest));
}

/** Return the window from one percentile of a histogram of stored values to another. */
export function percentileWindow(image, frame, histogram, low, high) {
  let total = 0;
  for (const count of histogram) total += count;
  const at = (share) => {
    let left = share * total;
    for (let index = 0; index < histogram.length; index++) {
      left -= histogram[index];
      if (left <= 0 && histogram[index]) return index + image.lowest;
    }
    return image.highest;
  };
  return windowBetween(modalityValue(frame, at(low)), modalityValue(frame, at(high)));
}

/** Return the linear window that is nearest to a setting, to go on from by dragging. */
export function asWindow(setting) {
  if (setting.function !== "TABLE") return setting;
  const { first, values } = setting.table;
  return windowBetween(first, first + values.length - 1);
}

function windowBetween(a, b) {
  const low = Math.min(a, b), high = Math.max(a, b);
  // LINEAR reaches black at low and white at high.
  return { function: "LINEAR", center: (low + high + 1) / 2, width: Math.max(high - low + 1, 2) };
}

export function clamp(value, low, high) {
  return value < low ? low : value > high ? high : value;
}
