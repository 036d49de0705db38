// What only the browser knows of a page; `reader.py` runs this in every page of the book.
async () => {
  const name = (element) => {
    const text = element.textContent.trim().replace(/\s+/g, " ").slice(0, 40);
    const kind = [element.localName, ...element.classList].join(".");
    return text ? `${kind} "${text}"` : kind;
  };
  const contained = (element, box) => {
    for (let at = element.parentElement; at && at !== box; at = at.parentElement)
      if (getComputedStyle(at).overflowX !== "visible") return true;
    return false;
  };
  // A box that holds the page's title must not scroll sideways: what is too wide, such as a table
  // or a formula, scrolls in a box of its own.
  const wide = () => {
    for (let box = document.querySelector("h1") ?? document.body; box; box = box.parentElement) {
      if (!box.clientWidth || box.scrollWidth <= box.clientWidth + 1) continue;
      const edge = Math.max(box.getBoundingClientRect().left, 0) + box.clientWidth + 1;
      const over = [...box.querySelectorAll("*")].filter(
        (each) => each.getBoundingClientRect().right > edge && !contained(each, box));
      const inner = over.filter((each) => !over.some((other) => each.contains(other) && other !== each));
      return {box: name(box).split(" ")[0], parts: inner.slice(0, 3).map(name)};
    }
    return null;
  };
  // What pandas writes where there is no number.
  const lacking = [...document.querySelectorAll("td, th")]
    .filter((cell) => /^(nan|nat|<na>)$/i.test(cell.textContent.trim()))
    .map((cell) => `${cell.textContent.trim()} in ${name(cell.parentElement)}`);
  const images = [...document.images];
  for (const image of images) image.loading = "eager";
  await Promise.all(images.map((image) => image.decode().catch(() => null)));
  await window.MathJax?.startup?.promise;
  return {
    anchors: [...document.querySelectorAll("[id], a[name]")].flatMap((each) => [each.id, each.name]),
    links: [...new Set([...document.links].map((link) => link.href))],
    images: images.map((image) => ({
      source: image.getAttribute("src") ?? "", alt: image.getAttribute("alt") ?? "",
      loaded: image.naturalWidth > 0, decoration: image.closest("[aria-hidden=true]") !== null,
    })),
    formulas: [...document.querySelectorAll("[data-mjx-error]")].map((each) => each.dataset.mjxError),
    theme: document.documentElement.dataset.theme ?? null,
    wide: wide(),
    lacking: [...new Set(lacking)],
  };
}
