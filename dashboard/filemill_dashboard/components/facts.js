// Names and values, one below the other, with an optional download link at the end.
export default function ({ data, parentElement }) {
  const state = mountedState(parentElement, (root) => {
    const title = el("h2", { class: "title" });
    const list = el("dl", { class: "facts" });
    const action = el("a", { class: "action", download: "" });
    root.append(title, list, action);
    return { title, list, action };
  });
  setText(state.title, data.title);
  setAttribute(state.list, "class", data.stale ? "facts stale" : "facts");
  state.title.hidden = !data.title;
  reconcile(
    state.list,
    data.facts,
    (_fact, index) => index, // a name may occur several times
    () =>
      el(
        "div",
        { class: "fact" },
        el("dt"),
        el("dd", { dir: "auto" }, el("span", { class: "dot" }), el("span", { class: "text" })),
      ),
    (node, fact) => {
      const [name, value] = node.children;
      setText(name, fact.name);
      setAttribute(
        value,
        "class",
        [fact.mono ? "mono" : "", fact.tone ? `tone-${fact.tone}` : ""].join(" ").trim() || null,
      );
      value.firstChild.hidden = !fact.tone;
      setText(value.lastChild, fact.value ?? UNKNOWN);
    },
  );
  setDownload(state.action, data.download, data.download_refusal);
  setText(state.action, "Download");
}
