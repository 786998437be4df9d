// Numbers to words and tables beside the picture.
import { modalityValue } from "./tone.js";

const SIDES = ["before", "after"];

function set(find, selector, text) {
  find(selector).textContent = text;
}

function number(value, digits = 4) {
  return Number.isFinite(value) ? String(Number(value.toPrecision(digits))) : "–";
}

/** Show the values under the cursor: as stored, and after the Modality LUT where that changes them. */
export function showPoint(find, { point, values, frame, sigma }) {
  set(find, "#at", point ? `column ${point.x + 1}, row ${point.y + 1}` : "–");
  for (const side of SIDES) {
    const stored = values[side];
    set(find, `#${side}-stored`, stored === undefined ? "–" : String(stored));
    const changed = stored !== undefined && modalityValue(frame, stored);
    const unit = frame.unit && frame.unit !== "US" ? ` ${frame.unit}` : "";
    set(find, `#${side}-modality`, stored === undefined || changed === stored ? "" : `${number(changed, 6)}${unit}`);
  }
  const { before, after } = values;
  const isBoth = before !== undefined && after !== undefined;
  set(find, "#removed-stored", isBoth ? String(before - after) : "–");
  set(find, "#removed-sigma", isBoth && sigma ? `${((before - after) / sigma).toFixed(2)} σ` : "");
}

/** Show what a region says before and after. */
export function showRegion(find, { region, found, image }) {
  find("#region-result").hidden = false;
  for (const side of SIDES) {
    const { mean, deviation, flat } = found[side] ?? {};
    set(find, `#${side}-mean`, number(mean, 6));
    set(find, `#${side}-deviation`, number(deviation));
    set(find, `#${side}-flat`, number(flat));
  }
  const { before, after } = found;
  set(find, "#ratio-mean", before && after ? number(after.mean - before.mean) : "–");
  set(find, "#ratio-deviation", before && after ? number(after.deviation / before.deviation, 3) : "–");
  set(find, "#ratio-flat", before && after ? number(after.flat / before.flat, 3) : "–");
  const size = image.spacing_at
    ? `, ${number(region.width * image.column_spacing, 3)} × ${number(region.height * image.row_spacing, 3)} mm`
    : "";
  set(find, "#region-size", `${region.width} × ${region.height} pixels${size}; ${(found.before ?? found.after).count} counted`);
}

const VERDICTS = { good: "good", mild: "lowers the strength", refused: "original goes on" };

/** Show what measuring a frame again gave. */
export function showMeasurements(find, { frame, noise_before: before, noise_after: after, reason, removed, numbers }, frames) {
  const place = find("#measured");
  place.hidden = false;
  set(find, "#measured-noise", before === null || before === undefined
    ? reason
    : `${frames > 1 ? `Frame ${frame}: noise` : "Noise"} ${number(before)}${after === null ? "" : ` before, ${number(after)} after`}, in stored values.`);
  set(find, "#measured-removed", removed
    ? `Removed: mean ${number(removed.mean, 3)}, standard deviation ${number(removed.deviation)}, at most ${number(removed.largest)}; ` +
      `${(removed.changed * 100).toFixed(0)} % of the pixels changed.`
    : "");
  const rows = numbers.map(({ name, value, mild, refused, as_percent: isShare, low_is_bad: isLow, verdict }) => {
    const show = (v) => (isShare ? `${number(v * 100, 3)} %` : number(v, 3));
    const row = document.createElement("tr");
    const sign = isLow ? "<" : ">";
    const limits = [mild, refused].map((limit) => (limit === null ? "" : `${sign} ${show(limit)}`));
    for (const [tag, text] of [["th", name], ["td", show(value)], ["td", limits[0]], ["td", limits[1]], ["td", VERDICTS[verdict]]]) {
      const cell = document.createElement(tag);
      cell.textContent = text;
      if (tag === "th") cell.scope = "row";
      row.append(cell);
    }
    row.dataset.verdict = verdict;
    return row;
  });
  find("#measured tbody").replaceChildren(...rows);
  find("#measured table").hidden = !rows.length;
}
