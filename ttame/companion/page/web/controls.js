// The controls that change with the state: lists of photos, classes and methods, and the numbers.

import { percent } from "./numbers.js";

/** Make an element with properties and children; text is never read as HTML. */
export const make = (tag, values = {}, ...children) => {
  const element = Object.assign(document.createElement(tag), values);
  element.append(...children);
  return element;
};

const option = (name, value, checked, ...shown) =>
  make("label", {}, make("input", { type: "radio", name, value, checked }), ...shown);

/** Keep the focus where it is while a list is made anew. */
const renew = (place, children) => {
  const { name, value } = place.contains(document.activeElement) ? document.activeElement : {};
  place.replaceChildren(...children);
  if (name) place.querySelector(`[name="${name}"]:is([value="${value}"], :checked)`)?.focus();
};

/** List the photos. */
export const listPhotos = (place, photos, chosen) => renew(place, photos.map(({ name, image }, i) =>
  option("photo", i, i === chosen, make("img", { src: image, alt: name, title: name }))));

/** List classes with their probabilities. */
export const listClasses = (place, targets, chosen, labelOf, valueOf) =>
  renew(place, targets.map((target) => {
    const value = valueOf(target);
    const row = make("span", {}, labelOf(target), make("b", { textContent: percent(value) }));
    row.style.setProperty("--filled", `${100 * value}%`);
    return option("label", target, target === chosen, row);
  }));

/** List the classes that may stand beside the chosen one. */
export const listOthers = (select, targets, chosen, labelOf) => {
  select.replaceChildren(...targets.map((target) =>
    make("option", { value: target, textContent: labelOf(target), selected: target === chosen })));
};

/** List the methods; one without a map of this photo and class cannot be chosen. */
export const listMethods = (place, methods, chosen, available) =>
  renew(place, methods.map(({ name }, m) => {
    const shown = make("span");
    shown.innerHTML = `<svg class="tx-series-${m % 4} tx-chosen" viewBox="0 0 24 12" aria-hidden="true">` +
      '<path class="tx-line" d="M0 6H24"/></svg>';
    shown.append(name); // as text
    const row = option("method", m, m === chosen, shown);
    row.firstChild.disabled = !available(m);
    row.title = available(m) ? "" : "computed beforehand, for the samples' listed classes only";
    return row;
  }));

/** Tell the numbers of the chosen class. */
export const tell = (place, { label, whole, part, found, constant, answer }) => {
  const number = (title, text) => make("span", { className: "tx-number" },
    `${title} `, make("b", { textContent: text }));
  const lines = [
    make("span", {}, "Probability of ", make("strong", { textContent: label }), ": "),
    number("whole photo", percent(whole)),
    number(part, found ? percent(found.value) : "…"),
  ];
  if (constant) lines.push(make("span", { textContent: "This map is constant and ranks no pixel." }));
  if (answer) lines.push(make("span", { className: "tx-answer" }, "The classifier now sees ",
    make("strong", { textContent: answer.label }), `, ${percent(answer.value)}.`));
  lines.push(make("span", { className: "tx-origin", textContent: !found ? "Measuring …"
    : found.milliseconds === undefined ? "Measured beforehand, with PyTorch."
      : `Measured in this page, in ${Math.round(found.milliseconds)} ms.` }));
  place.replaceChildren(...lines);
};
