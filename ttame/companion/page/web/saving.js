// What readers take along: the pictures that are shown, and a link to them.

import { compose } from "./paint.js";

/**
 * Make the buttons work.
 *
 * @param describe Returns `{photo, label, line}` of what is shown, for the file's name and the picture.
 * @param linked Whether the address of the page holds the state.
 */
export const wireSaving = (root, describe, linked) => {
  const find = (selector) => root.querySelector(selector);
  const save = () => {
    const panels = [...find(".tx-frame").children].map((figure) => ({
      canvas: figure.querySelector("canvas"),
      caption: [...figure.querySelectorAll("figcaption span")].map((part) => part.textContent).join("  "),
    }));
    const { photo, label, line } = describe();
    compose(panels, line).toBlob((blob) => {
      const href = URL.createObjectURL(blob);
      const name = [photo.replace(/\.\w+$/, ""), label].map((text) => text.replace(/[^\p{L}\p{N}]+/gu, "_"));
      Object.assign(document.createElement("a"), { href, download: `${name.join(".")}.png` }).click();
      setTimeout(() => URL.revokeObjectURL(href), 10_000);
    });
  };
  const copy = async () => {
    await navigator.clipboard.writeText(location.href);
    find(".tx-said").textContent = "Copied.";
  };
  find(".tx-save").addEventListener("click", save);
  find(".tx-copy").addEventListener("click", copy);
  find(".tx-copy").hidden = !linked || !navigator.clipboard;
};
