"use strict";
// Figures in the page's own colours, and tables that sort.
const ofPage = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

function themed(layout) {
  const [ink, soft, grid] = [ofPage("--ink"), ofPage("--soft"), ofPage("--grid")];
  const changed = {
    paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", "font.color": ink, "font.size": 12,
    "font.family": getComputedStyle(document.body).fontFamily, "legend.font.color": ink,
    "hoverlabel.bgcolor": ofPage("--raised"), "hoverlabel.bordercolor": grid, "hoverlabel.font.color": ink,
  };
  for (const axis of ["xaxis", "yaxis"].concat(Object.keys(layout).filter((key) => /^[xy]axis\d+$/.test(key)))) {
    Object.assign(changed, {
      [`${axis}.gridcolor`]: grid, [`${axis}.linecolor`]: grid, [`${axis}.zerolinecolor`]: grid,
      [`${axis}.tickfont.color`]: soft, [`${axis}.title.font.color`]: soft, [`${axis}.automargin`]: true,
      [`${axis}.showgrid`]: true,
    });
  }
  return changed;
}

function put(layout, changed) {
  for (const [path, value] of Object.entries(changed)) {
    const steps = path.split(".");
    const last = steps.pop();
    let at = layout;
    for (const step of steps) at = at[step] ??= {};
    at[last] = value;
  }
}

function bare(layout) {  // axes that a figure draws by itself, as parallel coordinates do
  for (const text of layout.annotations ?? []) text.font = { ...text.font, color: ofPage("--ink") };
  for (const shape of layout.shapes ?? []) shape.line = { ...shape.line, color: ofPage("--soft") };
}

function draw(place) {
  const { data, layout } = JSON.parse(document.getElementById("data-" + place.id.slice(5)).textContent);
  put(layout, themed(layout));
  bare(layout);
  return Plotly.react(place, data, { ...layout, autosize: true }, { responsive: true, displaylogo: false, displayModeBar: false });
}

const figures = [...document.querySelectorAll(".figure")];
const drawn = new WeakSet();
const watcher = new IntersectionObserver((seen) => {
  for (const { isIntersecting, target } of seen) {
    if (isIntersecting && !drawn.has(target)) { drawn.add(target); draw(target); }
  }
}, { rootMargin: "600px" });
figures.forEach((figure) => watcher.observe(figure));
const drawAll = () => figures.forEach((figure) => { drawn.add(figure); draw(figure); });
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => figures.filter((one) => drawn.has(one)).forEach(draw));
addEventListener("beforeprint", drawAll);

function sort(table, column, kind, downward) {
  const rows = [...table.tBodies[0].rows];
  const value = (row) => row.cells[column].dataset.value ?? "";
  const numeric = kind === "number" || (kind === "auto" && rows.every((row) => value(row) === "" || !Number.isNaN(Number(value(row)))));
  rows.sort((one, other) => {
    const [a, b] = [value(one), value(other)];
    if (a === "" || b === "") return (a === "") - (b === "");  // what is not there stays last either way
    const way = numeric ? Number(a) - Number(b) : a.localeCompare(b);
    return downward ? -way : way;
  });
  table.tBodies[0].append(...rows);
}

for (const table of document.querySelectorAll("table.sortable")) {
  [...table.tHead.rows[0].cells].forEach((heading, column) => {
    if (heading.dataset.kind === "none") return;
    heading.tabIndex = 0;
    const act = () => {
      const downward = heading.getAttribute("aria-sort") === "ascending";
      for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
      heading.setAttribute("aria-sort", downward ? "descending" : "ascending");
      sort(table, column, heading.dataset.kind, downward);
    };
    heading.addEventListener("click", act);
    heading.addEventListener("keydown", (event) => { if (event.key === "Enter" || event.key === " ") { event.preventDefault(); act(); } });
  });
}
