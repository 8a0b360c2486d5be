// The answer: the likeliest tokens clean and edited, the edits and their effects, the lens, probes, and continuations.

const answerPanel = (app) => {
  const bars = h("table", { class: "bars" });
  const contrast = h("p", { class: "readout", id: "explore-contrast" });
  const edits = h("ol", { class: "edits" });
  const sum = h("p", { class: "readout" });
  const lens = h("table", { class: "lens" });
  const lensKind = h("select", { "aria-label": "Lens" });
  const lensNote = h("p", { class: "readout", "aria-live": "polite" });
  const probes = h("table", { class: "lens" });
  const columns = { clean: h("pre", { class: "code" }), edited: h("pre", { class: "code" }) };
  const length = h("input", { type: "number", value: "30", min: "1", max: "400", "aria-label": "Tokens to generate" });
  let generated = 0;
  let seen = new Map();

  const meter = (share, kind) => {
    const fill = h("i", { class: kind });
    fill.style.width = `${100 * share}%`;
    return h("span", { class: "meter" }, fill);
  };
  const paintAnswer = ({ answer, unchanged }) => {
    bars.replaceChildren();
    contrast.replaceChildren();
    if (!answer) {
      contrast.append("This model has no head: it gives hidden states and no answer. Patterns and sizes can still be read.");
      return;
    }
    const pair = answer.contrast;
    for (const row of answer.rows) {
      const pick = (which) =>
        button(which === "answer" ? "A" : "B", () => app.show({ ...app.view, answer: pair.answer.id, wrong: pair.wrong.id, [which]: row.id }),
          { "aria-pressed": String(pair[which].id === row.id), title: which === "answer" ? "follow this one" : "compare with this one",
            disabled: pair[which === "answer" ? "wrong" : "answer"].id === row.id });
      bars.append(
        h("tr", { "data-id": row.id },
          h("th", { scope: "row" }, shownToken(row.text)),
          h("td", {}, meter(row.clean, "clean"), meter(row.edited, "edited")),
          h("td", { class: "n" }, num(row.clean, `clean-${row.id}`)),
          h("td", { class: "n" }, num(row.edited, `edited-${row.id}`)),
          h("td", {}, pick("answer"), pick("wrong"))),
      );
    }
    contrast.append(
      "logit of ", h("b", {}, shownToken(pair.answer.text)), " over ", h("b", {}, shownToken(pair.wrong.text)), ": clean ",
      num(pair.clean, "contrast-clean"), ", edited ", num(pair.edited, "contrast-edited"), " nats",
    );
    if (unchanged.length) contrast.append(h("span", { class: "warn" }, ` Changed nothing: ${unchanged.join(", ")}`));
  };
  const paintEdits = (message) => {
    const effects = new Map((message?.alone ?? []).map((row) => [row.edit, row.effect]));
    edits.replaceChildren(
      ...app.view.edits.map((edit, at) =>
        h("li", {}, h("code", {}, edit), " ",
          effects.has(edit) ? num(effects.get(edit), `alone-${at}`, 3, true) : "…", " ",
          button("×", () => app.remove(at), { "aria-label": `Remove ${edit}` })),
      ),
    );
    sum.replaceChildren();
    if (message && app.view.edits.length > 1) {
      sum.append("together ", num(message.together, "together", 3, true), ", sum of singles ", num(message.sum, "sum", 3, true), " nats");
    }
  };

  // -- the lens

  const paintLens = (message) => {
    if (seen.key !== `${message.id}`) {
      seen = new Map();
      seen.key = `${message.id}`;
    }
    app.lens = message;
    earlier.hidden = later.hidden = message.length <= 16;
    message.columns.forEach((column, i) => seen.set(message.positions[i], column));
    const places = [...seen.keys()].filter((key) => key !== "key").sort((a, b) => a - b);
    const layers = seen.get(places.at(-1)).length;
    const head = h("tr", {}, h("th", {}, "layer"), ...places.map((at) => h("th", { scope: "col" }, shownToken(app.look?.tokens[at]?.text ?? ""))));
    const rows = [head];
    for (let layer = layers - 1; layer >= 0; layer -= 1) {
      const cells = places.map((at) => {
        const one = seen.get(at)[layer];
        if (!one) return h("td", {}, "–"); // a lens without a matrix for this layer
        const inside = button(shownToken(one.text).slice(0, 9), () => app.ask("cell", { layer: layer - 1, position: at, kind: lensKind.value || "logit" }), {
          "data-value": String(one.p), "data-name": `lens-${layer - 1}-${at}`, "data-answer": String(one.answer),
          title: `p = ${shownNumber(one.p)}; followed answer ${shownNumber(one.answer)}`,
        });
        shade(inside, one.p);
        return h("td", {}, inside);
      });
      rows.push(h("tr", {}, h("th", { scope: "row" }, layer ? String(layer - 1) : "emb"), ...cells));
    }
    lens.replaceChildren(...rows);
    // the answer's column is the last one
    lens.parentElement.scrollLeft = lens.parentElement.scrollWidth;
  };
  lensKind.addEventListener("change", () => app.askLens(lensKind.value));
  // a long text in steps of the columns that are shown at a time
  const step = (by) => () => app.askLens(lensKind.value, Math.max(0, Math.min(app.lens.length - 16, app.lens.start + by)));
  const earlier = button("◂ earlier tokens", step(-16), { hidden: true });
  const later = button("later tokens ▸", step(16), { hidden: true });

  // -- continuations

  const start = () => {
    columns.clean.textContent = columns.edited.textContent = "";
    generated = app.ask("generate", { length: Number(length.value) });
    stop.disabled = false;
  };
  const stop = button("stop", () => app.channel.send({ do: "stop" }), { disabled: true });

  return {
    title: "Answer",
    root: h(
      "section",
      {},
      h("table", { class: "key" }, h("tr", {}, h("td", {}, meter(1, "clean"), " clean"), h("td", {}, meter(1, "edited"), " edited"))),
      bars,
      contrast,
      h("p", { class: "quiet" }, "One text has no interval: run a study over many to know whether this holds."),
      h("h3", {}, "Edits in force"),
      edits,
      sum,
      h("p", { class: "tools" }, button("undo", () => app.undo()), button("redo", () => app.redo()), button("remove all", () => app.show({ ...app.view, edits: [] }))),
      h("h3", {}, "Lens: what each layer would predict"),
      h("p", { class: "tools" }, lensKind, earlier, later),
      h("div", { class: "scroll" }, lens),
      lensNote,
      h("h3", { class: "probes", hidden: true }, "Probes"),
      h("div", { class: "scroll" }, probes),
      h("h3", {}, "Continue the text"),
      h("p", { class: "tools" }, length, button("generate", start), stop),
      h("div", { class: "twins" }, h("div", {}, "clean", columns.clean), h("div", {}, "edited", columns.edited)),
    ),
    hear: (message) => {
      if (message.part === "hello") {
        lensKind.replaceChildren(...message.about.lenses.map((kind) => h("option", { value: kind }, `${kind} lens`)));
        lensKind.hidden = message.about.lenses.length < 2;
      } else if (message.part === "look") {
        paintAnswer(message);
        paintEdits(app.view.edits.length ? undefined : null);
      } else if (message.part === "edits") paintEdits(message);
      else if (message.part === "lens") paintLens(message);
      else if (message.part === "cell") {
        lensNote.replaceChildren(
          `layer ${message.layer < 0 ? "emb" : message.layer}, behind token ${message.position}: `,
          ...message.rows.flatMap((row) => [h("b", {}, shownToken(row.text)), " ", num(row.p, `cell-${row.id}`), "  "]),
        );
      } else if (message.part === "probes") {
        app.root.querySelector("h3.probes").hidden = false;
        const head = h("tr", {}, h("th", {}, "layer"), ...message.words.map((word) => h("th", {}, word)));
        const rows = message.rows.map((row) =>
          h("tr", {}, h("th", {}, `${row.property} ${row.layer ?? ""}`),
            ...row.cells.map((one, i) => {
              const inside = h("span", { "data-value": String(one.p), "data-name": `probe-${row.site}-${i}`, title: shownNumber(one.p) }, one.label);
              shade(inside, one.p / 2);
              return h("td", {}, inside);
            })),
        );
        probes.replaceChildren(head, ...rows);
      } else if (message.part === "generated" && message.id === generated) columns[message.side].textContent = message.text;
      else if (message.part === "done" && message.of_request === "generate") stop.disabled = true;
      else if (message.part === "stopped") stop.disabled = true;
    },
    viewed: () => paintEdits(),
  };
};
