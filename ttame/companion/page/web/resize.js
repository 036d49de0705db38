// Pillow's resize, to the bit: a canvas scales otherwise, differently in each browser.
//
// Two passes over 8-bit channels, across and then down, each rounded to 8 bits; filters are widened
// where the picture shrinks, and their weights are whole numbers of 2^-22.

const BITS = 22;
const sinc = (x) => (x === 0 ? 1 : Math.sin(Math.PI * x) / (Math.PI * x));

// Reach of each filter in pixels, and its weight at a distance.
const FILTERS = {
  box: [0.5, (x) => (x > -0.5 && x <= 0.5 ? 1 : 0)],
  bilinear: [1, (x) => Math.max(0, 1 - Math.abs(x))],
  hamming: [1, (x) => (Math.abs(x) < 1 ? sinc(x) * (0.54 + 0.46 * Math.cos(Math.PI * x)) : 0)],
  bicubic: [2, (x) => {
    const a = -0.5, d = Math.abs(x);
    if (d < 1) return ((a + 2) * d - (a + 3)) * d * d + 1;
    return d < 2 ? (((d - 5) * d + 8) * d - 4) * a : 0;
  }],
  lanczos: [3, (x) => (x >= -3 && x < 3 ? sinc(x) * sinc(x / 3) : 0)],
};
export const INTERPOLATIONS = [...Object.keys(FILTERS), "nearest", "nearest-exact"];

/** For each place of the output, where its window of the input begins and the weights in it. */
const windows = (from, to, filter) => {
  const scale = from / to, widened = Math.max(scale, 1);
  const [reach, weigh] = FILTERS[filter];
  return Array.from({ length: to }, (_, place) => {
    const centre = (place + 0.5) * scale;
    const first = Math.max(0, Math.trunc(centre - reach * widened + 0.5));
    const last = Math.min(from, Math.trunc(centre + reach * widened + 0.5));
    const weights = [];
    for (let i = first; i < last; i++) weights.push(weigh((i - centre + 0.5) / widened));
    const sum = weights.reduce((a, b) => a + b, 0);
    const whole = weights.map((weight) => {
      const value = (sum === 0 ? weight : weight / sum) * 2 ** BITS;
      return Math.trunc(value < 0 ? value - 0.5 : value + 0.5);
    });
    return { first, weights: Int32Array.from(whole) };
  });
};

const nearest = (from, to) => Array.from({ length: to }, (_, place) => ({
  first: Math.min(from - 1, Math.floor((place + 0.5) * from / to)), weights: Int32Array.of(2 ** BITS),
}));

const plan = (from, to, filter) =>
  (filter.startsWith("nearest") ? nearest : windows)(from, to, filter);

const clip = (sum) => Math.min(255, Math.max(0, sum >> BITS));

/**
 * Resize a picture.
 *
 * @param source `{width, height, rows}`; `rows(top, count)` returns RGBA bytes. A picture is read in
 *   strips, so that a large one need not be in memory twice.
 * @param width, height Size of the result.
 * @param filter One of INTERPOLATIONS.
 * @returns RGB bytes, `height × width × 3`.
 */
export const resize = (source, width, height, filter) => {
  const across = plan(source.width, width, filter);
  const down = plan(source.height, height, filter);
  const narrow = new Uint8Array(source.height * width * 3);
  const strip = Math.max(1, Math.floor(2 ** 22 / source.width));
  for (let top = 0; top < source.height; top += strip) {
    const count = Math.min(strip, source.height - top);
    const pixels = source.rows(top, count);
    for (let y = 0; y < count; y++) {
      let at = (top + y) * width * 3;
      for (const { first, weights } of across) {
        for (let c = 0; c < 3; c++) {
          let sum = 1 << (BITS - 1), from = 4 * (y * source.width + first) + c;
          for (let i = 0; i < weights.length; i++, from += 4) sum += pixels[from] * weights[i];
          narrow[at++] = clip(sum);
        }
      }
    }
  }
  const result = new Uint8Array(height * width * 3);
  down.forEach(({ first, weights }, y) => {
    for (let x = 0; x < 3 * width; x++) {
      let sum = 1 << (BITS - 1), from = first * width * 3 + x;
      for (let i = 0; i < weights.length; i++, from += 3 * width) sum += narrow[from] * weights[i];
      result[y * width * 3 + x] = clip(sum);
    }
  });
  return result;
};
