// The page: its state, what changes it, and the order in which it is drawn.

import { wireCamera } from "./camera.js";
import { drawChart } from "./chart.js";
import { listClasses, listMethods, listOthers, listPhotos, make, tell } from "./controls.js";
import { EngineError, createEngine, lacking } from "./engine.js";
import { createExplanations } from "./explanations.js";
import { wireIntake } from "./intake.js";
import { readLink, writeLink } from "./link.js";
import { bytesOf } from "./numbers.js";
import { ramp, show } from "./paint.js";
import { numbersOf, panelsOf } from "./panels.js";
import { PhotoError, altersPixels } from "./photo.js";
import { wireSaving } from "./saving.js";

const EVERY = Array.from({ length: 100 }, (_, i) => 100 - i); // shares that can be measured live

const start = (root, first) => {
  const data = JSON.parse(root.querySelector("script").textContent);
  const find = (selector) => root.querySelector(selector);
  const colors = bytesOf(data.colors), signed = bytesOf(data.signed);
  const report = (share) => {
    find(".tx-progress").hidden = share === 1;
    find("progress").value = share;
  };
  const engine = data.live ? createEngine(data.live, report) : undefined;
  const explanations = createExplanations(data, engine);
  const { photos, labelOf, whole, known } = explanations;
  const state = {
    photo: 0, target: photos[0].targets[0], method: 0, share: data.shares[0], view: "map",
    beside: "", other: null, opacity: 0.6,
  };
  const photoOf = () => photos[state.photo];
  const stops = () => (engine?.running() ? EVERY : data.shares);

  // What goes wrong is told to the reader; anything unforeseen, to the console as well.
  const attempt = async (work) => {
    try {
      return await work();
    } catch (error) {
      find(".tx-progress").hidden = true;
      find(".tx-alert").textContent = error.message;
      if (!(error instanceof PhotoError || error instanceof EngineError)) throw error;
      return undefined;
    }
  };

  // Drawing

  const drawControls = () => {
    const { target, method, share } = state, photo = photoOf(), at = stops();
    const targets = explanations.offered(photo, [target, state.other]);
    for (const name of ["photo", "view", "beside"]) { // a link may have set them
      find(`[name=${name}][value="${state[name]}"]`).checked = true;
    }
    listClasses(find(".tx-list"), targets, target, labelOf, (one) => whole(photo, one));
    listMethods(find(".tx-methods > div"), data.methods, method,
      (m) => explanations.has(photo, m, target));
    listOthers(find("[name=other]"), targets.filter((one) => one !== target), state.other, labelOf);
    const slider = find("[name=share]");
    slider.max = at.length - 1;
    slider.value = at.indexOf(share);
    slider.setAttribute("aria-valuetext", `top ${share} % of pixels`);
    find(".tx-opacity").hidden = state.view === "masked";
    find(".tx-other").hidden = state.beside !== "class";
    root.dataset.beside = state.beside;
    const shown = data.methods.flatMap((_, m) => (explanations.has(photo, m, target) ? [m] : []));
    const points = (m) => [...new Set([...at, ...data.shares])].sort((a, b) => b - a)
      .map((one) => [one, known(photo, m, target, one)?.value])
      .filter(([, value]) => value !== undefined);
    drawChart(find(".tx-chart"), {
      lines: shown.map((m) => ({ points: points(m), method: m, chosen: m === method })),
      whole: whole(photo, target), share, ticks: data.shares,
      at: (one) => at.indexOf(one) / Math.max(1, at.length - 1),
    });
  };

  const drawNumbers = (panels, constant) => {
    const { target, method, share } = state, photo = photoOf();
    panels.forEach((panel, i) => {
      find(`.tx-frame > figure:nth-child(${i + 1}) .tx-numbers`).textContent =
        numbersOf(panel, photo, share, explanations);
    });
    const found = known(photo, method, target, share);
    const best = found?.probabilities?.reduce((most, value, i, all) => (value > all[most] ? i : most), 0);
    tell(find(".tx-readout"), {
      label: labelOf(target), whole: whole(photo, target), part: `top ${share}\u202f% of pixels`,
      found, constant,
      answer: best === undefined ? undefined : { label: labelOf(best), value: found.probabilities[best] },
    });
  };

  const drawPanels = (panels, pictures) => {
    const frame = find(".tx-frame");
    while (frame.childElementCount > panels.length) frame.lastElementChild.remove();
    while (frame.childElementCount < panels.length) {
      const canvas = make("canvas", { className: "tx-picture" });
      canvas.setAttribute("role", "img");
      frame.append(make("figure", {}, canvas, make("figcaption", {},
        make("span", { className: "tx-name" }), make("span", { className: "tx-numbers" }))));
    }
    panels.forEach(({ caption, label }, i) => {
      const figure = frame.children[i];
      show(figure.querySelector("canvas"), pictures[i]);
      figure.querySelector("canvas").setAttribute("aria-label", label);
      figure.querySelector(".tx-name").textContent = caption;
    });
  };

  let turns = 0, rendering = Promise.resolve();
  const draw = async () => {
    const turn = ++turns, isOld = () => turn !== turns;
    drawControls();
    const panels = panelsOf(state, explanations, { data, colors, signed });
    const pictures = await Promise.all(panels.map(({ picture }) => picture()));
    if (isOld()) return;
    const photo = photoOf(), { method, target, share } = state;
    const constant = await explanations.isConstant(photo, method, target);
    if (isOld()) return;
    drawPanels(panels, pictures);
    drawControls();
    drawNumbers(panels, constant);
    if (!engine?.running()) return;
    // First what is shown now, then the rest of the line, one pass at a time.
    const wanted = [
      ...panels.filter((panel) => panel.target !== undefined).map((panel) => [panel.method, panel.target, share]),
      ...data.shares.map((one) => [method, target, one]),
    ];
    for (const [m, t, one] of wanted) {
      if (!explanations.isDue(photo, m, t, one)) continue;
      await explanations.measure(photo, m, t, one);
      if (isOld()) return;
      drawControls();
      drawNumbers(panels, constant);
    }
  };
  const render = () => (rendering = attempt(draw));
  const act = (work) => {
    find(".tx-alert").textContent = "";
    return attempt(work);
  };

  // Changing the state

  const choose = (changes) => {
    Object.assign(state, changes);
    const photo = photoOf(), targets = explanations.offered(photo, []);
    if ("photo" in changes && !("target" in changes)) state.target = targets[0];
    if ("photo" in changes && !("other" in changes)) state.other = null;
    if (!explanations.has(photo, state.method, state.target)) state.method = data.methods.findIndex(
      (_, m) => explanations.has(photo, m, state.target));
    if (!stops().includes(state.share)) {
      state.share = data.shares.reduce((a, b) =>
        (Math.abs(b - state.share) < Math.abs(a - state.share) ? b : a));
    }
    if (state.beside === "class" && (state.other === null || state.other === state.target)) {
      state.other = targets.find((target) => target !== state.target) ?? null;
    }
    if (first) writeLink({
      photo: photo.name, class: state.target, share: state.share, method: data.methods[state.method].name,
      view: state.view, beside: state.beside || undefined,
      with: state.beside === "class" && state.other !== null ? state.other : undefined,
    });
    return render();
  };

  const startEngine = () => act(async () => {
    await engine.start();
    find(".tx-start").hidden = true;
    await render();
  });

  /** Explain photos of the reader's, and show the last one. */
  const open = (files) => act(async () => {
    if (altersPixels()) throw new PhotoError(
      "This browser alters the pictures that pages read (protection against fingerprinting), so the " +
      "classifier would see noise. Allow canvas data for this page.");
    for (const file of files) {
      const position = await explanations.open(file);
      find(".tx-start").hidden = true;
      listPhotos(find(".tx-photos > div"), photos, position);
      await choose({ photo: position });
    }
  });

  /** Explain a class that was searched for, as the chosen one or beside it. */
  const pick = (target, as) => act(async () => {
    const photo = photoOf();
    await explanations.explain(photo, target);
    find(".tx-start").hidden = true;
    if (!photo.extra.includes(target)) photo.extra.push(target);
    await choose({ [as]: target });
  });

  const restore = async (link) => {
    const position = photos.findIndex(({ name }) => name === link.get("photo"));
    const wanted = (name) => (link.has(name) ? Number(link.get(name)) : NaN);
    const classes = data.live?.labels.length ?? 0;
    const exists = (target) => photos[Math.max(0, position)].targets.includes(target)
      || (Number.isInteger(target) && target >= 0 && target < classes);
    const target = exists(wanted("class")) ? wanted("class") : undefined;
    const other = exists(wanted("with")) ? wanted("with") : null;
    const share = EVERY.includes(wanted("share")) ? wanted("share") : data.shares[0];
    if (position >= 0) state.photo = position;
    const stored = (one) => one === null || one === undefined || photoOf().targets.includes(one);
    if (engine && !(stored(target) && stored(other) && data.shares.includes(share))) {
      await startEngine();
      if (!engine.running()) return render(); // said why
      for (const one of [target, other]) if (!stored(one)) photoOf().extra.push(one);
    }
    const method = data.methods.findIndex(({ name }) => name === link.get("method"));
    return choose({
      photo: state.photo, ...(target === undefined ? {} : { target }), other, share,
      method: Math.max(0, method), view: link.get("view") === "masked" ? "masked" : "map",
      beside: ["class", "methods"].includes(link.get("beside")) ? link.get("beside") : "",
    });
  };

  // Wiring

  const changed = {
    photo: (value) => ({ photo: Number(value) }), label: (value) => ({ target: Number(value) }),
    method: (value) => ({ method: Number(value) }), share: (value) => ({ share: stops()[value] }),
    view: (value) => ({ view: value }), beside: (value) => ({ beside: value }),
    other: (value) => ({ other: Number(value) }), opacity: (value) => ({ opacity: value / 100 }),
  };
  root.addEventListener("submit", (event) => event.preventDefault());
  root.addEventListener("input", ({ target }) => {
    if (changed[target.name]) choose(changed[target.name](target.value));
  });
  wireSaving(root, () => ({
    photo: photoOf().name, label: labelOf(state.target),
    line: `${photoOf().name}: ${data.methods[state.method].name} of ${data.classifier}, ` +
      `top ${state.share} % of pixels`,
  }), first);
  listPhotos(find(".tx-photos > div"), photos, 0);
  ramp(find(".tx-scale canvas"), colors);
  find(".tx-note").textContent = data.note;
  for (const part of root.querySelectorAll(".tx-live")) part.hidden = !engine;
  if (engine) {
    const fail = (message) => { find(".tx-alert").textContent = message; };
    wireCamera(root, { open, fail });
    wireIntake(root, { open, pick, start: startEngine, names: data.live.names, pasted: first });
    if (lacking()) {
      find(".tx-start").hidden = true;
      find(".tx-alert").textContent = `This browser lacks ${lacking()}, so the network cannot run ` +
        "here; the samples were computed beforehand and work.";
    }
  }
  find(".tx-fallback").remove();
  find(".tx-body").hidden = false;
  const link = first ? readLink() : null;
  rendering = link ? restore(link) : render();

  // For a console, and for tests.
  root.page = {
    state, explanations, open, pick, choose, start: startEngine,
    settled: async () => { for (let seen; seen !== rendering;) await (seen = rendering); },
    mask: async () => explanations.keep(
      await explanations.maskOf(photoOf(), state.method, state.target), state.share),
  };
};

const roots = [...document.querySelectorAll(".ttame-explore:not([data-ready])")];
const fresh = document.querySelector(".ttame-explore[data-ready]") === null;
for (const [i, root] of roots.entries()) {
  root.dataset.ready = "";
  start(root, fresh && i === 0);
}
