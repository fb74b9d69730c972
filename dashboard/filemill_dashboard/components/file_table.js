// The list of files. Clicking a row opens the details of its file. Check boxes select files for the actions.
const ACTIONS = { retry: "Retry", cancel: "Cancel", delete: "Delete" };
const COLUMNS = [
  ["select", ""],
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
  state.open = (id) => {
    setTriggerValue("open", id);
    returnFocusAfterDialog(() => [...state.body.children].find((node) => node.row.id === id)?.querySelector(".open"));
  };
  setAttribute(state.frame, "class", data.stale ? "frame stale" : "frame");
  state.table.hidden = data.rows.length === 0;
  state.empty.hidden = !data.empty;
  setText(state.title, data.empty?.title);
  setText(state.hint, data.empty?.hint);
  state.act = (action, ids) => setTriggerValue("act", { action, ids });
  state.refusals = data.refusals;
  state.receivedAt = performance.now();
  reconcile(
    state.body,
    data.rows,
    (row) => row.id,
    () => makeRow(state),
    (node, row) => updateRow(node, row, data.no_download),
  );
  const drawn = new Set(data.rows.map((row) => row.id));
  for (const id of state.selected) if (!drawn.has(id)) state.selected.delete(id);
  showSelection(state);
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
    for (const node of state.body.children) setText(node.cells[5], ago(node.row.age + elapsed));
  });
}

function make(root) {
  const sort = el("button", { class: "sort", type: "button" });
  const all = el("input", { type: "checkbox", "aria-label": "Select all files of this page" });
  const head = el(
    "tr",
    {},
    ...COLUMNS.map(([name, label]) =>
      name === "select"
        ? el("td", { class: "c-select" }, all)
        : el("th", { class: `c-${name}`, scope: "col" }, name === "age" ? sort : label),
    ),
  );
  const body = el("tbody");
  const table = el("table", { "aria-label": "Files" }, el("thead", {}, head), body);
  const title = el("div", { class: "empty-title" });
  const hint = el("div", { class: "empty-hint" });
  const empty = el("div", { class: "empty", role: "status" }, title, hint);
  // It covers the header, so that no row moves.
  const count = el("span", { class: "count" });
  const clear = el("button", { class: "action", type: "button" }, "Clear");
  const buttons = Object.entries(ACTIONS).map(([action, label]) =>
    el("button", { class: `action ${action}`, type: "button", "data-action": action }, label),
  );
  const selection = el("div", { class: "selection", role: "toolbar", "aria-label": "Selected files" }, count);
  selection.append(...buttons, clear);
  const frame = el("div", {}, table, selection, empty);
  const range = el("span", { class: "range" });
  const pages = [0, 1, 2].map(() => el("button", { class: "page", type: "button" }));
  root.append(frame, el("nav", { class: "foot", "aria-label": "Pages" }, range, ...pages));
  const state = { frame, table, body, empty, title, hint, range, pages, sort, all, selection, count, buttons };
  state.selected = new Set();
  all.onchange = () => {
    for (const node of body.children)
      all.checked ? state.selected.add(node.row.id) : state.selected.delete(node.row.id);
    showSelection(state);
  };
  clear.onclick = () => {
    state.selected.clear();
    showSelection(state);
    all.focus();
  };
  return state;
}

// The check boxes, and the bar with the actions that at least one of the selected files allows.
function showSelection(state) {
  const rows = [...state.body.children].map((node) => node.row);
  const selected = rows.filter((row) => state.selected.has(row.id));
  for (const node of state.body.children) node.cells[0].firstChild.checked = state.selected.has(node.row.id);
  state.all.checked = rows.length > 0 && selected.length === rows.length;
  state.all.indeterminate = selected.length > 0 && !state.all.checked;
  state.selection.hidden = selected.length === 0;
  setText(state.count, `${count(selected.length)} selected`);
  for (const button of state.buttons) {
    const { action } = button.dataset;
    const offered = selected.filter((row) => row.actions.includes(action));
    const able = offered.filter((row) => !row.refusals[action]);
    const why = offered[0]?.refusals[action] ?? `None of them can do this in its status`;
    const reason = state.refusals[action] || (able.length ? "" : why);
    setText(button, able.length ? `${ACTIONS[action]} ${count(able.length)}` : ACTIONS[action]);
    setAttribute(button, "aria-disabled", reason ? "true" : null);
    setAttribute(button, "title", reason || null);
    button.onclick = () => {
      if (reason) return;
      state.act(
        action,
        able.map((row) => row.id),
      );
      state.selected.clear();
      showSelection(state);
    };
  }
}

function makeRow(state) {
  const node = el("tr", {}, ...COLUMNS.map(([name]) => el("td", { class: `c-${name}` })));
  const [select, id, title, status, progress, , , , actions] = node.cells;
  const box = el("input", { type: "checkbox" });
  box.onchange = () => {
    box.checked ? state.selected.add(node.row.id) : state.selected.delete(node.row.id);
    showSelection(state);
  };
  select.append(box);
  id.classList.add("mono");
  title.append(el("button", { class: "open", type: "button", dir: "auto" }));
  status.append(el("span", {}, el("span", { class: "dot" }), el("span", { class: "name" })));
  progress.append(
    el("div", { class: "progress" }, el("span", { class: "bar" }), el("span", { class: "note", dir: "auto" })),
  );
  actions.append(el("span", { class: "actions" }));
  node.act = (action) => state.act(action, [node.row.id]);
  node.onclick = (event) => {
    if (!event.target.closest("a, input, .c-select, .action")) state.open(node.row.id);
  };
  return node;
}

function updateRow(node, row, noDownload) {
  node.row = row;
  setAttribute(node, "class", row.highlighted ? "highlighted" : null);
  const [select, id, title, status, progress, , took, size, actions] = node.cells;
  setAttribute(select.firstChild, "aria-label", `Select file ${row.id}`);
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
  const offered = [row.download ?? "", ...row.actions, ...Object.keys(row.refusals)].join(" ");
  if (holder.dataset.offered !== offered) {
    holder.dataset.offered = offered;
    holder.replaceChildren(
      ...row.actions.map((action) => {
        const label = `${ACTIONS[action]} file ${row.id}`;
        const button = el(
          "button",
          { class: `action ${action}`, type: "button", "aria-label": label },
          ACTIONS[action],
        );
        const reason = row.refusals[action];
        setAttribute(button, "aria-disabled", reason ? "true" : null);
        setAttribute(button, "title", reason ?? null);
        button.onclick = () => reason || node.act(action);
        return button;
      }),
    );
    if (row.download)
      holder.append(el("a", { class: "action", download: "", "aria-label": `Download file ${row.id}` }, "Download"));
  }
  if (row.download) setDownload(holder.lastChild, row.download, noDownload);
  setAttribute(actions, "title", row.download ? null : row.download_hint);
}
