// Download links, one below the other, or as buttons side by side.
export default function ({ data, parentElement }) {
  const state = mountedState(parentElement, (root) => {
    const list = el("div", { class: "links" });
    root.append(list);
    return { list };
  });
  setAttribute(state.list, "class", data.buttons ? "buttons" : "links");
  reconcile(
    state.list,
    data.items,
    (item) => item.label,
    () => el("a", { class: "link", download: "" }),
    (node, item) => {
      setText(node, item.label);
      setAttribute(node, "href", item.href);
      setAttribute(node, "title", item.title || null);
    },
  );
}
