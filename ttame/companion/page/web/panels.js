// The pictures that a state asks for: one, two classes and their difference, or several methods.

import { percent } from "./numbers.js";
import { difference, largestGap, masked, overlay } from "./paint.js";

/**
 * List the panels of a state.
 *
 * @returns `{caption, label, method, target, picture}` each: a heading, a description, what is
 *   explained (no target for a difference), and a function that draws the picture.
 */
export const panelsOf = (state, explanations, { data, colors, signed }) => {
  const { photo: position, view, share, opacity } = state;
  const { photos, pixelsOf, maskOf, keep, has, labelOf } = explanations;
  const photo = photos[position];
  const part = `top ${share}\u202f% of pixels`;

  const panel = (method, target) => {
    const name = data.methods[method].name, label = labelOf(target);
    const picture = async () => {
      const [pixels, whole] = await Promise.all([pixelsOf(photo), maskOf(photo, method, target)]);
      const mask = keep(whole, share);
      return view === "masked"
        ? masked(pixels, data.size, data.fill, mask)
        : overlay(pixels, data.size, colors, opacity, mask);
    };
    return {
      method, target, picture,
      caption: state.beside === "methods" ? name : label,
      label: view === "masked"
        ? `Photo “${photo.name}”, ${part} that ${name} ranks for ${label}`
        : `Photo “${photo.name}” under the ${name} map of ${label}, ${part}`,
    };
  };

  const between = (method, target, other) => {
    const made = {
      caption: `${labelOf(target)} − ${labelOf(other)}`,
      label: `Difference of the maps of ${labelOf(target)} and ${labelOf(other)} on “${photo.name}”`,
      picture: async () => {
        const [pixels, one, two] = await Promise.all([
          pixelsOf(photo), maskOf(photo, method, target), maskOf(photo, method, other)]);
        made.numbers =
          `red: more for ${labelOf(target)}, blue: more for ${labelOf(other)}; ` +
          `at most ${largestGap(one, two).toFixed(2)}`;
        return difference(pixels, data.size, signed, one, two);
      },
    };
    return made;
  };

  const { beside, method, target, other } = state;
  if (beside === "class" && other !== null) {
    const pair = [panel(method, target), panel(method, other)];
    return view === "masked" ? pair : [...pair, between(method, target, other)];
  }
  if (beside === "methods") {
    return data.methods.flatMap((_, m) => (has(photo, m, target) ? [panel(m, target)] : []));
  }
  return [panel(method, target)];
};

/** What a panel's numbers say: "93.1 % → 91.0 %", the whole photo and the masked one. */
export const numbersOf = ({ method, target, numbers }, photo, share, { whole, known }) => {
  if (numbers) return numbers; // of a difference, found with its picture
  const masked = known(photo, method, target, share);
  return `${percent(whole(photo, target))} → ${masked ? percent(masked.value) : "…"}`;
};
