// Small conversions that several modules need.

/** Round to the nearest whole number, halves to the even one, as Python does. */
export const roundHalfEven = (value) => {
  const near = Math.round(value);
  return Math.abs(value % 1) === 0.5 && near % 2 !== 0 ? near - 1 : near;
};

/** Decode base64 text, or a stretch of it that begins and ends between groups of four. */
export const bytesOf = (text) => {
  const letters = atob(text), bytes = new Uint8Array(letters.length);
  for (let i = 0; i < letters.length; i++) bytes[i] = letters.charCodeAt(i);
  return bytes;
};

/** Decompress chunks of bytes; `format` is "gzip" or "deflate". */
export const inflate = async (chunks, format) => {
  const stream = new Blob(chunks).stream().pipeThrough(new DecompressionStream(format));
  return new Uint8Array(await new Response(stream).arrayBuffer());
};

/** Write a probability in [0, 1] as a percentage, one that is not known yet as dots. */
export const percent = (value) => {
  if (value === undefined) return "…";
  return value > 0 && value < 0.0005 ? "< 0.1\u202f%" : `${(100 * value).toFixed(1)}\u202f%`;
};

/** Turn a classifier's outputs into probabilities, as `ttame.classifiers.outputs` does. */
export const probabilities = (outputs, activation) => {
  if (activation === "sigmoid") return outputs.map((value) => 1 / (1 + Math.exp(-value)));
  if (activation === "none") return outputs.map((value) => Math.min(1, Math.max(0, value)));
  const most = outputs.reduce((a, b) => Math.max(a, b), -Infinity);
  const powers = Float64Array.from(outputs, (value) => Math.exp(value - most));
  const sum = powers.reduce((a, b) => a + b, 0);
  return powers.map((value) => value / sum);
};
