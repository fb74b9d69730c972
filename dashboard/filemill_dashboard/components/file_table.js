// The list of files. Clicking a row opens the details of its file.
const COLUMNS = [
  ["id", "ID"],
  ["title", "Title"],
  ["status", "Status"],
  ["progress", "Progress"],
  ["age", "Requested"],
  ["took", "Duration"],
  ["size", "Size"],
  ["actions", "Actions"],
];

export default function ({ data, parentElement, setTriggerValue }) {
  const state = mountedState(parentElement, make);
  state.open = (id) => setTriggerValue("open", id);
  setAttribute(state.frame, "class", data.stale ? "frame stale" : "frame");
  state.table.hidden = data.rows.length === 0;
  state.empty.hidden = !data.empty;
  setText(state.title, data.empty?.title);
  setText(state.hint, data.empty?.hint);
  state.receivedAt = performance.now();
  reconcile(
    state.body,
    data.rows,
    (row) => row.id,
    () => makeRow(state),
    updateRow,
  );
  setText(state.range, data.range);
  const labels = data.oldest_first ? ["Oldest", "‹ Older", "Newer ›"] : ["Newest", "‹ Newer", "Older ›"];
  [data.previous === null ? null : "", data.previous, data.next].forEach((cursor, index) => {
    setText(state.pages[index], labels[index]);
    state.pages[index].disabled = cursor === null;
    state.pages[index].onclick = () => setTriggerValue("page", cursor);
  });
  setText(state.sort, data.oldest_first ? "Requested ↑" : "Requested ↓");
  setAttribute(
    state.sort,
    "title",
    data.oldest_first ? "Oldest first. Click to show the newest first" : "Newest first. Click to show the oldest first",
  );
  setAttribute(state.sort.parentNode, "aria-sort", data.oldest_first ? "ascending" : "descending");
  state.sort.onclick = () => setTriggerValue("sort", true);
  return startTicking(state, 1000, () => {
    const elapsed = (performance.now() - state.receivedAt) / 1000;
    for (const node of state.body.children) setText(node.cells[4], ago(node.row.age + elapsed));
  });
}

function make(root) {
  const sort = el("button", { class: "sort", type: "button" });
  const head = el(
    "tr",
    {},
    ...COLUMNS.map(([name, label]) => el("th", { class: `c-${name}`, scope: "col" }, name === "age" ? sort : label)),
  );
  const body = el("tbody");
  const table = el("table", { "aria-label": "Files" }, el("thead", {}, head), body);
  const title = el("div", { class: "empty-title" });
  const hint = el("div", { class: "empty-hint" });
  const empty = el("div", { class: "empty", role: "status" }, title, hint);
  const frame = el("div", {}, table, empty);
  const range = el("span", { class: "range" });
  const pages = [0, 1, 2].map(() => el("button", { class: "page", type: "button" }));
  root.append(frame, el("nav", { class: "foot", "aria-label": "Pages" }, range, ...pages));
  return { frame, table, body, empty, title, hint, range, pages, sort };
}

function makeRow(state) {
  const node = el("tr", {}, ...COLUMNS.map(([name]) => el("td", { class: `c-${name}` })));
  const [id, title, status, progress, , , , actions] = node.cells;
  id.classList.add("mono");
  title.append(el("button", { class: "open", type: "button", dir: "auto" }));
  status.append(el("span", {}, el("span", { class: "dot" }), el("span", { class: "name" })));
  progress.append(
    el("div", { class: "progress" }, el("span", { class: "bar" }), el("span", { class: "note", dir: "auto" })),
  );
  actions.append(el("span", { class: "actions" }));
  node.onclick = (event) => {
    if (!event.target.closest("a")) state.open(node.row.id);
  };
  return node;
}

function updateRow(node, row) {
  node.row = row;
  setAttribute(node, "class", row.highlighted ? "highlighted" : null);
  const [id, title, status, progress, , took, size, actions] = node.cells;
  setText(id, row.id);
  setText(title.firstChild, row.title);
  setAttribute(title, "title", row.title);
  setAttribute(status.firstChild, "class", `badge tone-${row.tone}`);
  setText(status.querySelector(".name"), row.status);
  const bar = progress.querySelector(".bar");
  bar.hidden = !row.steps;
  if (row.steps) {
    setAttribute(bar, "role", "img");
    setAttribute(bar, "aria-label", `step ${row.step} of ${row.steps}`);
    const parts = Math.min(row.steps, 12);
    while (bar.children.length < parts) bar.append(el("i"));
    while (bar.children.length > parts) bar.lastChild.remove();
    [...bar.children].forEach((part, index) => {
      setAttribute(part, "class", index < (row.step * parts) / row.steps ? "done" : null);
    });
  }
  const note = progress.querySelector(".note");
  setText(note, row.note);
  setAttribute(note, "class", row.failed ? "note failed" : "note");
  setAttribute(progress, "title", row.note);
  setText(took, row.took === null ? "" : duration(row.took));
  setText(size, row.size === null ? "" : bytes(row.size));
  const holder = actions.firstChild;
  const href = row.download ?? "";
  if (holder.dataset.href !== href || !holder.firstChild) {
    holder.dataset.href = href;
    holder.replaceChildren(
      row.download
        ? el(
            "a",
            { class: "action", href: row.download, download: "", "aria-label": `Download file ${row.id}` },
            "Download",
          )
        : el("span"),
    );
  }
  setAttribute(actions, "title", row.download ? null : row.download_hint);
}
