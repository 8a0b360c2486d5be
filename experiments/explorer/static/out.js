// What leaves the bench: a link, Python, commands, a page, and a study over many texts.

const outPanel = (app) => {
  const text = h("pre", { class: "code", id: "explore-out", tabindex: "0" });
  const lines = h("textarea", { rows: "4", spellcheck: "false", "aria-label": "Prompts, one JSON object a line",
    placeholder: '{"prompt": "The keys to the cabinet", "answer": " are", "wrong": " is"}' });
  const study = h("select", { "aria-label": "Study" }, ...["ablate", "patch", "attribute"].map((name) => h("option", { value: name }, name)));
  const runs = h("ol", { class: "runs" });
  const show = (value) => {
    text.textContent = value;
    navigator.clipboard?.writeText(value).catch(() => {});
  };
  const start = button("run on a data set", () => app.channel.send({ do: "run", study: study.value, lines: lines.value }));
  const studies = h("div", { hidden: true }, h("h3", {}, "Is this so on many prompts?"), lines, h("p", { class: "tools" }, study, start), runs);
  return {
    title: "Out",
    root: h(
      "section",
      {},
      h("p", { class: "tools" },
        button("copy link", () => show(location.href), { class: "live" }),
        button("copy as Python", () => app.ask("python", {})),
        button("copy as command", () => app.ask("command", {})),
        button("save as page", () => app.ask("page", {}))),
      text,
      studies,
    ),
    hear: (message) => {
      if (message.part === "hello") {
        studies.hidden = !message.runs;
      } else if (message.part === "python" || message.part === "command") show(message.text);
      else if (message.part === "page") {
        const link = h("a", { href: URL.createObjectURL(new Blob([message.html], { type: "text/html" })), download: "explore.html" }, "explore.html");
        text.replaceChildren(link);
        link.click();
      } else if (message.part === "run") {
        const row = runs.querySelector(`[data-run="${message.number}"]`) ?? runs.appendChild(h("li", { "data-run": message.number }));
        row.dataset.state = message.state;
        row.replaceChildren(`${message.state}: ${message.text} `);
        if (message.state === "finished") row.append(h("a", { href: `runs/${message.number}`, target: "_blank", rel: "noopener" }, "open its page"));
      }
    },
    viewed: () => {},
  };
};
