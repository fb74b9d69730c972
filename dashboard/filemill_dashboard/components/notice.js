// Calm banners: what is the matter, and what to do.
export default function ({ data, parentElement }) {
  const state = instance(parentElement, (root) => {
    const list = el("div", { class: "notices", role: "status", "aria-live": "polite" });
    root.append(list);
    return { list };
  });
  // page.css takes away the gap around an element of this style.
  parentElement.host.closest(".stElementContainer").style.display = data.notices.length || data.line ? "" : "none";
  setAttribute(state.list, "class", data.line ? "notices line" : "notices");
  reconcile(
    state.list,
    data.notices,
    (notice) => notice.what,
    () => el("div", {}, el("span", { class: "dot" }), el("div", { class: "what" }), el("div", { class: "text" })),
    (node, notice) => {
      setAttribute(node, "class", `notice tone-${notice.tone}`);
      setText(node.children[1], notice.what);
      setSentence(node.children[2], notice.text);
      node.children[2].hidden = !notice.text;
      setAttribute(node.children[2], "title", data.line && notice.text ? notice.text : null);
    },
  );
}
