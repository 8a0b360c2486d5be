"use strict";
const root = document.documentElement;
addEventListener("error", (event) => root.setAttribute("data-error", event.message));
addEventListener("securitypolicyviolation", (event) =>
  root.setAttribute("data-error", `blocked: ${event.violatedDirective} ${event.blockedURI}`));

const data = JSON.parse(document.getElementById("report-data").textContent);
const all = (selector, inside = document) => [...inside.querySelectorAll(selector)];
const make = (name, text, kind) => {
  const node = document.createElement(name);
  if (text !== undefined) node.textContent = text;
  if (kind) node.className = kind;
  return node;
};
const absent = "–";
const number = (x, digits = 3) => (x === null || x === undefined ? absent : x.toFixed(digits).replace("-", "−"));

// --- the tooltip: filled with text nodes only, placed inside the window ---
const tip = document.getElementById("tip");
function showTip(x, y, nodes) {
  tip.replaceChildren(...nodes);
  tip.hidden = false;
  const gap = 14;
  const right = scrollX + root.clientWidth;
  let left = x + gap;
  if (left + tip.offsetWidth > right - 6) left = Math.max(scrollX + 6, x - gap - tip.offsetWidth);
  tip.style.left = `${Math.min(left, Math.max(scrollX + 6, right - tip.offsetWidth - 6))}px`;
  tip.style.top = `${Math.max(scrollY + 6, y - tip.offsetHeight / 2)}px`;
}
function hideTip() { tip.hidden = true; }

// --- charts: pointer and arrow keys read all curves at one layer ---
function chart(box) {
  const source = data.charts[box.dataset.chart];
  if (!source) return;
  const last = source.labels.length - 1;
  let at = source.best.length ? source.best[0] : 0;
  const layer = (i) => (source.names ? source.names[i] : source.labels[i] === "emb" ? "embedding" : `layer ${source.labels[i]}`) +
    (source.best.includes(i) ? ", among the best" : "");
  const words = (i) => `${layer(i)}: ` + source.series
    .map((s) => `${s.name} ${s.values[i][0]}${s.values[i][1] ? ` (${s.values[i][1]})` : ""}`).join("; ");
  box.setAttribute("aria-valuemax", String(last));
  const described = box.querySelector("desc");  // a slider's own children are not read out
  if (described) box.setAttribute("aria-describedby", described.id);
  function read(i, announce) {
    at = Math.min(Math.max(i, 0), last);
    const svg = all("svg", box).find((node) => node.getBoundingClientRect().width > 0);
    const cursor = svg.querySelector(".cursor");
    const place = Number(svg.dataset.x0) + at * Number(svg.dataset.dx);
    cursor.setAttribute("transform", `translate(${place} 0)`);
    cursor.classList.add("on");
    if (announce) {
      box.setAttribute("aria-valuenow", String(at));
      box.setAttribute("aria-valuetext", words(at));
    }
    const rows = source.series.map((s) => {
      const row = make("div", undefined, `s-${s.kind}`);
      row.append(make("i"), make("span", s.name, "t"), make("span", s.values[at][0], "t"));
      if (s.values[at][1]) row.append(make("small", s.values[at][1]));
      return row;
    });
    const frame = svg.getBoundingClientRect();
    const scale = frame.width / svg.viewBox.baseVal.width;
    const head = layer(at);
    showTip(frame.left + scrollX + place * scale, frame.top + scrollY + frame.height * 0.42,
      [make("b", head[0].toUpperCase() + head.slice(1)), ...rows]);
  }
  function leave() {
    all(".cursor", box).forEach((node) => node.classList.remove("on"));
    hideTip();
  }
  function nearest(event) {
    const svg = event.target.closest("svg");
    if (!svg) return null;
    const frame = svg.getBoundingClientRect();
    const x = (event.clientX - frame.left) * svg.viewBox.baseVal.width / frame.width;
    const step = Number(svg.dataset.dx);
    return step ? Math.round((x - Number(svg.dataset.x0)) / step) : 0;
  }
  box.setAttribute("aria-valuenow", String(at));
  box.setAttribute("aria-valuetext", words(at));
  box.addEventListener("pointermove", (event) => {
    const i = nearest(event);
    if (i !== null) read(i, false);
  });
  box.addEventListener("pointerleave", leave);
  box.addEventListener("focus", () => { if (box.matches(":focus-visible")) read(at, true); });
  box.addEventListener("blur", leave);
  box.addEventListener("keydown", (event) => {
    const to = { ArrowLeft: at - 1, ArrowDown: at - 1, ArrowRight: at + 1, ArrowUp: at + 1, Home: 0, End: last }[event.key];
    if (event.key === "Escape") leave();
    if (to === undefined) return;
    event.preventDefault();
    read(to, true);
  });
}

// --- tables: headings become buttons ---
function sortKey(row, column) {
  const cell = row.cells[column];
  const text = cell.dataset.s ?? (cell.querySelector(".v") ?? cell).textContent;
  if (text === "" || text === absent) return null;
  const value = Number(text.replace(/,/g, "").replace("−", "-"));
  return Number.isNaN(value) ? text : value;
}
function sortBy(table, column, direction) {
  const body = table.tBodies[0];
  const rows = [...body.rows].map((row) => [sortKey(row, column), row]);
  rows.sort(([a], [b]) => {
    if (a === null || b === null) return (a === null) - (b === null);
    const order = typeof a === "number" && typeof b === "number" ? a - b
      : String(a).localeCompare(String(b), undefined, { numeric: true });
    return direction * order;
  });
  body.append(...rows.map(([, row]) => row));
}
function sortable(table) {
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, column) => {
    const button = make("button", head.textContent);
    button.type = "button";
    if (head.title) {
      button.setAttribute("aria-description", head.title);
      button.addEventListener("focus", () => {
        if (!button.matches(":focus-visible")) return;
        const place = button.getBoundingClientRect();
        showTip(place.left + scrollX, place.bottom + scrollY + 24, [make("span", head.title)]);
      });
      button.addEventListener("blur", hideTip);
    }
    head.replaceChildren(button);
    button.addEventListener("click", () => {
      const now = head.getAttribute("aria-sort");
      const up = now ? now === "descending" : !head.classList.contains("n");
      heads.forEach((other) => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", up ? "ascending" : "descending");
      sortBy(table, column, up ? 1 : -1);
    });
  });
}

// --- the class table: numbers of the chosen layer, in whatever order the rows stand ---
function chooseLayer(select) {
  const layers = data.classes[select.dataset.classes];
  const table = document.getElementById(`${select.dataset.classes}-classes`);
  const order = [...table.tBodies[0].rows];
  select.addEventListener("change", () => {
    const k = Number(select.value);
    order.forEach((row, j) => {
      const [support, ...shares] = layers[k][j];
      const [precision, recall, f1] = shares.map((x) => (x === null ? null : x / 1000));
      [support, precision, recall, f1].forEach((value, c) => {
        const cell = row.cells[c + 1];
        cell.dataset.s = value === null ? "" : String(value);
        cell.querySelector(".v").textContent = c === 0 && value !== null ? value.toLocaleString("en-US") : number(value);
      });
      row.querySelector(".meter .part").setAttribute("width", String(60 * (f1 ?? 0)));
      const dot = row.querySelector(".spark .dot");
      if (dot) {
        dot.setAttribute("visibility", f1 === null ? "hidden" : "visible");
        dot.setAttribute("cx", String(layers.length > 1 ? 4 + (88 * k) / (layers.length - 1) : 4));
        dot.setAttribute("cy", String(20 - 16 * (f1 ?? 0)));
      }
    });
    const sorted = [...table.tHead.rows[0].cells].findIndex((head) => head.hasAttribute("aria-sort"));
    if (sorted >= 0) {
      const head = table.tHead.rows[0].cells[sorted];
      sortBy(table, sorted, head.getAttribute("aria-sort") === "ascending" ? 1 : -1);
    }
  });
}

// --- mistakes: one confusion, or all ---
function mistakes(box) {
  const list = box.querySelector("ol");
  const more = box.querySelector("[data-more]");
  const select = box.querySelector("select");
  select?.addEventListener("change", () => {
    const pair = select.value;
    list.classList.toggle("all", pair !== "" || more?.getAttribute("aria-expanded") === "true");
    [...list.children].forEach((item) => { item.hidden = pair !== "" && item.dataset.pair !== pair; });
    if (more) more.hidden = pair !== "";
  });
  more?.addEventListener("click", () => {
    const open = more.getAttribute("aria-expanded") !== "true";
    more.setAttribute("aria-expanded", String(open));
    list.classList.toggle("all", open);
    more.textContent = open ? `Show the first ${list.dataset.first}` : `Show all ${list.children.length}`;
  });
}

// --- a grid of effects ---
const drawn = (name, attributes, text) => {
  const node = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  if (text !== undefined) node.textContent = text;
  return node;
};
function pattern(box, { tokens, weights, places }) {
  const bytes = Uint8Array.from(atob(weights), (c) => c.charCodeAt(0));
  const n = tokens.length;
  const side = Math.max(7, Math.min(20, 520 / n));
  const shown = tokens.map((t) => (t.length > 14 ? `${t.slice(0, 13)}…` : t));
  const left = 96, top = 66;
  return (k, name) => {
    if (places[k] === null) return;
    const at = (q, key) => bytes[(places[k] * n + q) * n + key] / 255;
    const svg = drawn("svg", { width: left + side * n + 40, height: top + side * n + 4, role: "img", "aria-label": `attention of ${name}` });
    for (let q = 0; q < n; q++) {
      const y = top + side * q;
      if (side > 9 || q % 2 === 0) {
        svg.append(drawn("text", { class: "tick", x: left - 6, y: y + side / 2 + 4, "text-anchor": "end" }, shown[q]));
        const x = left + side * q + side / 2;
        svg.append(drawn("text", { class: "tick", x, y: top - 6, transform: `rotate(-50 ${x} ${top - 6})` }, shown[q]));
      }
      for (let key = 0; key < n; key++) {
        const w = at(q, key);
        const cell = drawn("rect", { x: left + side * key, y, width: side - 1, height: side - 1, "fill-opacity": Math.max(0.06, w) });
        cell.append(drawn("title", {}, `${tokens[q]} attends to ${tokens[key]}: ${w.toFixed(2)}`));
        svg.append(cell);
      }
    }
    box.replaceChildren(make("p", `Attention of ${name} in one text (rows attend to columns; for another head, click its cell or use the arrow keys in the grid)`), svg);
  };
}
// A click on a cell lists what it holds: (name, number) pairs.
function ranking(box, lists) {
  return (k, name) => {
    const table = make("table");
    for (const [token, value] of lists[k]) {
      const row = table.insertRow();
      row.append(make("td", token), make("td", value, "n"));
    }
    box.replaceChildren(make("p", `${name} (for another cell, click it or use the arrow keys in the grid)`), table);
  };
}
// The same cells shaded by another measure: 0 to 4 for each cell.
function paint(figure, shades) {
  all("rect[data-k]", figure).forEach((cell) => {
    const shade = shades[Number(cell.dataset.k)];
    cell.setAttribute("class", shade ? `m-up${shade}` : "m-even");
    cell.nextElementSibling?.setAttribute("class", shade ? `m-text m-on${shade}` : "m-text");
  });
}
function heat(figure) {
  const { tips, metric, patterns, lists, shades } = data.heats[figure.dataset.heat];
  const box = document.querySelector(`[data-pattern="${figure.dataset.heat}"]`);
  const grid = figure.querySelector(".heat");
  const cells = all("[data-k]", grid);
  const place = (cell) => [Number(cell.getAttribute("x")), Number(cell.getAttribute("y"))];
  let chosen = null;
  const shows = box && (patterns ? pattern(box, patterns) : lists ? ranking(box, lists) : null);
  const choose = shows || (() => {});
  const tell = (cell, x, y) => {
    const [name, effect, rest] = tips[Number(cell.dataset.k)];
    showTip(x, y, [make("b", name), make("span", `${metric} ${effect}`, "t"), make("small", rest)]);
  };
  const leave = () => {
    chosen?.classList.remove("at");
    hideTip();
  };
  const choice = document.querySelector(`[data-paint="${figure.dataset.heat}"]`);
  choice?.addEventListener("change", () => paint(figure, shades[Number(choice.value)]));
  if (shows) {
    figure.classList.add("clicks");
    figure.addEventListener("click", (event) => {
      const k = event.target.dataset?.k;
      if (k !== undefined) choose(Number(k), tips[Number(k)][0]);
    });
    if (patterns) choose(patterns.first, tips[patterns.first][0]);
  }
  // The arrow keys go to the nearest cell in that direction.
  grid.addEventListener("keydown", (event) => {
    const way = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
    if (event.key === "Escape") leave();
    if (!way || !cells.length) return;
    event.preventDefault();
    const [x, y] = chosen ? place(chosen) : [];
    const beside = (cell) => {
      const [dx, dy] = [place(cell)[0] - x, place(cell)[1] - y];
      const along = dx * way[0] + dy * way[1];
      return along > 1 ? along + 3 * Math.abs(dx * way[1] + dy * way[0]) : Infinity;
    };
    const best = chosen ? cells.reduce((a, b) => (beside(b) < beside(a) ? b : a)) : cells[0];
    if (!chosen || beside(best) < Infinity) {
      leave();
      chosen = best;
    }
    chosen.classList.add("at");
    const k = Number(chosen.dataset.k);
    const frame = chosen.getBoundingClientRect();
    tell(chosen, frame.right + scrollX, frame.top + scrollY);
    grid.setAttribute("aria-description", `${tips[k][0]}: ${metric} ${tips[k][1]}, ${tips[k][2]}`);
    choose(k, tips[k][0]);
  });
  grid.addEventListener("blur", leave);
  figure.addEventListener("pointermove", (event) => {
    if (event.target.dataset?.k === undefined) return hideTip();
    tell(event.target, event.pageX, event.pageY);
  });
  figure.addEventListener("pointerleave", hideTip);
}

// --- the triangle of comparisons, and its table, made when it is opened ---
// Numbers are whole thousandths: `table` of pairs in words, rows and columns of the triangle in `a` and `b`.
const thousandths = (x) => (x === null ? absent : number(x / 1000));
const signed = (x) => (x !== null && x > 0 ? `+${thousandths(x)}` : thousandths(x));
const pValue = (x) => (x === null ? absent : x === 0 ? "<0.001" : x >= 100 ? number(x / 1000, 2) : thousandths(x));
// Every row with every column in front of it, unless `a` and `b` say otherwise.
function placed(source) {
  if (source.a) return source;
  const rows = source.labels.map((_, a) => a);
  source.a = rows.flatMap((a) => Array(a).fill(a));
  source.b = rows.flatMap((a) => rows.slice(0, a));
  return source;
}
function pairOf(source, k) {
  const ends = source.low && source.low[k] !== null ? `${thousandths(source.low[k])} to ${thousandths(source.high[k])}` : "";
  return [source.labels[source.a[k]], source.labels[source.b[k]], signed(source.difference[k]), ends, pValue(source.p[k])];
}
function matrix(figure) {
  const source = placed(data.matrices[figure.dataset.matrix]);
  const n = source.labels.length;
  const cells = new Map(source.a.map((a, k) => [a * n + source.b[k], k]));
  const svg = figure.querySelector("svg");
  figure.addEventListener("pointermove", (event) => {
    const frame = svg.getBoundingClientRect();
    const scale = svg.viewBox.baseVal.width / frame.width;
    const row = Math.floor(((event.clientY - frame.top) * scale - source.top) / source.side) + 1;
    const column = Math.floor(((event.clientX - frame.left) * scale - source.left) / source.side);
    const k = column >= 0 && column < n ? cells.get(row * n + column) : undefined;
    if (k === undefined) return hideTip();
    const [a, b, difference, span, p] = pairOf(source, k);
    showTip(event.pageX, event.pageY, [make("b", `layer ${a} minus layer ${b}`),
      make("span", `${source.metric} ${difference}`, "t"),
      make("small", `${span ? `${span}, ` : ""}p (Holm) ${p.startsWith("<") ? p : `= ${p}`}`)]);
  });
  figure.addEventListener("pointerleave", hideTip);
}
function pairTable(details) {
  details.addEventListener("toggle", () => {
    if (!details.open || details.querySelector("table")) return;
    const source = placed(data.matrices[details.dataset.pairs]);
    const table = make("table");
    const head = table.createTHead().insertRow();
    ["layer", "minus layer", `${source.metric} difference`, "95% interval", "p (Holm)"].forEach((name, i) => {
      const cell = make("th", name, i === 2 || i === 4 ? "n" : "");
      cell.scope = "col";
      head.append(cell);
    });
    const body = table.createTBody();
    source.a.forEach((_, k) => {
      const row = body.insertRow();
      const numbers = [null, null, source.difference[k], null, source.p[k]];
      pairOf(source, k).forEach((text, i) => {
        const cell = row.insertCell();
        cell.textContent = text;
        if (i === 2 || i === 4) {
          cell.className = "n";
          cell.dataset.s = String(numbers[i] ?? "");
        }
        if (i < 2) cell.dataset.s = text === "emb" ? "-1" : text;
      });
    });
    const frame = make("div", undefined, "frame tall");
    frame.tabIndex = 0;
    frame.setAttribute("role", "region");
    frame.setAttribute("aria-label", "Comparisons of layers");
    frame.append(table);
    details.append(frame);
    sortable(table);
  });
}

// --- copying, also where the clipboard needs the old way (file://) ---
async function copy(text, button) {
  let done = false;
  try {
    await navigator.clipboard.writeText(text);
    done = true;
  } catch {
    const area = make("textarea", text);
    document.body.append(area);
    area.select();
    done = document.execCommand("copy");
    area.remove();
    button.focus();
  }
  const before = button.dataset.text ??= button.textContent;
  button.textContent = done ? "Copied" : "Press Ctrl+C";
  setTimeout(() => { button.textContent = before; }, 1600);
}
const tabbed = (table) => [...table.rows].map((row) => [...row.cells].map((cell) => cell.textContent).join("\t")).join("\n");

function start(inside) {
  const each = (selector, begin) => all(selector, inside).forEach(begin);
  each(".chart", chart);
  each("table[data-sortable]", sortable);
  each("[data-classes]", chooseLayer);
  each(".mistakes", mistakes);
  each("[data-heat]", heat);
  each("[data-matrix]", matrix);
  each("[data-pairs]", pairTable);
  each("[data-attention]", attention);
  each("[data-map]", map);
  each("figure, .attention, .map", leaving);
  each("[data-copy]", (b) => b.addEventListener("click", () => copy(document.getElementById(b.dataset.copy).textContent, b)));
  each("[data-copy-table]", (b) => b.addEventListener("click", () => copy(tabbed(document.getElementById(b.dataset.copyTable)), b)));
}
start(document);

// --- packed sections: put into the page when they are opened, or when a link goes to them ---
const DIGITS = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz!#$%,()*+-;.=/?@^_`{|}~";

// The bytes that packing.py wrote: five digits of base 85 for four bytes.
function unspelled(text) {
  const bytes = new Uint8Array(Math.floor((text.length * 4) / 5));
  for (let at = 0, to = 0; at < text.length; at += 5, to += 4) {
    let word = 0;
    for (let k = at; k < at + 5; k++) word = word * 85 + (k < text.length ? DIGITS.indexOf(text[k]) : 84);
    for (let k = 0; k < 4 && to + k < bytes.length; k++) bytes[to + k] = (word / 2 ** (24 - 8 * k)) & 255;
  }
  return bytes;
}
async function unpack(details) {
  const coded = data.packed[details.dataset.packed];
  if (coded === undefined) return;
  delete data.packed[details.dataset.packed];
  const stream = new Blob([unspelled(coded)]).stream().pipeThrough(new DecompressionStream("gzip"));
  const section = JSON.parse(await new Response(stream).text());
  for (const [kind, entries] of Object.entries(section.data)) Object.assign(data[kind] ??= {}, entries);
  const box = make("div");
  box.innerHTML = section.html;  // escaped where it was written, as the rest of the page
  details.append(box);
  start(box);
}
all("[data-packed]").forEach((details) => details.addEventListener("toggle", () => { if (details.open) unpack(details); }));
function openTarget() {
  const details = document.getElementById(location.hash.slice(1))?.querySelector(".packed");
  if (details) details.open = true;
}
addEventListener("hashchange", openTarget);
openTarget();
addEventListener("keydown", (event) => { if (event.key === "Escape") hideTip(); });

let opened = [];
addEventListener("beforeprint", () => {
  opened = all("details:not([open]):not(.packed)");
  opened.forEach((node) => { node.open = true; });
});
addEventListener("afterprint", () => opened.forEach((node) => { node.open = false; }));

const links = new Map(all("nav a").map((link) => [link.hash.slice(1), link]));
const watch = new IntersectionObserver((entries) => {
  for (const entry of entries) {
    if (!entry.isIntersecting) continue;
    links.forEach((link, id) => {
      link.classList.toggle("here", id === entry.target.id);
      if (id === entry.target.id) link.setAttribute("aria-current", "true");
      else link.removeAttribute("aria-current");
    });
  }
}, { rootMargin: "-12% 0px -80% 0px" });
all("main > section").forEach((section) => watch.observe(section));
// In a notebook's cell the frame is as tall as what it holds, where the notebook lets it say so.
if (root.classList.contains("cell")) {
  const fit = () => {
    try { frameElement.style.height = `${Math.ceil(document.body.getBoundingClientRect().height) + 24}px`; } catch { /* another origin */ }
  };
  new ResizeObserver(() => requestAnimationFrame(fit)).observe(document.body);
}
root.setAttribute("data-ready", "true");
