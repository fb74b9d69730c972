// A data table. Each column defines how its cells are shown. Ages grow between refreshes.
const RIGHT_ALIGNED = new Set(["number", "bytes", "seconds", "rate", "percent"]);
// Time that Streamlit needs to draw the details of a row below the table.
const DETAILS_MILLISECONDS = 300;

export default function ({ data, parentElement, setTriggerValue }) {
  const state = mountedState(parentElement, make);
  state.send = setTriggerValue;
  state.receivedAt = performance.now();
  setAttribute(state.frame, "class", data.stale ? "frame stale" : "frame");
  setAttribute(state.table, "aria-label", data.label);
  state.table.hidden = Boolean(data.empty);
  state.empty.hidden = !data.empty;
  setText(state.title, data.empty?.title);
  setSentence(state.hint, data.empty?.hint);
  state.selected = data.selected;
  state.columns = data.actions
    ? [...data.columns, { key: "actions", label: "Actions", kind: "actions", hide_below: 0 }]
    : data.columns;
  const moments = data.columns.filter((column) => column.kind === "moment").map((column) => column.key);
  state.dated = onSeveralDays(data.rows.flatMap((row) => moments.map((key) => row.cells[key]).filter(Number.isFinite)));
  state.layOut = () => {
    const width = state.frame.clientWidth || 4000;
    const columns = state.columns.filter((column) => column.hide_below <= width);
    reconcile(
      state.head,
      columns,
      (column) => column.key,
      () => el("th", { scope: "col" }),
      (node, column) => {
        setText(node, column.label);
        setAttribute(node, "title", column.title || null);
        setAttribute(
          node,
          "class",
          RIGHT_ALIGNED.has(column.kind) ? "right" : column.kind === "actions" ? "actions" : null,
        );
        const needed =
          column.kind === "actions" ? Math.max(...data.rows.map((row) => row.actions.reduce(addButtonWidth, 16))) : 0;
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
  state.layOut();
  if (data.selected && data.selected === state.opened) {
    state.opened = null;
    setTimeout(showDetails, DETAILS_MILLISECONDS);
  }
  if (!state.observer) {
    state.observer = new ResizeObserver(() => state.layOut());
    state.observer.observe(state.frame);
  }
  const stop = startTicking(state, 1000, () => {
    const elapsed = (performance.now() - state.receivedAt) / 1000;
    for (const row of state.body.children) {
      for (const cell of row.children)
        if (cell.ageSeconds !== undefined)
          setText(cell.firstChild, cell.ageSeconds === null ? UNKNOWN : ago(cell.ageSeconds + elapsed));
    }
  });
  return () => {
    stop();
    state.observer?.disconnect();
    state.observer = null;
  };
}

// The details of the opened row may be drawn below the visible area.
function showDetails() {
  const reducedMotion = matchMedia("(prefers-reduced-motion: reduce)").matches;
  document
    .querySelector(".st-key-columns")
    ?.scrollIntoView({ block: "nearest", behavior: reducedMotion ? "auto" : "smooth" });
}

function open(state, key) {
  state.opened = key;
  state.send("open", key);
  returnFocusAfterDialog(() => [...state.body.children].find((node) => node.row.key === key)?.querySelector(".open"));
}

// Adds the width of a button in pixels: its text, its padding, and the gap to the next button.
function addButtonWidth(pixels, action) {
  return pixels + Math.max(62, 30 + 7.2 * action.label.length);
}

function make(root) {
  const head = el("tr");
  const body = el("tbody");
  const table = el("table", {}, el("thead", {}, head), body);
  const [title, hint] = [el("div", { class: "empty-title" }), el("div", { class: "empty-hint" })];
  const empty = el("div", { class: "empty", role: "status" }, title, hint);
  const frame = el("div", {}, table, empty);
  root.append(frame);
  return { head, body, table, frame, empty, title, hint };
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
  const selected = opens && row.key === state.selected;
  setAttribute(node, "aria-current", selected ? "true" : null);
  setAttribute(
    node,
    "class",
    [opens ? "opens" : "", selected ? "selected" : "", row.tone ? `tone-${row.tone} toned` : ""].join(" ").trim() ||
      null,
  );
  reconcile(
    node,
    columns,
    (column) => column.key,
    (column) => el("td", {}, column.kind === "actions" ? el("span", { class: "buttons" }) : el("span")),
    (cell, column) =>
      column.kind === "actions"
        ? updateActions(cell, row, state)
        : updateCell(cell, row, column, columns[0] === column && opens, state),
  );
}

function updateCell(cell, row, column, isOpener, state) {
  const value = row.cells[column.key];
  setAttribute(
    cell,
    "class",
    [`k-${column.kind}`, RIGHT_ALIGNED.has(column.kind) ? "right" : "", isOpener ? "first" : ""].join(" ").trim(),
  );
  setAttribute(cell, "title", row.titles[column.key] ?? (typeof value === "string" ? value : null));
  cell.ageSeconds = column.kind === "ago" ? (value ?? null) : undefined;
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
    setText(inner.firstChild, formatted(column.kind, value, state.dated));
  } else {
    setAttribute(inner, "dir", column.kind === "text" ? "auto" : null);
    if (column.kind !== "ago") setText(inner, formatted(column.kind, value, state.dated));
  }
}

function updateActions(cell, row, state) {
  setAttribute(cell, "class", "actions");
  reconcile(
    cell.firstChild,
    row.actions,
    (action) => action.name,
    () => el("button", { type: "button" }),
    (node, action) => {
      setText(node, action.label);
      setAttribute(node, "class", action.danger ? "action danger" : "action");
      setAttribute(node, "aria-disabled", action.disabled_reason ? "true" : null);
      setAttribute(node, "title", action.disabled_reason || null);
      node.onclick = () => !action.disabled_reason && state.send("action", { row: row.key, action: action.name });
    },
  );
}

function formatted(kind, value, dated) {
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
      return clock(value, dated);
    default:
      return String(value);
  }
}
