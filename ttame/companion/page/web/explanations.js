// What is known of each photo: computed beforehand, or by the network in this page.

import { classifierInput, enlarge, keepTop, normalizeMap } from "./maps.js";
import { bytesOf, inflate, probabilities, roundHalfEven } from "./numbers.js";
import { addressOf, plain } from "./paint.js";
import { decode, prepare } from "./photo.js";

/** Read a map computed beforehand: bytes, each but the first a difference to the one before. */
const unpackMap = async (text) => {
  const map = await inflate([bytesOf(text)], "deflate");
  for (let i = 1; i < map.length; i++) map[i] += map[i - 1];
  return Float64Array.from(map, (value) => value / 255);
};

const remembered = (store, key, make) => {
  if (!store.has(key)) {
    const made = make();
    store.set(key, made);
    made.catch(() => store.delete(key)); // a failure may be asked for again
  }
  return store.get(key);
};

/**
 * Gather explanations from the page's data and, where there is one, its network.
 *
 * @param data What `Exploration.data` holds.
 * @param engine From `createEngine`, or undefined.
 */
export const createExplanations = (data, engine) => {
  const { live, size, shares, methods } = data;
  const area = size[0] * size[1];
  const photoOf = (facts) =>
    ({ extra: [], masks: new Map(), runs: new Map(), measured: new Map(), ...facts });
  const photos = data.photos.map((photo) =>
    photoOf({ ...photo, image: `data:image/webp;base64,${photo.webp}` }));

  /** Read and explain a photo of the reader's; returns its position. */
  const open = async (file) => {
    const bitmap = await decode(file);
    const pixels = prepare(bitmap, { ...live, size });
    bitmap.close();
    const photo = photoOf({
      name: file.name, image: addressOf(plain(pixels, size)), pixels: Promise.resolve(pixels),
      targets: [], classes: [], whole: [],
    });
    await explain(photo);
    return photos.push(photo) - 1;
  };

  /** RGB bytes that the classifier sees of a photo. */
  const pixelsOf = (photo) => (photo.pixels ??= (async () => {
    const bitmap = await decode(new File([bytesOf(photo.webp)], photo.name));
    return prepare(bitmap, { size, resize: size, interpolation: "nearest" });
  })());

  const place = (photo, target) => photo.targets.indexOf(target);
  const isOwn = (method) => live !== null && methods[method].name === live.method;

  /** Whether the network gives this map: where it must, and whenever it runs. */
  const isLive = (photo, method, target) =>
    isOwn(method) && (engine.running() || place(photo, target) < 0);

  /** Whether there is a map at all: of other methods, only what was computed beforehand. */
  const has = (photo, method, target) => isOwn(method) || place(photo, target) >= 0;

  /** Run the network on a photo, for a class or, with -1, for the predicted one. */
  const explain = (photo, target = -1) => remembered(photo.runs, target, async () => {
    const input = classifierInput(await pixelsOf(photo), live);
    const found = await engine.run(input, [3, ...size], target);
    photo.probabilities ??= probabilities(found.logits, live.activation);
    if (target < 0 && !photo.runs.has(found.target)) {
      photo.runs.set(found.target, Promise.resolve(found));
    }
    return found;
  });

  /** The network's raw map of a class, or the stored one in 256 steps: `{map, size}`. */
  const mapOf = async (photo, method, target) => {
    if (isLive(photo, method, target)) return explain(photo, target);
    const { maps, size: stored } = methods[method];
    const packed = maps[photos.indexOf(photo)][place(photo, target)];
    return { map: await unpackMap(packed), size: stored };
  };

  /** A map scaled to [0, 1] and enlarged to the photo, `H × W`. */
  const maskOf = (photo, method, target) => {
    const key = [method, target, isLive(photo, method, target)].join();
    return remembered(photo.masks, key, async () => {
      const found = await mapOf(photo, method, target);
      return enlarge(normalizeMap(found.map), found.size, size);
    });
  };

  const keep = (mask, share) => keepTop(mask, roundHalfEven((share / 100) * area));

  /** Whether a map has one value everywhere and so ranks no pixel. */
  const isConstant = async (photo, method, target) =>
    (await maskOf(photo, method, target)).every((value, _, all) => value === all[0]);

  const key = (method, target, share) => [method, target, share].join();

  /** Probability of a class on the whole photo; undefined before it is known. */
  const whole = (photo, target) => photo.probabilities?.[target] ?? photo.whole[place(photo, target)];

  /** Probability of a class with a share of the pixels, and where from; undefined if unknown. */
  const known = (photo, method, target, share) => {
    const measured = photo.measured.get(key(method, target, share));
    if (measured) return measured;
    const step = shares.indexOf(share), row = place(photo, target);
    if (step < 0 || row < 0) return undefined;
    return { value: methods[method].masked[photos.indexOf(photo)][row][step] };
  };

  /** Let the network classify the masked photo: `{value, milliseconds, probabilities}`. */
  const measure = async (photo, method, target, share) => {
    const found = photo.measured.get(key(method, target, share));
    if (found) return found;
    const mask = keep(await maskOf(photo, method, target), share);
    const input = classifierInput(await pixelsOf(photo), live, mask);
    const { logits, milliseconds } = await engine.run(input, [3, ...size], target);
    const all = probabilities(logits, live.activation);
    const result = { value: all[target], milliseconds, probabilities: all };
    photo.measured.set(key(method, target, share), result);
    return result;
  };

  /** Whether a probability is still to be measured, by a network that runs. */
  const isDue = (photo, method, target, share) => has(photo, method, target)
    && !photo.measured.has(key(method, target, share))
    && (isLive(photo, method, target) || !known(photo, method, target, share));

  /** Classes to offer for a photo: the most probable ones, and those the reader asked for. */
  const offered = (photo, wanted) => {
    const found = photo.targets.length > 0 ? [...photo.targets] : likely(photo, data.top);
    for (const target of [...photo.extra, ...wanted]) {
      if (target !== null && !found.includes(target)) found.push(target);
    }
    return found;
  };
  const likely = ({ probabilities: values }, count) => (values
    ? Array.from(values.keys()).sort((a, b) => values[b] - values[a]).slice(0, count) : []);

  const labelOf = (target) => {
    if (live) return live.labels[target];
    const photo = photos.find(({ targets }) => targets.includes(target));
    return photo.classes[place(photo, target)];
  };

  return {
    photos, open, pixelsOf, explain, mapOf, maskOf, keep, has, isLive, isOwn, isConstant, whole, known,
    isDue, measure, offered, labelOf,
  };
};
