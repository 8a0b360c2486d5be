// --- maps: words in the plane, layer by layer, with their nearest neighbours in the space itself ---
function map(box) {
  const source = data.maps[box.dataset.map];
  const part = (role) => box.querySelector(`[data-role="${role}"]`);
  const [method, colour, slider, where, plane, legend, told, list, caption] =
    ["method", "colour", "layer", "where", "plane", "legend", "word", "near", "caption"].map(part);
  const { sentences, at, labels, maps, near, layers, captions } = source;
  const n = at.length, side = 460, edge = 14;
  const numbers = (text, Kind) => new Kind(Uint8Array.from(atob(text), (c) => c.charCodeAt(0)).buffer);
  const cache = new Map();
  const held = (key, make) => { if (!cache.has(key)) cache.set(key, make()); return cache.get(key); };
  const layer = () => Number(slider.value);
  const points = () => held(`${method.value}.${layer()}`, () => {
    const { xy, low, high } = maps[method.value][layer()];
    return Float32Array.from(numbers(xy, Uint16Array), (x) => low + (x / 65535) * (high - low));
  });
  const neighbours = () => held(`near.${layer()}`, () => numbers(near[layer()], Uint16Array));
  // Eight colours that the colour-blind can tell, then grey; the ten thousandth class needs no colour of its own.
  const inks = ["#3b7fc4", "#c06a10", "#2a9d8f", "#b5559b", "#8c6bc1", "#c44536", "#7a8c1e", "#947600"], grey = "#808893";
  let only = null, chosen = null, hovered = null;
  const isNumber = () => labels[colour.value].some((x) => typeof x === "number");
  const classes = () => held(`classes.${colour.value}`, () => {
    const counts = new Map();
    labels[colour.value].forEach((x) => { if (x !== null) counts.set(x, (counts.get(x) ?? 0) + 1); });
    return [...counts].sort((a, b) => b[1] - a[1]).map(([name]) => name);
  });
  const range = () => held(`range.${colour.value}`, () => {
    const some = labels[colour.value].filter((x) => x !== null).sort((a, b) => a - b);
    return [some[Math.floor(some.length * 0.02)], some[Math.floor(some.length * 0.98)]];
  });
  function ink(i) {
    const value = labels[colour.value][i];
    if (value === null) return grey;
    if (isNumber()) {
      const [low, high] = range();
      const share = Math.min(1, Math.max(0, (value - low) / (high - low || 1)));
      return `hsl(${212 - 180 * share} 65% ${52 - 4 * share}%)`;
    }
    return inks[classes().indexOf(value)] ?? grey;
  }
  let place = () => [0, 0];
  function draw() {
    const room = Math.max(240, Math.min(side, plane.parentElement.parentElement.clientWidth - 4));
    const ratio = devicePixelRatio || 1;
    plane.width = plane.height = room * ratio;
    plane.style.width = plane.style.height = `${room}px`;
    const pen = plane.getContext("2d");
    pen.scale(ratio, ratio);
    const xy = points();
    let reach = 0;
    for (const x of xy) reach = Math.max(reach, Math.abs(x));
    const scale = (room / 2 - edge) / reach;
    place = (i) => [room / 2 + xy[2 * i] * scale, room / 2 - xy[2 * i + 1] * scale];
    const dot = (i, r) => { const [x, y] = place(i); pen.beginPath(); pen.arc(x, y, r, 0, 7); pen.fill(); };
    for (let i = 0; i < n; i++) {
      const faint = only !== null && labels[colour.value][i] !== only;
      pen.globalAlpha = faint ? 0.12 : 0.78;
      pen.fillStyle = ink(i);
      dot(i, 3);
    }
    pen.globalAlpha = 1;
    const seen = hovered ?? chosen;
    if (seen !== null) {
      const paper = getComputedStyle(root).getPropertyValue("--ink").trim();
      pen.strokeStyle = pen.fillStyle = paper;
      const k = neighbours().length / n;
      for (let j = 0; j < k; j++) {
        const to = neighbours()[seen * k + j];
        pen.globalAlpha = 0.5;
        pen.beginPath();
        pen.moveTo(...place(seen));
        pen.lineTo(...place(to));
        pen.stroke();
        pen.globalAlpha = 1;
        dot(to, 3.4);
      }
      dot(seen, 5);
    }
    where.textContent = layers[layer()];
    caption.textContent = captions[method.value][layer()][colour.value] ?? captions[method.value][layer()][""];
  }
  const context = (i) => {
    const [s, w] = at[i], words = sentences[s];
    const nodes = [document.createTextNode(`${w > 6 ? "… " : ""}${words.slice(Math.max(0, w - 6), w).join(" ")} `), make("mark", words[w]),
      document.createTextNode(` ${words.slice(w + 1, w + 7).join(" ")}${w + 7 < words.length ? " …" : ""}`)];
    return nodes;
  };
  const named = (i) => labels[colour.value][i] ?? absent;
  function tell(i) {
    told.replaceChildren(make("b", `${named(i)} `), ...context(i));
    const k = neighbours().length / n;
    list.replaceChildren(...Array.from({ length: k }, (_, j) => {
      const to = neighbours()[i * k + j], item = make("li");
      item.append(make("b", `${named(to)} `), ...context(to));
      return item;
    }));
  }
  function nearestTo(event) {
    let best = null, least = 14 ** 2;
    for (let i = 0; i < n; i++) {
      const [x, y] = place(i), d = (x - event.offsetX) ** 2 + (y - event.offsetY) ** 2;
      if (d < least) [best, least] = [i, d];
    }
    return best;
  }
  function drawLegend() {
    only = null;
    if (isNumber()) {
      const [low, high] = range();
      legend.replaceChildren(...[[low, 0], [high, 1]].map(([value, share]) => {
        const node = make("span", String(value)), mark = make("i");
        mark.style.background = `hsl(${212 - 180 * share} 65% ${52 - 4 * share}%)`;
        node.prepend(mark, " ");
        return node;
      }));
      return;
    }
    const shown = classes().slice(0, inks.length);
    legend.replaceChildren(...shown.map((name, i) => {
      const node = make("button", name), mark = make("i");
      node.type = "button";
      mark.style.background = inks[i];
      node.prepend(mark);
      node.setAttribute("aria-pressed", "false");
      node.addEventListener("click", () => {
        only = only === name ? null : name;
        all("button", legend).forEach((b, j) => b.setAttribute("aria-pressed", String(shown[j] === only)));
        draw();
      });
      return node;
    }));
    if (classes().length > shown.length) {
      const rest = make("span", `${classes().length - shown.length} others`), mark = make("i");
      mark.style.background = grey;
      rest.prepend(mark, " ");
      legend.append(rest);
    }
  }
  plane.addEventListener("pointermove", (event) => {
    const found = nearestTo(event);
    if (found === hovered) return;
    hovered = found;
    draw();
    if (found === null) return hideTip();
    tell(found);
    showTip(event.pageX, event.pageY, [make("b", sentences[at[found][0]][at[found][1]]), make("span", String(named(found)), "t")]);
  });
  plane.addEventListener("pointerleave", () => {
    hovered = null;
    hideTip();
    draw();
    if (chosen !== null) tell(chosen);
  });
  plane.addEventListener("click", (event) => {
    chosen = nearestTo(event);
    draw();
  });
  plane.addEventListener("keydown", (event) => {
    const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
    const turn = { PageUp: -1, PageDown: 1 }[event.key];
    if (turn) {
      slider.value = String(layer() + turn);
      slider.dispatchEvent(new Event("input"));
    } else if (step) {
      chosen = ((chosen ?? 0) + step + n) % n;
      draw();
      tell(chosen);
    } else return;
    event.preventDefault();
  });
  slider.addEventListener("input", () => { draw(); if (chosen !== null) tell(chosen); });
  method.addEventListener("change", draw);
  colour.addEventListener("change", () => { drawLegend(); draw(); if (chosen !== null) tell(chosen); });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
  addEventListener("resize", draw);
  drawLegend();
  draw();
}
