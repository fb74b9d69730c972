// A file's title and status.
export default function ({ data, parentElement }) {
  const state = instance(parentElement, (root) => {
    const [id, title, download] = [
      el("span", { class: "id mono" }),
      el("h1", { class: "name", dir: "auto" }),
      el("a", { class: "action", download: "" }, "Download"),
    ];
    const badge = el("span", {}, el("span", { class: "dot" }), el("span"));
    const about = el("div", { class: "about", dir: "auto" });
    root.append(el("div", { class: "line" }, id, title, badge, download), about);
    return { id, title, badge, about, download };
  });
  setText(state.id, `#${data.id}`);
  setText(state.title, data.title);
  setAttribute(state.title, "title", data.title);
  setAttribute(state.badge, "class", `badge tone-${data.tone}${data.old ? " old" : ""}`);
  setText(state.badge.lastChild, data.status);
  setText(state.about, data.description);
  state.about.hidden = !data.description;
  state.download.hidden = !data.download;
  setAttribute(state.download, "href", data.download);
}
