// The probability of a class by the share of pixels kept, one line a method.

const LIMITS = [0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1];

/**
 * Draw the chart.
 *
 * @param svg The `svg` element, 320 by 150 units.
 * @param lines `{points: [[share, value], ...], method, chosen}`, each sorted by share.
 * @param whole Probability on the whole photo; undefined before it is known.
 * @param share The chosen share.
 * @param at Where a share stands on the axis, in [0, 1].
 * @param ticks Shares to name.
 */
export const drawChart = (svg, { lines, whole, share, at, ticks }) => {
  const element = (tag, values, text = "") => {
    const made = document.createElementNS(svg.namespaceURI, tag);
    for (const [name, value] of Object.entries(values)) made.setAttribute(name, value);
    made.textContent = text;
    return made;
  };
  const values = [whole ?? 0, ...lines.flatMap(({ points }) => points.map(([, value]) => value))];
  const highest = Math.max(...values);
  const top = LIMITS.find((limit) => limit >= highest) ?? 1;
  const x = (value) => 8 + 304 * at(value);
  const y = (value) => 126 - (112 * value) / top;
  const across = (value, kind) =>
    element("line", { class: kind, x1: 0, x2: 320, y1: y(value), y2: y(value) });
  const series = ({ points, method, chosen }) => {
    const group = element("g", { class: `tx-series-${method % 4}${chosen ? " tx-chosen" : ""}` });
    group.append(element("polyline", {
      class: "tx-line", points: points.map(([s, value]) => `${x(s)},${y(value)}`).join(" "),
    }));
    for (const [s, value] of points) {
      const size = s === share ? (chosen ? 5.5 : 3.5) : (chosen ? 2 : 0);
      if (size > 0) group.append(element("circle", { class: "tx-dot", cx: x(s), cy: y(value), r: size }));
    }
    return group;
  };
  const tick = (value, i) => {
    const anchor = i === 0 ? "start" : i === ticks.length - 1 ? "end" : "middle";
    const left = anchor === "start" ? 0 : anchor === "end" ? 320 : x(value);
    return element("text", { x: left, y: 146, "text-anchor": anchor }, `${value}\u202f%`);
  };
  const limit = `${+(100 * top).toFixed(1)}\u202f%`;
  svg.replaceChildren(
    element("line", { class: "tx-now", x1: x(share), x2: x(share), y1: 8, y2: 132 }),
    across(0, "tx-grid"), across(top / 2, "tx-grid"), across(top, "tx-grid"),
    // The chosen line lies on top.
    ...[...lines].sort((a, b) => Number(a.chosen) - Number(b.chosen)).map(series),
    ...ticks.map(tick), element("text", { x: 0, y: y(top) - 4 }, limit));
  if (whole !== undefined) {
    const over = y(whole) < 24 ? y(whole) + 13 : y(whole) - 4;
    svg.append(across(whole, "tx-whole"),
      element("text", { x: 320, y: over, "text-anchor": "end" }, "whole photo"));
  }
};
