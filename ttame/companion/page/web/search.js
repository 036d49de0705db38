// A field that finds one of many classes by typing, as ARIA's combobox with a list.

const SHOWN = 8;
let count = 0; // of fields, whose lists need different names

/** Order the classes whose names hold the text: at the beginning, at a word's, anywhere. */
export const matches = (names, text) => {
  const wanted = text.trim().toLowerCase();
  if (!wanted) return [];
  const rank = (name) => {
    const at = name.indexOf(wanted);
    if (at <= 0) return at;
    return /[\s,-]/.test(name[at - 1]) ? 1 : 2;
  };
  return names
    .map((name, index) => [rank(name.toLowerCase()), index])
    .filter(([found]) => found >= 0)
    .sort(([a, i], [b, j]) => a - b || i - j)
    .map(([, index]) => index);
};

/**
 * Make a search field work.
 *
 * @param root Element that holds an input and an empty list.
 * @param names Full names of the classes.
 * @param choose Called with the index of the chosen class.
 */
export const createSearch = (root, names, choose) => {
  const input = root.querySelector("input"), list = root.querySelector("ul");
  let found = [], active = -1;
  list.id = `ttame-search-${++count}`;
  input.setAttribute("aria-controls", list.id);

  const close = () => {
    list.hidden = true;
    active = -1;
    input.setAttribute("aria-expanded", "false");
    input.removeAttribute("aria-activedescendant");
  };
  const point = (at) => {
    active = at;
    for (const [i, item] of [...list.children].entries()) {
      item.setAttribute("aria-selected", String(i === at));
      if (i === at) {
        input.setAttribute("aria-activedescendant", item.id);
        item.scrollIntoView({ block: "nearest" });
      }
    }
  };
  const take = (at) => {
    if (found[at] === undefined) return;
    choose(found[at]);
    input.value = "";
    close();
  };
  const open = () => {
    found = matches(names, input.value).slice(0, SHOWN);
    list.replaceChildren(...found.map((index, i) => {
      const item = document.createElement("li");
      Object.assign(item, { id: `${list.id}-${i}`, role: "option", textContent: names[index] });
      item.addEventListener("pointerdown", (event) => { event.preventDefault(); take(i); });
      return item;
    }));
    if (found.length === 0 && input.value.trim()) {
      const item = document.createElement("li");
      Object.assign(item, { className: "tx-none", textContent: "The classifier has no such class." });
      list.append(item);
    }
    list.hidden = list.childElementCount === 0;
    input.setAttribute("aria-expanded", String(!list.hidden));
    point(found.length > 0 ? 0 : -1);
  };

  input.addEventListener("input", (event) => { event.stopPropagation(); open(); });
  input.addEventListener("blur", close);
  input.addEventListener("keydown", (event) => {
    const move = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    if (move && found.length > 0) {
      event.preventDefault();
      point((active + move + found.length) % found.length);
    } else if (event.key === "Enter") {
      event.preventDefault();
      take(active);
    } else if (event.key === "Escape") close();
  });
};
