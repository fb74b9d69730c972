// How often what comes; a press filters by it, a second one lifts the filter.
export default function ({ data, parentElement, setTriggerValue }) {
  const state = instance(parentElement, (root) => {
    const list = el("div", { class: "bars", role: "group" });
    const none = el("div", { class: "none" });
    root.append(list, none);
    return { list, none };
  });
  setAttribute(state.list, "aria-label", data.label);
  setAttribute(state.list, "class", `bars tone-${data.tone}`);
  setText(state.none, data.empty);
  state.none.hidden = data.items.length > 0;
  const most = Math.max(1, ...data.items.map((item) => item.count));
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
      const chosen = item.name === data.selected;
      setAttribute(node, "aria-pressed", String(chosen));
      setAttribute(node, "title", item.name);
      node.children[0].style.width = `${(100 * item.count) / most}%`;
      setText(node.children[1], item.name);
      setText(node.children[2], count(item.count));
      node.onclick = () => setTriggerValue("choice", chosen ? "" : item.name);
    },
  );
}
