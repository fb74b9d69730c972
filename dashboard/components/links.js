// Links to downloads, one below the other.
export default function ({ data, parentElement }) {
  const state = instance(parentElement, (root) => {
    const list = el("div", { class: "links" });
    root.append(list);
    return { list };
  });
  reconcile(state.list, data.items, (item) => item.label, () => el("a", { class: "link", download: "" }), (node, item) => {
    setText(node, item.label);
    setAttribute(node, "href", item.href);
  });
}
