// The model: heads and MLPs as a grid, the neurons that matter most, edits of what is chosen, and one head's pattern.

const modelPanel = (app) => {
  const by = h("select", { "aria-label": "Colour heads by" });
  for (const [value, name] of [["effect", "effect of zeroing it"], ["attention", "attention to the chosen token"], ["sink", "attention to the first token"], ["norm", "size of what it adds"]]) {
    by.append(h("option", { value }, name));
  }
  const bar = h("progress", { hidden: true, "aria-label": "Progress" });
  const readout = h("p", { class: "readout", "aria-live": "polite" });
  const agreement = h("p", { class: "quiet", id: "explore-agreement" });
  const neurons = h("ol", { class: "neurons" });
  const patternNote = h("p", { class: "readout", "aria-live": "polite" });
  const hideFirst = h("input", { type: "checkbox" });
  const positions = h("input", { type: "text", placeholder: "all", size: "6", "aria-label": "Tokens to edit" });
  const factor = h("input", { type: "number", value: "0.5", step: "0.1", "aria-label": "Factor" });
  const edge = h("input", { type: "text", placeholder: "query>key", size: "8", "aria-label": "Edge to cut" });
  const site = h("input", { type: "text", placeholder: "blocks.2.hook_resid_post", "aria-label": "Any site" });
  let layers = [];
  let grid;

  // what a cell of the grid is: a head, or the MLP in the last column
  const partAt = (row, column) => {
    const layer = layers[row];
    const isMlp = column >= layer.values.length;
    return {
      layer: layer.layer,
      head: isMlp ? null : column,
      site: isMlp ? `blocks.${layer.layer}.hook_mlp_out` : `blocks.${layer.layer}.attn.hook_z[${column}]`,
      name: isMlp ? `L${layer.layer} MLP` : `L${layer.layer} H${column}`,
      value: isMlp ? layer.mlp : layer.values[column],
    };
  };
  const isEdited = (name) => app.view.edits.some((edit) => edit.startsWith(`${name}=`));
  const draw = (pen, it) => {
    const every = layers.flatMap((layer) => [...layer.values, layer.mlp]);
    const most = largest(every);
    const [more, less, paper, ink] = ["score", "control", "paper", "ink"].map((name) => colour(app.root, name));
    for (let row = 0; row < it.rows; row += 1) {
      for (let column = 0; column < it.columns; column += 1) {
        const part = partAt(row, column);
        if (part.value === undefined || part.value === null) continue;
        const exact = app.heads.exact?.[part.site];
        const value = exact ?? part.value;
        const [x, y, size] = [column * it.cell + 1, row * it.cell + 1, it.cell - 2];
        pen.globalAlpha = 0.08 + 0.92 * Math.min(1, Math.abs(value) / most);
        pen.fillStyle = value < 0 ? less : more;
        pen.fillRect(x, y, size, size);
        pen.globalAlpha = 1;
        if (app.heads.by === "effect" && exact === undefined) {
          pen.strokeStyle = paper;
          pen.lineWidth = 1;
          pen.beginPath();
          for (let d = 3; d < 2 * size; d += 4) {
            pen.moveTo(x + Math.max(0, d - size), y + Math.min(d, size));
            pen.lineTo(x + Math.min(d, size), y + Math.max(0, d - size));
          }
          pen.stroke();
        }
        if (isEdited(part.site)) {
          pen.fillStyle = ink;
          pen.fillRect(x + size / 2 - 2, y + size / 2 - 2, 4, 4);
        }
      }
    }
  };
  const say = (row, column) => {
    const part = partAt(row, column);
    readout.replaceChildren(h("b", {}, part.name), " ");
    if (part.value !== undefined && part.value !== null) {
      const kind = app.heads.by === "effect" ? "estimate " : `${by.selectedOptions[0].textContent}: `;
      readout.append(kind, num(part.value, "cell", 4, app.heads.by === "effect"), ` ${app.heads.unit}`);
    }
    const exact = app.heads.exact?.[part.site];
    if (exact !== undefined) readout.append("; exact ", num(exact, "cell-exact", 4, true), " nats");
  };
  const choose = (row, column, alsoZero) => {
    const part = partAt(row, column);
    app.part = part;
    if (alsoZero && app.channel.kind !== "saved") app.toggle(`${part.site}=zero`);
    else app.askPattern();
    menu();
  };
  grid = cellGrid(app.root, "Heads and MLPs: arrows move, Enter zeroes, m chooses without an edit", {
    draw, size: 18, move: say, choose,
  });
  by.addEventListener("change", () => app.askHeads(by.value));

  // -- the menu of the chosen part

  const chosen = h("div", { class: "menu" });
  const at = () => (positions.value.trim() ? `@${positions.value.replaceAll(" ", "")}` : "");
  const attention = (part, end) => `blocks.${part.layer}.attn.${end}[${part.head}]`;
  const menu = () => {
    const { part } = app;
    if (!part) return;
    const add = (how, name = part.site) => () => app.add(`${name}=${how}${at()}`);
    chosen.replaceChildren(
      h("p", { class: "tools" }, h("b", {}, part.name), button("zero", add("zero")), button("mean", add("mean")),
        button("patch", add("patch")), factor, button("scale", () => add(`scale:${Number(factor.value)}`)())),
    );
    if (part.head !== null && part.head !== undefined) {
      chosen.append(
        h("p", { class: "tools" },
          button("freeze pattern", add("freeze", attention(part, "hook_pattern"))), edge,
          button("cut edge", () => app.add(`${attention(part, "hook_attn_scores")}=knockout:${edge.value.replaceAll(" ", "")}`))),
      );
    }
    chosen.append(h("p", { class: "tools" }, h("label", {}, "tokens ", positions)));
  };

  // -- the pattern of the chosen head

  const weights = () => {
    const bytes = Uint8Array.from(atob(app.pattern.weights), (c) => c.charCodeAt(0));
    return new Float32Array(bytes.buffer);
  };
  const first = () => (hideFirst.checked ? 1 : 0);
  const pattern = cellGrid(app.root, "Attention pattern: a row for each query, a column for each key", {
    size: 12,
    draw: (pen, it) => {
      const values = app.patternWeights;
      const size = app.pattern.size;
      let most = 1e-9;
      for (let q = first(); q < size; q += 1) for (let k = first(); k <= q; k += 1) most = Math.max(most, values[q * size + k]);
      pen.fillStyle = colour(app.root, "score");
      for (let row = 0; row < it.rows; row += 1) {
        for (let column = 0; column < it.columns; column += 1) {
          pen.globalAlpha = Math.min(1, values[(row + first()) * size + column + first()] / most);
          pen.fillRect(column * it.cell, row * it.cell, it.cell - 1, it.cell - 1);
        }
      }
      pen.globalAlpha = 1;
    },
    move: (row, column) => {
      const [query, key] = [row + first(), column + first()];
      const tokens = app.look.tokens;
      patternNote.replaceChildren(
        `L${app.pattern.layer} H${app.pattern.head}: `, h("b", {}, shownToken(tokens[query]?.text ?? "")), " attends to ",
        h("b", {}, shownToken(tokens[key]?.text ?? "")), " with ", num(app.patternWeights[query * app.pattern.size + key], "weight", 4),
      );
    },
    choose: (row, column) => {
      edge.value = `${row + first()}>${column + first()}`;
    },
  });
  const paintPattern = () => {
    if (!app.pattern) return;
    pattern.rows = pattern.columns = Math.max(0, app.pattern.size - first());
    pattern.cell = Math.max(2, Math.min(16, Math.floor(320 / Math.max(1, pattern.rows))));
    pattern.to(pattern.row, pattern.column);
  };
  hideFirst.addEventListener("change", paintPattern);

  const measureMore = button("measure the 12 largest exactly", () => app.ask("measure", {}));
  return {
    title: "Model",
    root: h(
      "section",
      {},
      h("p", { class: "tools" }, "colour ", by, measureMore, bar),
      h("div", { class: "scroll" }, grid.canvas),
      h("p", { class: "quiet" }, "A row for each layer, the last on top; a column for each head, then the MLP. Hatched: estimated from one gradient. Solid: measured. A square: edited."),
      readout,
      agreement,
      chosen,
      h("p", { class: "tools" }, site, button("zero this site", () => site.value && app.toggle(`${site.value.trim()}=zero${at()}`))),
      h("details", {}, h("summary", {}, "Neurons with the largest |activation x gradient|"), neurons),
      h("h3", {}, "Pattern of the chosen head"),
      h("label", { class: "check" }, hideFirst, " hide the first token"),
      h("div", { class: "scroll" }, pattern.canvas),
      patternNote,
    ),
    repaint: () => grid.rows && (grid.paint(), paintPattern()),
    hear: (message) => {
      if (message.part === "heads") {
        measureMore.disabled = message.by !== "effect";
        bar.hidden = true;
        const mlps = new Map((message.mlps ?? []).map((row) => [row.layer, row.value]));
        layers = [...message.rows].reverse().map((row) => ({ ...row, mlp: mlps.get(row.layer) }));
        if (!layers.length) layers = [...mlps].reverse().map(([layer, value]) => ({ layer, values: [], mlp: value }));
        grid.rows = layers.length;
        grid.columns = Math.max(0, ...layers.map((row) => row.values.length)) + (mlps.size ? 1 : 0);
        grid.cell = grid.columns > 20 ? 14 : 20;
        grid.to(grid.row, grid.column);
        if (message.by === "effect") {
          neurons.replaceChildren(
            ...message.neurons.map((one) =>
              h("li", {}, button(`L${one.layer} N${one.index}`, () => app.toggle(`${one.site}=zero`)), " estimate ",
                num(one.effect, `neuron-${one.site}`, 4, true), " nats"),
            ),
          );
          const a = message.agreement;
          const count = Object.keys(message.exact).length;
          agreement.replaceChildren(
            ...(a
              ? [`Estimates against ${a.n} exact values so far: rank correlation `, num(a.spearman, "agreement", 2), `, ${Math.round(100 * (a.same_sign ?? 0))}% of signs right${a.misleads.length ? "; they mislead here" : ""}.`]
              : [`Estimates are unchecked: ${count === 1 ? "1 exact value" : `${count} exact values`} so far, 3 are needed.`]),
          );
        }
      } else if (message.part === "pattern") {
        app.patternWeights = weights();
        paintPattern();
      } else if (message.part === "progress" && message.of === "measure") {
        bar.hidden = false;
        bar.max = message.total;
        bar.value = message.done;
      }
    },
    viewed: () => grid.rows && grid.paint(),
  };
};
