// Who owns which partition. A column without an owner and a row without a partition stand out.
export default function ({ data, parentElement }) {
  const state = instance(parentElement, (root) => {
    const head = el("tr");
    const body = el("tbody");
    const table = el("table", { "aria-label": "Partitions and their owners" }, el("thead", {}, head), body);
    const none = el("div", { class: "none" });
    const scroll = el("div", { class: "scroll" }, table, none);
    root.append(scroll);
    return { head, body, table, none, scroll };
  });
  setAttribute(state.scroll, "class", data.old ? "scroll old" : "scroll");
  state.table.hidden = data.partitions.length === 0 && data.members.length === 0;
  state.none.hidden = !state.table.hidden;
  setText(state.none, data.none);
  const columns = [
    { key: "who", label: "Member" },
    ...data.partitions.map((part) => ({ key: part.partition, label: `P${part.partition}`, orphan: !part.owned })),
    { key: "what", label: "" },
  ];
  reconcile(
    state.head,
    columns,
    (column) => column.key,
    () => el("th", { scope: "col" }),
    (node, column) => {
      setText(node, column.label);
      setAttribute(node, "class", column.key === "who" ? "who" : column.orphan ? "orphan" : null);
      setAttribute(node, "title", column.orphan ? "no owner: nobody reads this partition" : null);
    },
  );
  const rows = data.partitions.some((part) => !part.owned)
    ? [...data.members, { id: "", name: "no owner", host: null, orphans: true }]
    : data.members;
  reconcile(
    state.body,
    rows,
    (row) => row.id,
    () => el("tr"),
    (node, row) => updateRow(node, row, data, columns),
  );
}

function updateRow(node, row, data, columns) {
  reconcile(
    node,
    columns,
    (column) => column.key,
    (column) =>
      column.key === "who"
        ? el("th", { class: "who", scope: "row" }, el("span"), el("small"))
        : column.key === "what"
          ? el("td", { class: "what" })
          : el("td", {}, el("span", { class: "cell" })),
    (cell, column) => {
      if (column.key === "who") {
        setText(cell.firstChild, row.name);
        setText(cell.lastChild, row.host);
        setAttribute(cell, "title", row.id);
        return;
      }
      if (column.key === "what") {
        const owned = row.orphans ? data.partitions.filter((part) => !part.owned).length : row.partitions.length;
        setAttribute(cell, "class", owned ? "what" : "what idle");
        setText(cell, row.orphans ? `${owned} unread` : owned ? `${owned} of ${data.partitions.length}` : "idle");
        return;
      }
      const mine = row.orphans ? column.orphan : row.partitions.includes(column.key);
      setAttribute(cell, "class", row.orphans && mine ? "orphan" : null);
      setAttribute(cell.firstChild, "class", mine && !row.orphans ? "cell owned" : "cell");
      setAttribute(cell.firstChild, "aria-label", mine && !row.orphans ? "owned" : null);
      cell.firstChild.style.visibility = row.orphans && !mine ? "hidden" : "";
    },
  );
}
