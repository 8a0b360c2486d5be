// The screen: four panels over one view (text, compared text, edits, contrast), its history, and what was asked of it.

const mount = (root, channelOf) => {
  const app = {
    root, view: { text: "", other: "", edits: [], answer: null, wrong: null }, token: 0, colour: "surprise", by: "effect",
    look: null, surprise: null, heads: null, pattern: null, attribution: null, part: null, past: [], future: [], number: 0, lookNumber: 0, open: 0,
  };
  root.classList.add("explore");
  root.replaceChildren();
  const status = h("span", { class: "status", role: "status" }, "connecting");
  const problem = h("p", { class: "problem", role: "alert", hidden: true });
  const title = h("h1", {}, "explore");

  // -- asking

  app.ask = (name, values) => {
    app.number += 1;
    app.open += 1;
    if (name === "look") app.lookNumber = app.number;
    root.dataset.busy = "true";
    app.channel.send({ do: name, view: app.view, id: app.number, ...values });
    return app.number;
  };
  app.askHeads = (by) => {
    app.by = by;
    app.ask("heads", by === "attention" ? { by, token: app.token } : { by });
  };
  app.askLens = (kind, first) => {
    const where = first === undefined ? {} : { first };
    if (app.about.lenses.length) app.ask("lens", { kind: kind || app.about.lenses[0], ...where });
  };
  app.askPattern = () => {
    const { part } = app;
    if (part && part.head !== null) app.ask("pattern", { layer: part.layer, head: part.head });
  };
  app.tokenChosen = () => app.by === "attention" && app.askHeads("attention");

  // -- the view and its history

  const viewed = () => {
    for (const panel of panels) panel.viewed();
    const fragment = `#${encodeURIComponent(JSON.stringify(app.view))}`;
    if (app.channel.kind === "live") window.history.replaceState(null, "", fragment);
    app.channel.keep?.(app.view);
  };
  const refresh = () => {
    viewed();
    problem.hidden = true;
    app.ask("look", {});
    app.askPattern();
    app.askLens(root.querySelector("select[aria-label=Lens]").value);
    if (app.about.kind === "causal" || app.about.kind === "masked" || app.by !== "effect") app.askHeads(app.by);
    if (app.about.probes.length) app.ask("probes", {});
  };
  app.show = (view) => {
    const next = view.text === app.view.text ? view : { ...view, answer: null, wrong: null };
    if (JSON.stringify(next) === JSON.stringify(app.view)) return;
    app.past.push(app.view);
    app.future = [];
    app.view = next;
    refresh();
  };
  const jump = (from, to) => {
    if (!from.length) return;
    to.push(app.view);
    app.view = from.pop();
    app.jumped = true;
    refresh();
    app.jumped = false;
  };
  app.undo = () => jump(app.past, app.future);
  app.redo = () => jump(app.future, app.past);
  app.add = (edit) => app.show({ ...app.view, edits: [...app.view.edits, edit] });
  app.remove = (at) => app.show({ ...app.view, edits: app.view.edits.filter((_, i) => i !== at) });
  app.toggle = (edit) => {
    const at = app.view.edits.indexOf(edit);
    if (at < 0) app.add(edit);
    else app.remove(at);
  };
  const fragment = () => {
    try {
      const given = JSON.parse(decodeURIComponent(location.hash.slice(1)));
      return typeof given?.text === "string" ? { ...app.view, ...given } : null;
    } catch {
      return null;
    }
  };

  // -- hearing

  const hear = (message) => {
    // what was asked before the last look is of another view
    if (message.id && message.id < app.lookNumber) return;
    if (message.part === "hello") {
      app.about = message.about;
      title.replaceChildren(message.about.model);
      facts.replaceChildren(`${message.about.architecture}, ${message.about.layers} layers of ${message.about.heads} heads`);
      if (!message.about.has_map) facts.append("; its parts have no map: edit raw modules (module:PATH:output)");
      if (!app.view.text) app.view = (app.channel.kind === "live" && fragment()) || message.view;
    } else if (message.part === "problem") {
      problem.hidden = false;
      problem.textContent = message.text;
      root.dataset.problem = message.text;
    } else if (["look", "surprise", "heads", "pattern", "attribution"].includes(message.part)) app[message.part] = message;
    for (const panel of panels) panel.hear(message);
    if (message.part === "hello") {
      if (app.channel.kind === "saved") viewed();
      else refresh();
    }
    // a measured effect belongs on the grid
    if (message.part === "edits" && app.by === "effect") app.askHeads("effect");
    if (message.part === "look") root.dataset.looked = String(message.id ?? 0);
    if (message.part === "done") {
      root.dataset.done = String(message.id);
      if (message.id === app.number) root.dataset.busy = "false";
    }
  };
  const tell = (state) => {
    status.textContent = { connected: "live", disconnected: "connection lost, trying again", saved: "a saved page" }[state];
    root.dataset.state = state;
  };

  // -- the page

  const facts = h("p", { class: "quiet" });
  const panels = [wordsPanel(app), modelPanel(app), answerPanel(app), outPanel(app)];
  const tabs = h("div", { class: "tabs", role: "tablist" });
  const open = (at) => {
    panels.forEach((panel, i) => panel.root.classList.toggle("open", i === at));
    [...tabs.children].forEach((tab, i) => tab.setAttribute("aria-selected", String(i === at)));
    panels[at].repaint?.();
  };
  panels.forEach((panel, i) => {
    panel.root.prepend(h("h2", {}, panel.title));
    panel.root.setAttribute("aria-label", panel.title);
    tabs.append(button(panel.title, () => open(i), { role: "tab" }));
  });
  const [words, model, answer, out] = panels.map((panel) => panel.root);
  root.append(
    h("header", {}, h("p", { class: "kicker" }, "layerscope explore · ", status), title, facts, problem),
    tabs,
    h("div", { class: "columns" }, h("div", {}, words, out), h("div", {}, model), h("div", {}, answer)),
  );
  open(0);
  root.addEventListener("keydown", (event) => {
    if (!(event.ctrlKey || event.metaKey) || event.target.matches("textarea, input")) return;
    if (event.key === "z" && !event.shiftKey) app.undo();
    else if (event.key === "y" || (event.key === "z" && event.shiftKey) || event.key === "Z") app.redo();
    else return;
    event.preventDefault();
  });
  const theme = window.matchMedia("(prefers-color-scheme: dark)");
  const repaint = () => panels.forEach((panel) => panel.repaint?.());
  theme.addEventListener("change", repaint);
  app.channel = channelOf(hear, tell);
  if (app.channel.kind === "live") {
    window.addEventListener("hashchange", () => {
      const given = fragment();
      if (given) app.show(given);
    });
  }
  if (app.channel.kind === "saved") root.classList.add("saved");
  root.explore = app;
  return () => theme.removeEventListener("change", repaint);
};

export const mountLive = (root) => mount(root, socketChannel);

const mountSaved = (root) => {
  const saved = JSON.parse(document.getElementById("saved").textContent);
  mount(root, (hear, tell) => savedChannel(saved, hear, tell));
};

export default {
  render: ({ model, el }) => mount(el.appendChild(document.createElement("div")), (hear, tell) => kernelChannel(model, hear, tell)),
};
