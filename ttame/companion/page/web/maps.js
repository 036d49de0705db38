// From explanation maps to masks and masked photos, as `ttame.masking`.

/** Scale a map to [0, 1] by its own minimum and maximum; a constant one keeps its value. */
export const normalizeMap = (map) => {
  const low = map.reduce((a, b) => Math.min(a, b), Infinity);
  const span = map.reduce((a, b) => Math.max(a, b), -Infinity) - low;
  return Float64Array.from(map, (value) =>
    span > 0 ? (value - low) / span : Math.min(1, Math.max(0, value)));
};

/** Enlarge a map bilinearly, as torch's interpolate with align_corners=False. */
export const enlarge = (map, [h, w], [height, width]) => {
  const steps = (from, to) => Array.from({ length: to }, (_, i) => {
    const place = Math.max(0, ((i + 0.5) * from) / to - 0.5);
    const low = Math.min(Math.floor(place), from - 1);
    return [low, Math.min(low + 1, from - 1), place - low];
  });
  const rows = steps(h, height), columns = steps(w, width);
  const mix = (a, b, part) => a + part * (b - a);
  const values = new Float64Array(height * width);
  rows.forEach(([top, bottom, down], i) => columns.forEach(([left, right, along], j) => {
    const upper = mix(map[top * w + left], map[top * w + right], along);
    const lower = mix(map[bottom * w + left], map[bottom * w + right], along);
    values[i * width + j] = mix(upper, lower, down);
  }));
  return values;
};

/** Keep the top `count` values and set all others to 0; of ties the first are kept. */
export const keepTop = (values, count) => {
  if (count === values.length) return values;
  const limit = values.slice().sort()[values.length - count];
  let ties = count;
  for (const value of values) if (value > limit) ties--;
  return values.map((v) => (v > limit || (v === limit && ties-- > 0) ? v : 0));
};

/**
 * Normalise a photo for the classifier, masked where a mask is given.
 *
 * @param pixels RGB bytes, `H × W × 3`.
 * @param facts `{mean, std, space}` of the classifier.
 * @param mask Values in [0, 1], `H × W`.
 * @returns Float32Array, `3 × H × W`.
 */
export const classifierInput = (pixels, { mean, std, space }, mask) => {
  const count = pixels.length / 3;
  const result = new Float32Array(pixels.length);
  for (let c = 0; c < 3; c++) {
    const base = space === "raw" ? -mean[c] / std[c] : 0; // what masked pixels turn into
    for (let i = 0; i < count; i++) {
      const value = (pixels[3 * i + c] / 255 - mean[c]) / std[c];
      result[c * count + i] = mask ? base + mask[i] * (value - base) : value;
    }
  }
  return result;
};
