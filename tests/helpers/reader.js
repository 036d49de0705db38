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
  // What scrolls in a box of its own is cut where its reader looks first.
  const scrolling = (element) => {
    for (let box = element; box && !box.querySelector("h1, body"); box = box.parentElement) {
      if (!box.clientWidth || box.scrollWidth <= box.clientWidth + 1) continue;
      if (getComputedStyle(box).overflowX === "visible") continue;
      return `${box.scrollWidth} px in ${box.clientWidth} px, ${name(element)}`;
    }
    return null;
  };
  const cut = (selector) => [...document.querySelectorAll(selector)]
    .filter((each) => !each.closest(".cell.tag_wide")).map(scrolling).filter(Boolean);
  // Formulas are measured by what is drawn, since their text for screen readers takes room, too.
  const formulas = [...document.querySelectorAll("mjx-container > svg")].map((drawn) => {
    let box = drawn.parentElement;
    while (box && getComputedStyle(box).overflowX === "visible") box = box.parentElement;
    const {width, height} = drawn.getBoundingClientRect();
    return {drawn, box, width, height, inside: box ?? document.documentElement};
  });
  const told = ({drawn, inside}, value, length) =>
    `${Math.round(value)} px in ${length} px, ${name(drawn.parentElement)}`;
  const long = formulas.filter((it) => it.width > it.inside.clientWidth + 1 && it.inside.clientWidth)
    .map((it) => told(it, it.width, it.inside.clientWidth));
  const low = formulas.filter((it) => it.height > it.inside.clientHeight + 1 && it.inside.clientHeight)
    .map((it) => told(it, it.height, it.inside.clientHeight));
  // Text against the first opaque ground behind it, by the ratio of WCAG.
  const channels = (color) => color.match(/[\d.]+/g).map(Number);
  const luminance = (color) => {
    const [r, g, b] = channels(color).map((x) => x / 255)
      .map((x) => (x <= 0.04045 ? x / 12.92 : ((x + 0.055) / 1.055) ** 2.4));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const ground = (element) => {
    for (let at = element; at; at = at.parentElement) {
      const color = getComputedStyle(at).backgroundColor;
      if ((channels(color)[3] ?? 1) > 0.5) return color;
    }
    return "rgb(255, 255, 255)";
  };
  // Colours that are on their way from one theme to the other have arrived.
  for (const each of document.getAnimations()) {
    if (Number.isFinite(each.effect.getComputedTiming().endTime)) each.finish();
  }
  const written = [...document.querySelectorAll("p, li, td, th, summary, code, pre, span, a, b")]
    .filter((each) => [...each.childNodes].some((x) => x.nodeType === 3 && x.data.trim()))
    .filter((each) => each.checkVisibility({visibilityProperty: true, opacityProperty: true}));
  const faint = written.flatMap((each) => {
    const [one, other] = [getComputedStyle(each).color, ground(each)];
    const [low, high] = [luminance(one), luminance(other)].sort((a, b) => a - b);
    return (high + 0.05) / (low + 0.05) < 3 ? [`${one} on ${other}, ${name(each)}`] : [];
  });
  // What pandas writes where there is no number.
  const lacking = [...document.querySelectorAll("td, th")]
    .filter((cell) => /^(nan|nat|<na>)$|\bnan\s*[±%–]|[±–]\s*nan\b/i.test(cell.textContent.trim()))
    .map((cell) => `${cell.textContent.trim()} in ${name(cell.parentElement)}`);
  const images = [...document.images];
  for (const image of images) image.loading = "eager";
  await Promise.all(images.map((image) => image.decode().catch(() => null)));
  await window.MathJax?.startup?.promise;
  return {
    anchors: [...document.querySelectorAll("[id], a[name]")].flatMap((each) => [each.id, each.name]),
    links: [...new Set([...document.links].map((link) => link.href))],
    scrolling: {table: cut("table"), formula: long, code: cut("pre")},
    low,
    faint: [...new Set(faint)].slice(0, 5),
    commands: document.body.innerText.match(/\S*ipykernel_launcher\S*|\S*kernel-[\w-]{36}\.json/g) ?? [],
    figures: images.filter((image) => image.matches(".figure, .cell_output > img") && image.clientWidth)
      .map((image) => ({url: image.src, shown: image.clientWidth, drawn: image.naturalWidth})),
    images: images.map((image) => ({
      source: image.getAttribute("src") ?? "", alt: image.getAttribute("alt") ?? "",
      loaded: image.naturalWidth > 0, decoration: image.closest("[aria-hidden=true]") !== null,
    })),
    formulas: [...document.querySelectorAll("[data-mjx-error]")].map((each) => each.dataset.mjxError),
    theme: document.documentElement.dataset.theme ?? null,
    wide: wide(),
    lacking: [...new Set(lacking)],
    shortened: [...document.querySelectorAll("p")].map((each) => each.textContent.trim())
      .filter((text) => /^\d+ rows × \d+ columns$/.test(text)),
  };
}
