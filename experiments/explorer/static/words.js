// The text: its tokens as chips, coloured; a token is chosen, swapped or made absent.

const NAMES = ["Mary", "John", "Aisha", "Omar", "Wei", "Maria", "he", "she", "they"];

const wordsPanel = (app) => {
  const text = h("textarea", { rows: "3", "aria-label": "Text", spellcheck: "false" });
  const other = h("textarea", { rows: "2", "aria-label": "Compared text", spellcheck: "false" });
  const chips = h("div", { class: "chips", role: "listbox", "aria-label": "Tokens" });
  const otherChips = h("p", { class: "quiet" });
  const by = h("select", { "aria-label": "Colour tokens by" });
  for (const [value, name] of [["surprise", "surprise (bits)"], ["grad-input", "gradient x input"], ["leave-one-out", "leave one out"], ["none", "nothing"]]) {
    by.append(h("option", { value }, name));
  }
  const bar = h("progress", { hidden: true, "aria-label": "Progress" });
  const chosen = h("p", { class: "readout", "aria-live": "polite" });
  const swap = h("input", { type: "text", "aria-label": "Other token", list: "explore-names", size: "12" });
  const names = h("datalist", { id: "explore-names" }, ...NAMES.map((name) => h("option", { value: name })));
  const tools = h(
    "p",
    { class: "tools" },
    swap,
    names,
    button("swap", () => swapChosen()),
    button("absent", () => absent(app.token)),
  );
  let timer;
  const typed = () => {
    clearTimeout(timer);
    timer = setTimeout(() => app.show({ ...app.view, text: text.value, other: other.value, edits: kept() }), 60);
  };
  // edits of single tokens belong to the text that they were made for
  const kept = () => (text.value === app.view.text ? app.view.edits : app.view.edits.filter((edit) => !/@|knockout/.test(edit)));
  text.addEventListener("input", typed);
  other.addEventListener("input", typed);
  by.addEventListener("change", () => {
    app.colour = by.value;
    if (by.value.includes("-")) app.ask("attribution", { method: by.value });
    paint();
  });

  const swapChosen = () => {
    const token = app.look?.tokens[app.token];
    if (!token || token.special) return;
    const before = app.view.text.slice(0, token.start);
    const piece = app.view.text.slice(token.start, token.end);
    const space = piece.startsWith(" ") && !swap.value.startsWith(" ") ? " " : "";
    app.show({ ...app.view, text: before + space + swap.value + app.view.text.slice(token.end), edits: [] });
  };
  const absent = (at) => {
    const tokens = app.look?.tokens;
    const word = tokens?.[at]?.word;
    if (word === null || word === undefined) return;
    const places = tokens.flatMap((token, i) => (token.word === word ? [i] : []));
    app.toggle(`hook_embed=absent@${places.join(",")}`);
  };
  const choose = (at) => {
    app.token = at;
    paint();
    app.tokenChosen();
  };

  const scores = () => {
    const { look, attribution } = app;
    if (app.colour === "surprise" && app.surprise?.bits.length === look.tokens.length) {
      const { bits: all } = app.surprise;
      const most = largest(all);
      return all.map((bits) => ({ value: bits, share: (bits ?? 0) / most, name: "surprise", unit: "bits" }));
    }
    if (attribution && attribution.method === app.colour) {
      const most = largest(attribution.units.map((unit) => unit.score));
      const found = look.tokens.map(() => null);
      for (const unit of attribution.units) {
        for (const at of unit.tokens) found[at] = { value: unit.score, share: unit.score / most, name: "attribution", unit: "nats, its word" };
      }
      return found;
    }
    return look.tokens.map(() => null);
  };
  const paint = () => {
    if (!app.look) return;
    const values = scores();
    const gone = new Set(app.view.edits.flatMap((edit) => (edit.startsWith("hook_embed=absent@") ? edit.split("@")[1].split(",") : [])));
    chips.replaceChildren(
      ...app.look.tokens.map((token, at) => {
        const chip = h(
          "span",
          {
            class: `chip${token.special ? " special" : ""}${gone.has(String(at)) ? " gone" : ""}`,
            role: "option",
            tabindex: at === app.token ? "0" : "-1",
            "aria-selected": String(at === app.token),
            "data-value": values[at] ? String(values[at].value) : null,
            "data-name": values[at] ? `${values[at].name}-${at}` : null,
            onclick: (event) => (event.altKey ? absent(at) : choose(at)),
          },
          shownToken(token.text),
        );
        if (values[at]) shade(chip, values[at].share);
        return chip;
      }),
    );
    const token = app.look.tokens[app.token];
    const value = values[app.token];
    chosen.replaceChildren(`token ${app.token} `, h("b", {}, shownToken(token?.text ?? "")));
    if (value && value.value !== null) chosen.append(": ", num(value.value, "chosen-token"), ` ${value.unit}`);
  };
  chips.addEventListener("keydown", (event) => {
    const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (step) {
      choose(Math.max(0, Math.min(app.look.tokens.length - 1, app.token + step)));
      chips.children[app.token].focus();
    } else if (event.key === "Delete" || event.key === "Backspace") absent(app.token);
    else return;
    event.preventDefault();
  });

  return {
    title: "Text",
    root: h(
      "section",
      {},
      h("label", {}, "Text", text),
      h("p", { class: "tools" }, "colour ", by, bar),
      chips,
      chosen,
      tools,
      h("label", {}, "Compare with", other),
      otherChips,
      h("p", { class: "quiet" }, "Alt-click (or Delete) makes a word absent: its embedding becomes the vocabulary's mean. Attributions are of the text without edits."),
    ),
    hear: (message) => {
      if (message.part === "look") {
        app.token = Math.min(app.token, message.tokens.length - 1);
        if (app.colour === "surprise" && app.about.kind !== "causal") app.colour = by.value = "none";
        paint();
        const compared = message.other;
        otherChips.replaceChildren();
        if (compared?.problem) otherChips.append(compared.problem);
        else if (compared && compared.difference !== null) {
          otherChips.append(`${compared.tokens.length} tokens; the contrast there: `, num(compared.difference, "other-difference"), " nats");
        }
        if (app.colour.includes("-")) app.ask("attribution", { method: app.colour });
      } else if (message.part === "progress" && message.of === "leave-one-out") {
        bar.hidden = false;
        bar.max = message.total;
        bar.value = message.done;
      } else if (message.part === "surprise") paint();
      else if (message.part === "attribution") {
        bar.hidden = true;
        paint();
      }
    },
    viewed: () => {
      if (document.activeElement !== text || app.jumped) text.value = app.view.text;
      if (document.activeElement !== other || app.jumped) other.value = app.view.other;
    },
  };
};
