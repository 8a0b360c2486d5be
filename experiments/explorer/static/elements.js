// Elements, numbers and colours. Text only ever becomes text: nothing here parses markup.

const h = (tag, props = {}, ...children) => {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(props)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name === "class") element.className = value;
    else if (value === true) element.setAttribute(name, "");
    else if (value !== false && value !== null && value !== undefined) element.setAttribute(name, value);
  }
  element.append(...children.filter((child) => child !== null && child !== undefined));
  return element;
};

// A number as it is shown, with the whole of it beside.
const shownNumber = (value, digits = 3) => {
  if (value === null || value === undefined) return "–";
  if (value !== 0 && Math.abs(value) < 0.0005) return value.toExponential(1);
  return value.toFixed(digits);
};
const num = (value, name, digits = 3, signed = false) => {
  const sign = signed && value > 0 ? "+" : "";
  return h("data", { value: String(value), "data-name": name }, sign + shownNumber(value, digits));
};

// White space of a token, made visible.
const shownToken = (text) => text.replaceAll("\n", "⏎").replaceAll("\t", "⇥").replace(/^ /, "·") || "∅";

const colour = (root, name) => getComputedStyle(root).getPropertyValue(`--${name}`).trim();

// A background of one hue for more, another for less; `share` is from -1 to 1.
const shade = (element, share) => {
  const strength = Math.round(Math.min(1, Math.abs(share)) * 70);
  const hue = share < 0 ? "--control" : "--score";
  element.style.background = strength ? `color-mix(in srgb, var(${hue}) ${strength}%, var(--paper))` : "";
};

const largest = (values) => values.reduce((most, value) => Math.max(most, Math.abs(value ?? 0)), 1e-9);

const button = (text, onclick, props = {}) => h("button", { type: "button", onclick, ...props }, text);

// A canvas of cells with a cursor: arrows move it, Enter and a click choose.
const cellGrid = (root, label, { draw, size, move, choose }) => {
  const canvas = h("canvas", { tabindex: "0", role: "application", "aria-label": label });
  const grid = { canvas, row: 0, column: 0, rows: 0, columns: 0, cell: size };
  const scale = () => window.devicePixelRatio || 1;
  grid.paint = () => {
    const [width, height] = [grid.columns * grid.cell, grid.rows * grid.cell];
    canvas.width = Math.max(1, width * scale());
    canvas.height = Math.max(1, height * scale());
    canvas.style.width = `${width}px`;
    canvas.style.height = `${height}px`;
    const pen = canvas.getContext("2d");
    pen.scale(scale(), scale());
    draw(pen, grid);
    pen.strokeStyle = colour(root, "ink");
    pen.lineWidth = 1.5;
    pen.strokeRect(grid.column * grid.cell + 0.75, grid.row * grid.cell + 0.75, grid.cell - 1.5, grid.cell - 1.5);
  };
  grid.to = (row, column) => {
    grid.row = Math.max(0, Math.min(grid.rows - 1, row));
    grid.column = Math.max(0, Math.min(grid.columns - 1, column));
    grid.paint();
    move(grid.row, grid.column);
  };
  const under = (event) => {
    const box = canvas.getBoundingClientRect();
    const place = (at, from) => Math.floor((at - from) / grid.cell);
    return [place(event.clientY, box.top), place(event.clientX, box.left)];
  };
  canvas.addEventListener("mousemove", (event) => grid.rows && grid.to(...under(event)));
  canvas.addEventListener("click", (event) => {
    if (!grid.rows) return;
    grid.to(...under(event));
    choose(grid.row, grid.column, !event.altKey);
  });
  canvas.addEventListener("contextmenu", (event) => {
    event.preventDefault();
    grid.to(...under(event));
    choose(grid.row, grid.column, false);
  });
  const steps = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] };
  canvas.addEventListener("keydown", (event) => {
    if (!grid.rows) return;
    if (steps[event.key]) grid.to(grid.row + steps[event.key][0], grid.column + steps[event.key][1]);
    else if (event.key === "Enter" || event.key === " ") choose(grid.row, grid.column, true);
    else if (event.key === "m") choose(grid.row, grid.column, false);
    else return;
    event.preventDefault();
  });
  return grid;
};
