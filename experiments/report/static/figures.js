// --- each figure leaves as SVG, PNG and a caption: drawn on paper, whatever the reader's colours are ---
const svgSpace = "http://www.w3.org/2000/svg";
function standing(svg) {
  const { width, height } = svg.viewBox.baseVal, margin = 12;
  const copy = svg.cloneNode(true);
  all(".cursor", copy).forEach((node) => node.remove());
  const size = { width: width + 2 * margin, height: height + 2 * margin };
  copy.setAttribute("xmlns", svgSpace);
  copy.setAttribute("viewBox", `${-margin} ${-margin} ${size.width} ${size.height}`);
  for (const [side, value] of Object.entries(size)) copy.setAttribute(side, value);
  const style = document.createElementNS(svgSpace, "style");
  style.textContent = data.figures.style;
  const paper = document.createElementNS(svgSpace, "rect");
  for (const [key, value] of Object.entries({ class: "paper", x: -margin, y: -margin, ...size })) paper.setAttribute(key, value);
  copy.prepend(style, paper);
  return { text: new XMLSerializer().serializeToString(copy), ...size };
}
function saveAs(blob, name) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(blob);
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
}
function pngOf({ text, width, height }, scale = 3) {
  return new Promise((done, failed) => {
    const image = new Image();
    image.onload = () => {
      const canvas = document.createElement("canvas");
      [canvas.width, canvas.height] = [width * scale, height * scale];
      canvas.getContext("2d").drawImage(image, 0, 0, canvas.width, canvas.height);
      canvas.toBlob(done);
    };
    image.onerror = failed;
    image.src = `data:image/svg+xml;charset=utf-8,${encodeURIComponent(text)}`;
  });
}
// What a paper's caption says: what is shown, how to read it, and of what it is.
function captionOf(box, label) {
  const caption = box.querySelector("figcaption")?.cloneNode(true);
  caption?.querySelectorAll(".key, .tools").forEach((node) => node.remove());
  const parts = [label, caption?.textContent, data.figures.about]
    .map((part) => (part ?? "").replace(/\s+/g, " ").replace(/ (Click|Point) [^.]*\./g, "").trim());
  const kept = parts.filter((part, i) => part && !(i === 1 && label.endsWith(part)));
  return kept.map((part) => (/[.!?]$/.test(part) ? part : `${part}.`)).join(" ");
}
function leaving(box) {
  const svg = box.querySelector(".chart svg, .heat svg, .triangle svg");
  const canvas = box.querySelector('canvas[data-role="matrix"], canvas[data-role="plane"]');
  if (!svg && !canvas) return;
  const label = (canvas ?? box.querySelector("[aria-label]"))?.getAttribute("aria-label").split(": rows")[0] ?? "";
  const name = `${data.figures.name} ${label}`.toLowerCase().replace(/[^a-z0-9]+/g, "-").replace(/^-|-$/g, "").slice(0, 80);
  const tools = make("p", undefined, "tools leave");
  const button = (text, hint, act) => {
    const node = make("button", text);
    node.type = "button";
    node.title = hint;
    node.setAttribute("aria-label", `${hint}: ${label}`);
    node.addEventListener("click", () => act(node));
    tools.append(node);
  };
  if (svg) {
    button("SVG", "Save the figure as SVG", () => saveAs(new Blob([standing(svg).text], { type: "image/svg+xml" }), `${name}.svg`));
    button("PNG", "Save the figure as PNG, 300 dpi", async () => saveAs(await pngOf(standing(svg)), `${name}.png`));
  } else {
    button("PNG", "Save the figure as PNG", () => canvas.toBlob((blob) => saveAs(blob, `${name}.png`)));
  }
  button("Caption", "Copy a caption", (node) => copy(captionOf(box, label), node));
  box.append(tools);
}
