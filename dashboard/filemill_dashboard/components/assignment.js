// The matrix of members and partitions. Partitions without an owner and idle members are highlighted.
export default function ({ data, parentElement }) {
  const state = mountedState(parentElement, (root) => {
    const head = el("tr");
    const body = el("tbody");
    const table = el("table", { "aria-label": "Partitions and their owners" }, el("thead", {}, head), body);
    const empty = el("div", { class: "empty" });
    const scroll = el("div", { class: "scroll" }, table, empty);
    root.append(scroll);
    return { head, body, table, empty, scroll };
  });
  setAttribute(state.scroll, "class", data.stale ? "scroll stale" : "scroll");
  state.table.hidden = data.partitions.length === 0 && data.members.length === 0;
  state.empty.hidden = !state.table.hidden;
  setText(state.empty, data.empty);
  const columns = [
    { key: "member", label: "Member" },
    ...data.partitions.map((part) => ({ key: part.partition, label: `P${part.partition}`, unowned: !part.owned })),
    { key: "count", label: "Partitions" },
  ];
  reconcile(
    state.head,
    columns,
    (column) => column.key,
    () => el("th", { scope: "col" }),
    (node, column) => {
      setText(node, column.label);
      setAttribute(node, "class", column.key === "member" ? "member" : column.unowned ? "unowned" : null);
      setAttribute(node, "title", column.unowned ? "No owner: no member consumes this partition" : null);
    },
  );
  const unowned = data.partitions.filter((part) => !part.owned).map((part) => part.partition);
  const rows = data.members.map((member) => ({ ...member, total: data.partitions.length }));
  if (unowned.length) rows.push({ id: "", name: "No owner", host: null, partitions: unowned, isUnownedRow: true });
  reconcile(
    state.body,
    rows,
    (row) => row.id,
    () => el("tr"),
    (node, row) => updateRow(node, row, columns),
  );
}

function updateRow(node, row, columns) {
  reconcile(
    node,
    columns,
    (column) => column.key,
    (column) => {
      if (column.key === "member") return el("th", { class: "member", scope: "row" }, el("span"), el("small"));
      if (column.key === "count") return el("td");
      return el("td", {}, el("span", { class: "cell" }));
    },
    (cell, column) => {
      if (column.key === "member") {
        setText(cell.firstChild, row.name);
        setText(cell.lastChild, row.host);
        setAttribute(cell, "title", row.id);
      } else if (column.key === "count") updateCount(cell, row);
      else updateCell(cell, row, row.partitions.includes(column.key));
    },
  );
}

function updateCount(cell, row) {
  const owned = row.partitions.length;
  setAttribute(cell, "class", owned ? "count" : "count idle");
  setText(cell, row.isUnownedRow ? `${owned} not consumed` : owned ? `${owned} of ${row.total}` : "idle");
}

function updateCell(cell, row, owned) {
  const square = cell.firstChild;
  setAttribute(cell, "class", row.isUnownedRow && owned ? "unowned" : null);
  setAttribute(square, "class", owned && !row.isUnownedRow ? "cell owned" : "cell");
  // A role, because an element without one must not have a label.
  setAttribute(square, "role", owned ? "img" : null);
  setAttribute(square, "aria-label", owned ? (row.isUnownedRow ? "no owner" : "owned") : null);
  square.style.visibility = row.isUnownedRow && !owned ? "hidden" : "";
}
