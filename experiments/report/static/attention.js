"use strict";
// --- attention: an overview of all heads, one head's pattern, and what the chosen word attends to ---
function attention(box) {
  const source = data.attention[box.dataset.attention];
  const { layers, heads, texts, roles, values } = source;
  const part = (role) => box.querySelector(`[data-role="${role}"]`);
  const [overview, matrix, words, head, sees, chooseText, show, paint, hide] =
    ["overview", "matrix", "tokens", "head", "sees", "text", "show", "paint", "hide"].map(part);
  const bytes = new Map();
  const decoded = (text, key) => {
    const name = `${text}.${key}`;
    if (!bytes.has(name)) bytes.set(name, texts[text][key] && Uint8Array.from(atob(texts[text][key]), (c) => c.charCodeAt(0)));
    return bytes.get(name);
  };
  let text = 0, row = Math.floor(source.first / heads), column = source.first % heads, word = 0, reversed = false;
  const tokens = () => texts[text].tokens;
  // What each query gives to all tokens but the first, by layer, head and query: made once a text, when it is asked for.
  const others = new Map();
  const rest = () => {
    if (!others.has(text)) {
      const n = tokens().length, weights = decoded(text, "weights");
      others.set(text, Float32Array.from({ length: weights.length / n }, (_, line) => {
        let sum = 0;
        for (let k = 1; k < n; k++) sum += weights[line * n + k];
        return sum;
      }));
    }
    return others.get(text);
  };
  const raw = (r, c, q, k) => {
    const n = tokens().length, line = (r * heads + c) * n + q, weight = decoded(text, "weights")[line * n + k];
    if (!hide.checked) return weight / 255;
    return k === 0 ? 0 : weight / (rest()[line] || 1);
  };
  const moved = (q) => {
    const sizes = decoded(text, "norms");
    const line = tokens().map((_, k) => raw(row, column, q, k) * (sizes ? sizes[(row * heads + column) * tokens().length + k] : 1));
    const total = line.reduce((a, b) => a + b, 0) || 1;
    return line.map((x) => x / total);
  };
  // What the words show: a line of numbers for one attending word.
  const line = (q) => {
    const n = tokens().length;
    if (show.value === "weights") return tokens().map((_, k) => raw(row, column, q, k));
    if (show.value === "values") return moved(q);
    const path = tokens().map((_, k) => decoded(text, show.value)[q * n + k] / 255);
    if (!hide.checked) return path;
    path[0] = 0;
    const total = path.reduce((a, b) => a + b, 0) || 1;
    return path.map((x) => x / total);
  };
  const colour = (name) => getComputedStyle(root).getPropertyValue(`--${name}`).trim();
  const rgb = (name) => [1, 3, 5].map((i) => parseInt(colour(name).slice(i, i + 2), 16));
  const scaled = (canvas, width, height) => {
    const ratio = devicePixelRatio || 1;
    canvas.width = width * ratio;
    canvas.height = height * ratio;
    canvas.style.width = `${width}px`;
    canvas.style.height = `${height}px`;
    const pen = canvas.getContext("2d");
    pen.scale(ratio, ratio);
    pen.imageSmoothingEnabled = false;
    pen.font = "11px system-ui, sans-serif";
    return pen;
  };
  const stamp = document.createElement("canvas");
  const picture = (n, at) => {  // n x n numbers as one small image; roots, so that faint weights are seen
    stamp.width = stamp.height = n;
    const image = new ImageData(n, n), ink = rgb("score");
    for (let q = 0; q < n; q++) {
      for (let k = 0; k < n; k++) image.data.set([...ink, 255 * Math.sqrt(at(q, k))], 4 * (q * n + k));
    }
    stamp.getContext("2d").putImageData(image, 0, 0);
    return stamp;
  };
  const gutter = 26, above = 18;
  let side = 40;
  function drawOverview() {
    const room = overview.parentElement.clientWidth - gutter - 2;
    side = Math.max(12, Math.min(58, Math.floor(room / heads), Math.floor(640 / layers.length)));  // every layer in view
    const pen = scaled(overview, gutter + side * heads + 2, above + side * layers.length + 2);
    const measured = paint.value ? values[paint.value] : null;
    const signed = measured && measured.some((x) => x < 0);
    const largest = measured ? Math.max(...measured.map((x) => Math.abs(x ?? 0)), 1e-9) : 1;
    const least = measured && !signed ? Math.min(...measured.map((x) => x ?? 0)) : 0;
    const quiet = colour("quiet"), wash = colour("wash");
    pen.textAlign = "center";
    for (let c = 0; c < heads; c++) {
      pen.fillStyle = quiet;
      if (side >= 20 || c % 2 === 0) pen.fillText(String(c), gutter + side * (c + 0.5), 12);
    }
    for (let r = 0; r < layers.length; r++) {
      pen.fillStyle = quiet;
      pen.textAlign = "right";
      if (side >= 14 || r % 2 === 0) pen.fillText(String(layers[r]), gutter - 6, above + side * (r + 0.5) + 4);
      for (let c = 0; c < heads; c++) {
        const x = gutter + side * c, y = above + side * r;
        pen.fillStyle = wash;
        pen.fillRect(x + 1, y + 1, side - 2, side - 2);
        if (measured) {
          const value = measured[r * heads + c];
          if (value === null) continue;
          pen.fillStyle = colour(value < 0 ? "control" : "score");
          pen.globalAlpha = signed ? Math.abs(value) / largest : (value - least) / (largest - least || 1);
          pen.fillRect(x + 1, y + 1, side - 2, side - 2);
          pen.globalAlpha = 1;
        } else {
          pen.drawImage(picture(tokens().length, (q, k) => raw(r, c, q, k)), x + 1, y + 1, side - 2, side - 2);
        }
      }
    }
    pen.strokeStyle = colour("control");
    pen.lineWidth = 2;
    pen.strokeRect(gutter + side * column, above + side * row, side, side);
  }
  function drawMatrix() {
    const n = tokens().length, cell = Math.max(7, Math.min(18, 460 / n));
    const short = tokens().map((t) => (t.length > 11 ? `${t.slice(0, 10)}…` : t));
    const left = 84, top = 74;
    const pen = scaled(matrix, left + cell * n + 44, top + cell * n + 2);
    const lines = tokens().map((_, q) => line(q));
    pen.drawImage(picture(n, (q, k) => Math.min(1, lines[q][k])), left, top, cell * n, cell * n);
    pen.strokeStyle = colour("hair");
    pen.strokeRect(left, top, cell * n, cell * n);
    for (let i = 0; i < n; i++) {
      if (cell < 10 && i % 2 && i !== word) continue;
      pen.fillStyle = colour(i === word ? "ink" : "quiet");
      pen.textAlign = "right";
      pen.fillText(short[i], left - 6, top + cell * (i + 0.5) + 4);
      pen.save();
      pen.translate(left + cell * (i + 0.5) + 3, top - 6);
      pen.rotate(-0.9);
      pen.textAlign = "left";
      pen.fillText(short[i], 0, 0);
      pen.restore();
    }
    pen.strokeStyle = colour("control");
    pen.lineWidth = 1.5;
    if (reversed) pen.strokeRect(left + cell * word, top, cell, cell * n);
    else pen.strokeRect(left, top + cell * word, cell * n, cell);
    matrix.dataset.cell = String(cell);
  }
  function drawWords() {
    const found = reversed ? tokens().map((_, q) => line(q)[word]) : line(word);
    const ink = colour("score");
    [...words.children].forEach((node, i) => {
      const share = Math.min(1, found[i]);
      node.style.background = `color-mix(in srgb, ${ink} ${Math.round(54 * Math.sqrt(share))}%, transparent)`;
      node.setAttribute("aria-selected", String(i === word));
    });
    const order = found.map((x, i) => [x, i]).sort((a, b) => b[0] - a[0]).slice(0, 4).filter(([x]) => x >= 0.005);
    const listed = order.map(([x, i]) => `${tokens()[i]} ${x.toFixed(2)}`).join(", ");
    sees.textContent = reversed ? `${tokens()[word]} gets attention from ${listed}` : `${tokens()[word]} attends to ${listed}`;
  }
  function drawHead() {
    const at = row * heads + column, some = Object.entries(values).filter(([, v]) => v[at] !== null);
    const path = show.value === "rollout" || show.value === "flow";
    head.replaceChildren(make("b", path ? show.selectedOptions[0].textContent : `Layer ${layers[row]}, head ${column}`));
    if (path) return;
    if (roles[at]) head.append(make("span", roles[at], "badge good"));
    head.append(make("small", some.map(([name, v]) => `${name} ${number(v[at], 2)}`).join(" · ")));
  }
  function layOut() {
    words.replaceChildren(...tokens().map((token, i) => {
      const node = make("span", token);
      node.setAttribute("role", "option");
      node.addEventListener("pointerenter", () => chooseWord(i));
      node.addEventListener("click", () => chooseWord(i));
      return node;
    }));
    word = Math.min(word || tokens().length - 2, tokens().length - 1);
    drawAll();
  }
  function drawAll() { drawOverview(); drawHead(); drawWords(); drawMatrix(); }
  function chooseWord(i) {
    word = Math.min(Math.max(i, 0), tokens().length - 1);
    drawWords();
    drawMatrix();
  }
  function chooseHead(r, c) {
    row = Math.min(Math.max(r, 0), layers.length - 1);
    column = Math.min(Math.max(c, 0), heads - 1);
    drawAll();
  }
  const cellAt = (event) => [Math.floor((event.offsetY - above) / side), Math.floor((event.offsetX - gutter) / side)];
  overview.addEventListener("click", (event) => {
    const [r, c] = cellAt(event);
    if (r >= 0 && c >= 0 && r < layers.length && c < heads) chooseHead(r, c);
  });
  overview.addEventListener("pointermove", (event) => {
    const [r, c] = cellAt(event);
    if (r < 0 || c < 0 || r >= layers.length || c >= heads) return hideTip();
    const at = r * heads + c, value = paint.value ? values[paint.value][at] : null;
    showTip(event.pageX, event.pageY, [make("b", `Layer ${layers[r]}, head ${c}`),
      ...(roles[at] ? [make("span", roles[at], "t")] : []),
      ...(value === null ? [] : [make("span", `${paint.value} ${number(value)}`, "t")])]);
  });
  overview.addEventListener("pointerleave", hideTip);
  overview.addEventListener("keydown", (event) => {
    const to = { ArrowUp: [row - 1, column], ArrowDown: [row + 1, column], ArrowLeft: [row, column - 1],
      ArrowRight: [row, column + 1], Home: [row, 0], End: [row, heads - 1] }[event.key];
    if (!to) return;
    event.preventDefault();
    chooseHead(...to);
  });
  words.addEventListener("keydown", (event) => {
    const to = { ArrowLeft: word - 1, ArrowRight: word + 1, Home: 0, End: tokens().length - 1 }[event.key];
    if (to === undefined) return;
    event.preventDefault();
    chooseWord(to);
  });
  matrix.addEventListener("pointermove", (event) => {
    const cell = Number(matrix.dataset.cell), q = Math.floor((event.offsetY - 74) / cell), k = Math.floor((event.offsetX - 84) / cell);
    if (q < 0 || k < 0 || q >= tokens().length || k >= tokens().length) return hideTip();
    showTip(event.pageX, event.pageY, [make("b", `${tokens()[q]} attends to ${tokens()[k]}`), make("span", line(q)[k].toFixed(3), "t")]);
  });
  matrix.addEventListener("pointerleave", hideTip);
  matrix.addEventListener("click", (event) => chooseWord(Math.floor((event.offsetY - 74) / Number(matrix.dataset.cell))));
  box.addEventListener("keydown", (event) => {
    if (event.target.tagName === "SELECT" || event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.key === "t") {
      text = (text + 1) % texts.length;
      chooseText.value = String(text);
      layOut();
    } else if (event.key === "r") {
      reversed = !reversed;
      drawWords();
      drawMatrix();
    } else if (event.key === "h") {
      hide.checked = !hide.checked;
      drawAll();
    }
  });
  chooseText.addEventListener("change", () => { text = Number(chooseText.value); layOut(); });
  show.addEventListener("change", drawAll);
  hide.addEventListener("change", drawAll);
  paint.addEventListener("change", drawOverview);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", drawAll);
  addEventListener("resize", drawOverview);
  layOut();
}
