// A table of anything. Columns say how their cells look; ages grow between refreshes.
const RIGHT = new Set(["number", "bytes", "seconds", "rate", "percent"]);
// What Streamlit needs to draw the details of a row below.
const DETAILS_MILLISECONDS = 300;

export default function ({ data, parentElement, setTriggerValue }) {
  const state = instance(parentElement, make);
  state.send = setTriggerValue;
  state.received = performance.now();
  setAttribute(state.frame, "class", data.old ? "frame old" : "frame");
  setAttribute(state.table, "aria-label", data.label);
  state.table.hidden = Boolean(data.empty);
  state.empty.hidden = !data.empty;
  setText(state.what, data.empty?.what);
  setSentence(state.todo, data.empty?.todo);
  state.chosen = data.chosen;
  state.all = data.acts ? [...data.columns, { key: "acts", label: "", kind: "acts", hide_below: 0 }] : data.columns;
  state.fit = () => {
    const width = state.frame.clientWidth || 4000;
    const columns = state.all.filter((column) => column.hide_below <= width);
    reconcile(
      state.head,
      columns,
      (column) => column.key,
      () => el("th", { scope: "col" }),
      (node, column) => {
        setText(node, column.label);
        setAttribute(node, "title", column.title || null);
        setAttribute(node, "class", RIGHT.has(column.kind) ? "right" : column.kind === "acts" ? "acts" : null);
        const needed = column.kind === "acts" ? Math.max(...data.rows.map((row) => row.acts.reduce(room, 16))) : 0;
        const width = column.width ?? needed;
        node.style.width = width ? `${width}px` : "";
      },
    );
    reconcile(
      state.body,
      data.rows,
      (row) => row.key,
      () => makeRow(state),
      (node, row) => updateRow(node, row, columns, data.opens, state),
    );
  };
  state.fit();
  if (data.chosen && data.chosen === state.opened) {
    state.opened = null;
    setTimeout(showDetails, DETAILS_MILLISECONDS);
  }
  if (!state.observer) {
    state.observer = new ResizeObserver(() => state.fit());
    state.observer.observe(state.frame);
  }
  const stop = ticking(state, 1000, () => {
    const since = (performance.now() - state.received) / 1000;
    for (const row of state.body.children) {
      for (const cell of row.children)
        if (cell.grows !== undefined) setText(cell.firstChild, cell.grows === null ? UNKNOWN : ago(cell.grows + since));
    }
  });
  return () => {
    stop();
    state.observer?.disconnect();
    state.observer = null;
  };
}

// The details of the row just opened may be drawn below the window.
function showDetails() {
  const calm = matchMedia("(prefers-reduced-motion: reduce)").matches;
  document.querySelector(".st-key-columns")?.scrollIntoView({ block: "nearest", behavior: calm ? "auto" : "smooth" });
}

function open(state, key) {
  state.opened = key;
  state.send("open", key);
}

// What a row's buttons need in pixels: its letters, its padding, the gap to the next.
function room(pixels, act) {
  return pixels + Math.max(62, 30 + 7.2 * act.label.length);
}

function make(root) {
  const head = el("tr");
  const body = el("tbody");
  const table = el("table", {}, el("thead", {}, head), body);
  const [what, todo] = [el("div", { class: "what" }), el("div", { class: "todo" })];
  const empty = el("div", { class: "empty", role: "status" }, what, todo);
  const frame = el("div", {}, table, empty);
  root.append(frame);
  return { head, body, table, frame, empty, what, todo };
}

function makeRow(state) {
  const node = el("tr");
  node.onclick = (event) => {
    if (node.opens && !event.target.closest("button, a") && !String(getSelection())) open(state, node.row.key);
  };
  return node;
}

function updateRow(node, row, columns, opens, state) {
  node.row = row;
  node.opens = opens;
  const chosen = opens && row.key === state.chosen;
  setAttribute(node, "aria-current", chosen ? "true" : null);
  setAttribute(
    node,
    "class",
    [opens ? "opens" : "", chosen ? "chosen" : "", row.tone ? `tone-${row.tone} toned` : ""].join(" ").trim() || null,
  );
  reconcile(
    node,
    columns,
    (column) => column.key,
    (column) => el("td", {}, column.kind === "acts" ? el("span", { class: "buttons" }) : el("span")),
    (cell, column) =>
      column.kind === "acts"
        ? updateActs(cell, row, state)
        : updateCell(cell, row, column, columns[0] === column && opens, state),
  );
}

function updateCell(cell, row, column, isOpener, state) {
  const value = row.cells[column.key];
  setAttribute(
    cell,
    "class",
    [`k-${column.kind}`, RIGHT.has(column.kind) ? "right" : "", isOpener ? "first" : ""].join(" ").trim(),
  );
  setAttribute(cell, "title", row.titles[column.key] ?? (typeof value === "string" ? value : null));
  cell.grows = column.kind === "ago" ? (value ?? null) : undefined;
  const inner = cell.firstChild;
  if (column.kind === "badge") {
    setAttribute(inner, "class", `badge tone-${value?.[1] ?? "none"}`);
    if (inner.children.length !== 2) inner.replaceChildren(el("span", { class: "dot" }), el("span"));
    setText(inner.lastChild, value?.[0] ?? UNKNOWN);
  } else if (column.kind === "chips") {
    setAttribute(inner, "class", "chips");
    reconcile(
      inner,
      value ?? [],
      (chip) => chip,
      () => el("span", { class: "chip" }),
      (node, chip) => setText(node, chip),
    );
  } else if (isOpener) {
    if (inner.firstElementChild?.tagName !== "BUTTON")
      inner.replaceChildren(el("button", { class: "open", type: "button", dir: "auto" }));
    inner.firstChild.onclick = () => open(state, row.key);
    setText(inner.firstChild, shown(column.kind, value));
  } else {
    setAttribute(inner, "dir", column.kind === "text" ? "auto" : null);
    if (column.kind !== "ago") setText(inner, shown(column.kind, value));
  }
}

function updateActs(cell, row, state) {
  setAttribute(cell, "class", "acts");
  reconcile(
    cell.firstChild,
    row.acts,
    (act) => act.name,
    () => el("button", { type: "button" }),
    (node, act) => {
      setText(node, act.label);
      setAttribute(node, "class", act.danger ? "act danger" : "act");
      setAttribute(node, "aria-disabled", act.why_not ? "true" : null);
      setAttribute(node, "title", act.why_not || null);
      node.onclick = () => !act.why_not && state.send("act", { row: row.key, act: act.name });
    },
  );
}

function shown(kind, value) {
  if (value === null || value === undefined) return UNKNOWN;
  switch (kind) {
    case "number":
      return count(value);
    case "bytes":
      return bytes(value);
    case "seconds":
      return duration(value);
    case "rate":
      return rate(value);
    case "percent":
      return `${Math.round(100 * value)} %`;
    case "moment":
      return clock(value);
    default:
      return String(value);
  }
}
