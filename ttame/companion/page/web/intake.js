// How readers bring their own photos and classes: files, camera, drop, paste, search.

import { createSearch } from "./search.js";

/**
 * Make the intake work.
 *
 * @param open Called with a list of files.
 * @param pick Called with the index of a class and the part of the state that it is for.
 * @param start Called to start the network.
 * @param names Full names of all classes.
 * @param pasted Whether photos pasted into the document are meant for this part of it.
 */
export const wireIntake = (root, { open, pick, start, names, pasted }) => {
  const find = (selector) => root.querySelector(selector);
  find(".tx-start").addEventListener("click", start);
  for (const input of root.querySelectorAll("input[type=file]")) {
    input.addEventListener("change", () => {
      open([...input.files]);
      input.value = ""; // the same file may be chosen again
    });
  }
  root.addEventListener("dragover", (event) => {
    if (!event.dataTransfer.types.includes("Files")) return;
    event.preventDefault();
    root.classList.add("tx-over");
  });
  for (const name of ["dragleave", "drop"]) {
    root.addEventListener(name, () => root.classList.remove("tx-over"));
  }
  root.addEventListener("drop", (event) => {
    if (event.dataTransfer.files.length === 0) return;
    event.preventDefault();
    open([...event.dataTransfer.files]);
  });
  if (pasted) document.addEventListener("paste", ({ clipboardData }) => {
    const files = [...clipboardData.files].filter(({ type }) => type.startsWith("image/"));
    if (files.length > 0) open(files);
  });
  createSearch(find(".tx-classes .tx-search"), names, (target) => pick(target, "target"));
  createSearch(find(".tx-other .tx-search"), names, (target) => pick(target, "other"));
};
