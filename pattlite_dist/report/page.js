// The page's own script: makes rows of the tables, draws the charts, and passes on what is chosen.
// vl-convert puts it behind Vega, so that `vegaEmbed` is known.
const { tables, charts } = JSON.parse(document.getElementById("data").textContent);

function rowsOf(blocks) {
  return blocks.flatMap(({ common, columns }) => {
    const names = Object.keys(columns);
    return columns[names[0]].map((_, row) => {
      const found = { ...common };
      for (const name of names) found[name] = columns[name][row];
      return found;
    });
  });
}

const rows = {};
const rowsNamed = (name) => (rows[name] ??= rowsOf(tables[name]));
const views = [];

function namedIn(spec) {
  const parts = [spec, ...(spec.layer ?? [])];
  return new Set(parts.map((part) => part.data?.name).filter((name) => name in tables));
}

function saveAs(name, rows) {
  const quoted = (cell) => (/[",\n]/.test(cell) ? `"${cell.replaceAll('"', '""')}"` : cell);
  const text = rows.map((row) => row.map((cell) => quoted(String(cell ?? ""))).join(",")).join("\n");
  const link = document.createElement("a");
  link.download = `${name}.csv`;
  link.href = URL.createObjectURL(new Blob([text + "\n"], { type: "text/csv" }));
  link.click();
}

function button(inner, label, act) {
  const made = document.createElement("button");
  made.type = "button";
  made.className = "csv";
  made.textContent = inner;
  made.setAttribute("aria-label", label);
  made.addEventListener("click", act);
  return made;
}

async function draw([id, spec]) {
  const datasets = {};
  const names = [...namedIn(spec)];
  for (const name of names) datasets[name] = rowsNamed(name);
  const { view } = await vegaEmbed(document.getElementById(id), { ...spec, datasets: { ...spec.datasets, ...datasets } }, {
    ast: true, // no `eval`, which the page's policy forbids
    renderer: "svg",
    logLevel: 1, // errors: a chart whose runs are all hidden has no extent, and says so
    actions: { export: true, source: false, compiled: false, editor: false },
    config: {
      background: null,
      font: "system-ui, sans-serif",
      view: { stroke: null },
      axis: { labelFontSize: 11, titleFontSize: 11, titleFontWeight: 400, labelLimit: 110 },
      legend: { labelFontSize: 12, labelLimit: 220 },
    },
    downloadFileName: id,
  });
  views.push(view);
  const [first] = names; // the others are marks beside the curves
  if (first) {
    const heads = [...new Set(rowsNamed(first).flatMap(Object.keys))];
    const cells = () => rowsNamed(first).map((row) => heads.map((head) => row[head]));
    const caption = document.getElementById(id).parentElement.querySelector("figcaption");
    caption.append(button("CSV", `${caption.textContent} as CSV`, () => saveAs(id, [heads, ...cells()])));
  }
}

for (const caption of document.querySelectorAll("table caption")) {
  const name = caption.textContent;
  const cell = ({ dataset, textContent }) => dataset.key ?? textContent.trim();
  caption.append(button("CSV", `${name} as CSV`, () => {
    const rows = [...caption.parentElement.rows].map((row) => [...row.cells].map(cell));
    saveAs(name.split(/[,;]/)[0].toLowerCase().replaceAll(" ", "-"), rows);
  }));
}

function choose(signal, value) {
  for (const view of views) {
    if (signal in view.getState({ signals: (name) => name === signal }).signals) {
      view.signal(signal, value).runAsync();
    }
  }
}

document.addEventListener("change", ({ target }) => {
  if (target.type === "radio") choose(target.name, target.value);
  if (target.name === "shown") hideUnchecked();
});

function hideUnchecked() {
  const boxes = [...document.querySelectorAll("input[name=shown]:not(:checked)")];
  choose("hidden", boxes.map((box) => box.value));
}

document.addEventListener("input", ({ target }) => {
  if (target.name !== "find") return;
  for (const box of document.querySelectorAll("input[name=shown]")) {
    box.checked = box.value.toLowerCase().includes(target.value.toLowerCase());
  }
  hideUnchecked();
});

function compare(a, b) {
  const [x, y] = [a, b].map((cell) => cell.dataset.key ?? cell.textContent);
  if (x === "" || y === "") return (x === "") - (y === "");
  return Number(x) - Number(y) || x.localeCompare(y, undefined, { numeric: true });
}

document.addEventListener("click", ({ target }) => {
  const head = target.closest("table.sorts thead button")?.parentElement;
  if (!head) return;
  const table = head.closest("table");
  const up = head.getAttribute("aria-sort") !== "ascending";
  for (const other of table.tHead.rows[0].cells) other.setAttribute("aria-sort", "none");
  head.setAttribute("aria-sort", up ? "ascending" : "descending");
  const body = table.tBodies[0];
  const place = head.cellIndex;
  const empty = (row) => row.cells[place].textContent === "";
  const sorted = [...body.rows].sort((a, b) => {
    const order = compare(a.cells[place], b.cells[place]);
    return up || empty(a) || empty(b) ? order : -order;
  });
  body.append(...sorted);
});

Promise.all(Object.entries(charts).map(draw)).then(() => {
  document.documentElement.dataset.drawn = views.length;
});
