// The title and status of a file.
export default function ({ data, parentElement }) {
  const state = mountedState(parentElement, (root) => {
    const [id, title, download] = [
      el("span", { class: "id mono" }),
      el("h2", { class: "name", dir: "auto" }),
      el("a", { class: "action", download: "" }, "Download"),
    ];
    const badge = el("span", {}, el("span", { class: "dot" }), el("span"));
    const description = el("div", { class: "description", dir: "auto" });
    root.append(el("div", { class: "line" }, id, title, badge, download), description);
    return { id, title, badge, description, download };
  });
  setText(state.id, `#${data.id}`);
  setText(state.title, data.title);
  setAttribute(state.title, "title", data.title);
  setAttribute(state.badge, "class", `badge tone-${data.tone}${data.stale ? " stale" : ""}`);
  setText(state.badge.lastChild, data.status);
  setText(state.description, data.description);
  state.description.hidden = !data.description;
  setDownload(state.download, data.download, data.download_refusal);
}
