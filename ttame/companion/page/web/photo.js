// From an image file to what the classifier sees, as `ttame.images` prepares it.

import { roundHalfEven } from "./numbers.js";
import { resize } from "./resize.js";

const MAX_ASPECT = 4; // panoramas are cut to this many times the input's aspect ratio

/** What is wrong with a photo, in words for the reader. */
export class PhotoError extends Error {}

/** Decode an image file, upright, without converting colours, as Pillow does. */
export const decode = async (file) => {
  try {
    return await createImageBitmap(file, {
      imageOrientation: "from-image", colorSpaceConversion: "none", premultiplyAlpha: "none",
    });
  } catch (error) {
    const size = `${(file.size / 1e6).toFixed(1)}\u202fMB`;
    throw new PhotoError(
      `“${file.name}” (${size}) cannot be decoded: it is damaged, of a kind that this browser does ` +
      "not read, or too large for it. JPEG, PNG and WebP are read; make a large photo smaller first."
    );
  }
};

const canvasContext = (width, height) => {
  const canvas = Object.assign(document.createElement("canvas"), { width, height });
  const context = canvas.getContext("2d", { willReadFrequently: true });
  if (!context) throw new PhotoError("This browser has no memory left for a picture.");
  return context;
};

/** Return the RGBA bytes of a bitmap's part in strips, over white where it is transparent. */
const sourceOf = (bitmap, [left, top, right, bottom]) => {
  const width = right - left;
  let context;
  const rows = (first, count) => {
    if (context?.canvas.height !== count) context = canvasContext(width, count);
    context.fillStyle = "#fff";
    context.fillRect(0, 0, width, count);
    context.drawImage(bitmap, left, top + first, width, count, 0, 0, width, count);
    return context.getImageData(0, 0, width, count).data;
  };
  return { width, height: bottom - top, rows };
};

/** The centre of an extreme panorama, and of any other photo all of it. */
const inner = (width, height, [tall, wide]) => {
  const across = Math.min(width, Math.max(Math.floor(MAX_ASPECT * height * wide / tall), 1));
  const down = Math.min(height, Math.max(Math.floor(MAX_ASPECT * width * tall / wide), 1));
  const left = Math.floor((width - across) / 2), top = Math.floor((height - down) / 2);
  return [left, top, left + across, top + down];
};

/** Width and height to which a photo is resized: it covers the enlarged crop, or is stretched. */
const covering = (width, height, { size, resize: wanted }) => {
  if (Array.isArray(wanted)) return [wanted[1], wanted[0]];
  const share = wanted / Math.min(...size);
  const [tall, wide] = size.map((side) => roundHalfEven(side * share));
  if (width * tall <= height * wide) return [wide, Math.floor(wide * height / width)];
  return [Math.floor(tall * width / height), tall];
};

/** Where a crop from the centre begins; negative where it pads. */
const start = (scaled, kept) =>
  scaled >= kept ? roundHalfEven((scaled - kept) / 2) : -Math.floor((kept - scaled) / 2);

/**
 * Resize and crop a decoded photo for the classifier.
 *
 * @param bitmap An ImageBitmap.
 * @param facts `{size: [H, W], resize, interpolation}` of the classifier.
 * @returns RGB bytes, `H × W × 3`.
 */
export const prepare = (bitmap, facts) => {
  const [height, width] = facts.size;
  const box = Array.isArray(facts.resize)
    ? [0, 0, bitmap.width, bitmap.height] : inner(bitmap.width, bitmap.height, facts.size);
  const source = sourceOf(bitmap, box);
  const [wide, tall] = covering(source.width, source.height, facts);
  const scaled = resize(source, wide, tall, facts.interpolation);
  const left = start(wide, width), top = start(tall, height);
  const result = new Uint8Array(height * width * 3); // black where it pads
  for (let y = Math.max(0, -top); y < Math.min(height, tall - top); y++) {
    const first = Math.max(0, left), last = Math.min(wide, left + width);
    const row = scaled.subarray(3 * ((y + top) * wide + first), 3 * ((y + top) * wide + last));
    result.set(row, 3 * (y * width + first - left));
  }
  return result;
};

/** Whether this browser alters the pixels that pages read, as some do against fingerprinting. */
export const altersPixels = () => {
  const context = canvasContext(16, 16);
  context.fillStyle = "rgb(10, 120, 230)";
  context.fillRect(0, 0, 16, 16);
  const expected = [10, 120, 230, 255];
  return context.getImageData(0, 0, 16, 16).data.some((v, i) => Math.abs(v - expected[i % 4]) > 2);
};
