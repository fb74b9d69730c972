// A count per name, as bars. Clicking a bar filters by its name; clicking again removes the filter.
export default function ({ data, parentElement, setTriggerValue }) {
  const state = mountedState(parentElement, (root) => {
    const list = el("div", { class: "bars", role: "group" });
    const empty = el("div", { class: "empty" });
    root.append(list, empty);
    return { list, empty };
  });
  setAttribute(state.list, "aria-label", data.label);
  setAttribute(state.list, "class", `bars tone-${data.tone}`);
  setText(state.empty, data.empty);
  state.empty.hidden = data.items.length > 0;
  const largest = Math.max(1, ...data.items.map((item) => item.count));
  reconcile(
    state.list,
    data.items,
    (item) => item.name,
    () =>
      el(
        "button",
        { type: "button", class: "bar" },
        el("span", { class: "fill" }),
        el("span", { class: "name", dir: "auto" }),
        el("span", { class: "count" }),
      ),
    (node, item) => {
      const selected = item.name === data.selected;
      setAttribute(node, "aria-pressed", String(selected));
      setAttribute(node, "title", item.name);
      node.children[0].style.width = `${(100 * item.count) / largest}%`;
      setText(node.children[1], item.name);
      setText(node.children[2], count(item.count));
      node.onclick = () => setTriggerValue("choice", selected ? "" : item.name);
    },
  );
}
