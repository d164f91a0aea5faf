// The interactive parts of a report. Without them, the page shows the same facts.
"use strict";
(() => {
  const SVG = "http://www.w3.org/2000/svg";
  const trials = JSON.parse(document.getElementById("trial-facts").textContent);
  const marksOfTrial = new Map(); // trial -> shapes of plots and rows of tables

  const all = (selector, root = document) => [...root.querySelectorAll(selector)];

  function add(parent, name, attributes = {}, text = "") {
    const made = parent.namespaceURI === SVG ? document.createElementNS(SVG, name) : document.createElement(name);
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    made.append(text);
    parent.append(made);
    return made;
  }

  function remember(trial, shape) {
    if (!marksOfTrial.has(trial)) marksOfTrial.set(trial, []);
    marksOfTrial.get(trial).push(shape);
  }

  function light(trial) {
    for (const shape of all(".lit")) shape.classList.remove("lit");
    for (const shape of marksOfTrial.get(trial) ?? []) shape.classList.add("lit");
  }

  // -- tooltips

  const tip = add(document.body, "div", { class: "tip", role: "status", hidden: "" });

  function showTip({ trial, note }, x, y, source) {
    const [title, ...lines] = trials[trial] ?? [trial];
    tip.replaceChildren();
    add(tip, "strong", {}, title);
    for (const line of note ? [...lines, note] : lines) add(tip, "div", {}, line);
    tip.dataset.source = source;
    tip.hidden = false;
    const left = Math.min(x + 14, innerWidth - tip.offsetWidth - 8);
    const top = y + 14 + tip.offsetHeight > innerHeight ? y - 14 - tip.offsetHeight : y + 14;
    tip.style.left = `${Math.max(8, left)}px`;
    tip.style.top = `${Math.max(8, top)}px`;
    light(trial);
  }

  function hideTip() {
    tip.hidden = true;
    light(null);
  }

  // -- points and curves

  function marksOf(group) {
    const points = JSON.parse(decodeURIComponent(group.dataset.points));
    const shapes = all("use", group);
    const lines = all("path", group).filter((path) => !path.closest("defs"));
    const pair = (shape, [trial, note]) => ({ shape, trial, note });
    if (!shapes.length) return lines.map((line, place) => pair(line, points[place]));
    // The line lies below its points, and all have one trial.
    return [...lines.map((line) => pair(line, [points[0][0], ""])), ...shapes.map((shape, place) => pair(shape, points[place]))];
  }

  // A wider, unseen shape, which a pointer can hit.
  function hitShape({ shape }) {
    const isPoint = shape.localName === "use";
    const hit = isPoint ? document.createElementNS(SVG, "circle") : shape.cloneNode();
    hit.removeAttribute("style");
    hit.setAttribute("class", isPoint ? "hit" : "hit line");
    if (isPoint) {
      hit.setAttribute("cx", shape.getAttribute("x"));
      hit.setAttribute("cy", shape.getAttribute("y"));
      hit.setAttribute("r", "6");
    }
    shape.after(hit);
    return hit;
  }

  function connect(marks) {
    const hits = new Map();
    for (const mark of marks) {
      const hit = hitShape(mark);
      hits.set(hit, mark);
      remember(mark.trial, mark.shape);
      remember(mark.trial, hit);
    }
    return hits;
  }

  function middleOf(shape) {
    const box = shape.getBoundingClientRect();
    return [box.left + box.width / 2, box.top + box.height / 2];
  }

  function walkByKeys(box, marks) {
    const last = marks.length - 1;
    let place = -1;
    const places = {
      ArrowRight: () => Math.min(place + 1, last),
      ArrowLeft: () => Math.max(place - 1, 0),
      Home: () => 0,
      End: () => last,
    };
    box.addEventListener("keydown", (event) => {
      if (event.key === "Escape") hideTip();
      if (event.target !== box || !(event.key in places)) return;
      event.preventDefault();
      place = places[event.key]();
      showTip(marks[place], ...middleOf(marks[place].shape), "keys");
    });
    box.addEventListener("blur", hideTip);
  }

  function startPlot(figure, marks) {
    const box = figure.querySelector("[role=img]");
    const hits = connect(marks);
    box.setAttribute("role", "application");
    box.setAttribute("tabindex", "0");
    box.setAttribute("aria-label", `${box.getAttribute("aria-label")}. The arrow keys go through its points.`);
    box.addEventListener("pointerover", (event) => {
      const mark = hits.get(event.target);
      if (mark) showTip(mark, event.clientX, event.clientY, "pointer");
    });
    box.addEventListener("pointerout", () => {
      if (tip.dataset.source === "pointer") hideTip();
    });
    walkByKeys(box, marks);
  }

  function startRow(row) {
    remember(row.dataset.trial, row);
    row.addEventListener("pointerenter", () => light(row.dataset.trial));
    row.addEventListener("pointerleave", () => light(null));
  }

  // -- tables

  const NUMBER = /^<?\s*([+-]?[\d,]*\.?\d+(?:e[+-]?\d+)?)(?=$|[\s%[])/i;

  function numberOf(text) {
    const match = NUMBER.exec(text);
    return match ? Number(match[1].replaceAll(",", "")) : NaN;
  }

  // Numbers are compared as numbers where a column has nothing else; what is missing comes last.
  function comparison(texts, sign) {
    const known = texts.filter((text) => !["", "none"].includes(text));
    const numeric = known.every((text) => !Number.isNaN(numberOf(text)));
    const missing = (text) => !known.includes(text);
    return (one, other) => {
      if (missing(one) || missing(other)) return missing(one) - missing(other);
      return sign * (numeric ? numberOf(one) - numberOf(other) : one.localeCompare(other, "en", { numeric: true }));
    };
  }

  function sortBy(heading) {
    const table = heading.closest("table");
    const rows = [...table.tBodies[0].rows];
    const descending = heading.ariaSort === "ascending";
    const textOf = (row) => row.cells[heading.cellIndex].textContent.trim();
    const compare = comparison(rows.map(textOf), descending ? -1 : 1);
    table.tBodies[0].append(...rows.sort((one, other) => compare(textOf(one), textOf(other))));
    for (const other of all("thead th", table)) other.removeAttribute("aria-sort");
    heading.setAttribute("aria-sort", descending ? "descending" : "ascending");
  }

  function startTable(table) {
    if (table.tBodies[0].rows.length < 2) return;
    for (const heading of all("thead th", table)) {
      const text = heading.textContent;
      if (!text) continue;
      heading.textContent = "";
      add(heading, "button", { type: "button" }, text).addEventListener("click", () => sortBy(heading));
    }
  }

  function hintAtScrolling(box) {
    const hint = document.createElement("p");
    hint.className = "hint";
    hint.textContent = "This table goes on to the right: scroll it sideways →";
    box.before(hint);
    new ResizeObserver(() => (hint.hidden = box.scrollWidth <= box.clientWidth + 1)).observe(box);
  }

  // -- ranges on the axes of parallel coordinates

  function verticesOf(line) {
    const numbers = line.getAttribute("d").match(/-?[\d.]+/g).map(Number);
    return numbers.flatMap((x, place) => (place % 2 ? [] : [{ x, y: numbers[place + 1] }]));
  }

  const isInside = ({ x, from, to }, vertices) =>
    vertices.some((vertex) => Math.abs(vertex.x - x) < 1 && vertex.y >= from && vertex.y <= to);

  class Axis {
    constructor(group, changed) {
      const { x, y, height } = group.getBBox();
      Object.assign(this, { x, top: y, height, from: null, to: null, changed });
      this.name = decodeURIComponent(group.dataset.axis);
      this.range = add(group, "rect", { class: "range", x: x - 8, width: 16, y, height: 0 });
      this.handle = add(group, "rect", { class: "axis", x: x - 12, width: 24, y, height, tabindex: 0, role: "slider" });
      this.handle.setAttribute("aria-label", `Range of ${this.name}`);
      this.handle.setAttribute("aria-orientation", "vertical");
      this.select(null);
      this.handle.addEventListener("pointerdown", (event) => this.drag(event));
      this.handle.addEventListener("keydown", (event) => this.press(event));
    }

    get isSet() {
      return this.from !== null;
    }

    select(from, to) {
      this.from = from;
      this.to = to;
      this.range.setAttribute("y", from ?? this.top);
      this.range.setAttribute("height", this.isSet ? to - from : 0);
      const share = (y) => Math.round((100 * (this.top + this.height - y)) / this.height);
      const text = this.isSet ? `${share(to)}% to ${share(from)}% of the axis` : "all";
      this.handle.setAttribute("aria-valuenow", this.isSet ? share((from + to) / 2) : 50);
      this.handle.setAttribute("aria-valuetext", text);
      this.changed();
    }

    within(y) {
      return Math.min(Math.max(y, this.top), this.top + this.height);
    }

    heightOf(event) {
      const place = new DOMPoint(event.clientX, event.clientY);
      return this.within(place.matrixTransform(this.handle.getScreenCTM().inverse()).y);
    }

    drag(event) {
      event.preventDefault();
      const start = this.heightOf(event);
      const move = (to) => this.select(Math.min(start, this.heightOf(to)), Math.max(start, this.heightOf(to)));
      const end = () => {
        this.handle.removeEventListener("pointermove", move);
        if (this.isSet && this.to - this.from < 2) this.select(null);
      };
      this.handle.setPointerCapture(event.pointerId);
      this.handle.addEventListener("pointermove", move);
      this.handle.addEventListener("pointerup", end, { once: true });
    }

    press(event) {
      const step = this.height / 20;
      const from = this.from ?? this.top;
      const to = this.to ?? this.top + this.height / 2;
      const ranges = {
        ArrowUp: [from - step, to - step],
        ArrowDown: [from + step, to + step],
        "+": [from - step, to + step],
        "-": [from + step, to - step],
      };
      if (event.key === "Escape") this.select(null);
      const [start, end] = ranges[event.key] ?? [];
      if (start === undefined) return;
      event.preventDefault();
      if (!this.isSet) this.select(from, to);
      else if (end - start > step / 2) this.select(this.within(start), this.within(end));
    }
  }

  function showMatches(matching) {
    for (const [trial, shapes] of marksOfTrial) {
      for (const shape of shapes) {
        shape.classList.toggle("faded", matching !== null && !matching.has(trial));
        shape.classList.toggle("matching", matching !== null && matching.has(trial));
      }
    }
  }

  function startRanges(figure, marks) {
    const groups = all("[data-axis]", figure);
    if (!groups.length) return;
    const lines = marks.map(({ shape, trial }) => [trial, verticesOf(shape)]);
    const bar = add(figure, "p", { class: "controls" });
    const reset = add(bar, "button", { type: "button", disabled: "" }, "Reset ranges");
    const status = add(bar, "span", { role: "status" });
    const help = "Drag along an axis to select a range; with the keyboard: Tab to an axis, ↑ ↓ to move, + − to resize, Esc to clear.";
    let axes = [];
    const update = () => {
      const set = axes.filter((axis) => axis.isSet);
      const kept = lines.filter(([, vertices]) => set.every((axis) => isInside(axis, vertices)));
      showMatches(set.length ? new Set(kept.map(([trial]) => trial)) : null);
      status.textContent = set.length ? `${kept.length} of ${lines.length} trials are in range.` : help;
      reset.disabled = !set.length;
    };
    axes = groups.map((group) => new Axis(group, update));
    reset.addEventListener("click", () => axes.forEach((axis) => axis.select(null)));
  }

  // -- two trials' texts, side by side

  function textsOf(example) {
    const shown = all("[data-text]", example).map(({ dataset, children }) => ({
      trial: dataset.trial,
      name: dataset.text,
      text: children[1].textContent,
    }));
    return { name: example.dataset.example, shown };
  }

  function choice(bar, label, options) {
    const box = add(bar, "label", {}, `${label} `);
    const select = add(box, "select");
    options.forEach(([value, text]) => add(select, "option", { value }, text));
    return select;
  }

  const tossCoin = () => crypto.getRandomValues(new Uint8Array(1))[0] % 2 === 1;

  function showSide(panel, heading, texts) {
    panel.replaceChildren();
    add(panel, "h4", {}, heading);
    for (const { name, text } of texts) {
      if (texts.length > 1) add(panel, "h5", {}, name);
      add(panel, "pre", {}, text);
    }
  }

  class Comparison {
    constructor(section, examples, names) {
      this.examples = examples;
      this.box = add(section, "div", { class: "compare" });
      add(this.box, "h3", {}, "Compare the texts of two trials");
      const bar = add(this.box, "p", { class: "controls" });
      this.example = choice(bar, "Example", examples.map(({ name }, place) => [place, name]));
      this.sides = ["First trial", "Second trial"].map((label) => choice(bar, label, names));
      this.sides[1].selectedIndex = 1;
      this.blind = add(add(bar, "label", {}, "Blind "), "input", { type: "checkbox" });
      this.reveal = add(bar, "button", { type: "button", hidden: "" }, "Reveal the trials");
      const panels = add(this.box, "div", { class: "texts", "aria-live": "polite" });
      this.panels = [add(panels, "div"), add(panels, "div")];
      this.shared = add(panels, "div");
      for (const control of [this.example, ...this.sides, this.blind]) control.addEventListener("change", () => this.draw());
      this.reveal.addEventListener("click", () => this.show(false));
      this.draw();
    }

    draw() {
      this.swapped = this.blind.checked && tossCoin();
      this.show(this.blind.checked);
    }

    show(hidden) {
      const { shown } = this.examples[this.example.value];
      const order = this.swapped ? [...this.sides].reverse() : this.sides;
      order.forEach((side, place) => {
        const heading = hidden ? `Text ${"AB"[place]}` : side.selectedOptions[0].textContent;
        showSide(this.panels[place], heading, shown.filter(({ trial }) => trial === side.value));
      });
      showSide(this.shared, "Both trials", shown.filter(({ trial }) => !trial));
      this.reveal.hidden = !hidden;
    }
  }

  function startComparison(section) {
    const examples = all("[data-example]", section).map(textsOf);
    const names = new Set(examples.flatMap(({ shown }) => shown.map(({ trial }) => trial)).filter(Boolean));
    if (names.size < 2) return;
    new Comparison(section, examples, [...names].map((name) => [name, trials[name]?.[0] ?? name]));
  }

  function startFigure(figure) {
    const marks = all("[data-points]", figure).flatMap(marksOf);
    if (!marks.length) return;
    startPlot(figure, marks);
    startRanges(figure, marks);
  }

  all("tr[data-trial]").forEach(startRow);
  all("figure").forEach(startFigure);
  all("table").forEach(startTable);
  all(".scroll[role=region]").forEach(hintAtScrolling);
  startComparison(document.getElementById("samples").parentNode);
})();
