// Pictures on canvases. Pixels are computed here, not by the graphics card.

/** Lay colours over a photo: each pixel's opacity, and its place in a table of 256 RGB colours. */
const lay = (pixels, [height, width], colors, opacity, index) => {
  const picture = new ImageData(width, height);
  for (let i = 0; i < height * width; i++) {
    const color = 3 * Math.min(255, Math.max(0, Math.floor(index(i)))), part = opacity(i);
    for (let c = 0; c < 3; c++) {
      picture.data[4 * i + c] = (1 - part) * pixels[3 * i + c] + part * colors[color + c];
    }
    picture.data[4 * i + 3] = 255;
  }
  return picture;
};

/** A photo under the colours of a mask in [0, 1]. */
export const overlay = (pixels, size, colors, opacity, mask) =>
  lay(pixels, size, colors, () => opacity, (i) => 256 * mask[i]);

/** The difference of two masks, one hue per sign, over the photo in grey where they agree. */
export const difference = (pixels, size, colors, mask, other) => {
  const grey = new Uint8Array(pixels.length);
  for (let i = 0; i < pixels.length; i += 3) {
    grey.fill(0.299 * pixels[i] + 0.587 * pixels[i + 1] + 0.114 * pixels[i + 2], i, i + 3);
  }
  const limit = largestGap(mask, other) || 1;
  const gap = (i) => (mask[i] - other[i]) / limit;
  return lay(grey, size, colors, (i) => Math.abs(gap(i)), (i) => 128 + 128 * gap(i));
};

/** The largest difference of two masks, in [0, 1], as which colours are strongest. */
export const largestGap = (mask, other) =>
  mask.reduce((most, value, i) => Math.max(most, Math.abs(value - other[i])), 0);

/** A photo multiplied by a mask; `fill` is the colour where it is 0. */
export const masked = (pixels, [height, width], fill, mask) => {
  const picture = new ImageData(width, height);
  for (let i = 0; i < height * width; i++) {
    for (let c = 0; c < 3; c++) {
      picture.data[4 * i + c] = fill[c] + mask[i] * (pixels[3 * i + c] - fill[c]);
    }
    picture.data[4 * i + 3] = 255;
  }
  return picture;
};

/** A photo as it is. */
export const plain = (pixels, size) =>
  masked(pixels, size, [0, 0, 0], new Uint8Array(pixels.length / 3).fill(1));

/** Put a picture on a canvas, which takes its size. */
export const show = (canvas, picture) => {
  if (canvas.width !== picture.width) canvas.width = picture.width;
  if (canvas.height !== picture.height) canvas.height = picture.height;
  canvas.getContext("2d", { willReadFrequently: true }).putImageData(picture, 0, 0);
};

/** The address of a picture, for an image. */
export const addressOf = (picture) => {
  const canvas = document.createElement("canvas");
  show(canvas, picture);
  return canvas.toDataURL();
};

/** Show a table of 256 colours as a strip. */
export const ramp = (canvas, colors) => {
  const picture = new ImageData(256, 1);
  picture.data.forEach((_, i) => { picture.data[i] = i % 4 < 3 ? colors[3 * (i >> 2) + (i % 4)] : 255; });
  show(canvas, picture);
};

/** Set pictures side by side on one canvas, each with a caption, above a line of text. */
export const compose = (panels, line) => {
  const side = 448, gap = 16, text = 26;
  const canvas = document.createElement("canvas");
  const scale = side / panels[0].canvas.width;
  const tall = panels[0].canvas.height * scale;
  canvas.width = panels.length * (side + gap) + gap;
  canvas.height = gap + tall + text + gap + text;
  const context = canvas.getContext("2d");
  context.fillStyle = "#fff";
  context.fillRect(0, 0, canvas.width, canvas.height);
  context.fillStyle = "#1d2430";
  context.font = "18px system-ui, sans-serif";
  panels.forEach(({ canvas: picture, caption }, i) => {
    const left = gap + i * (side + gap);
    context.drawImage(picture, left, gap, side, tall);
    context.fillText(caption, left, gap + tall + 20, side);
  });
  context.font = "14px system-ui, sans-serif";
  context.fillText(line, gap, canvas.height - gap, canvas.width - 2 * gap);
  return canvas;
};
