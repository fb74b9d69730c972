// Counts per status; a click filters by it, a second one lifts the filter.
export default function ({ data, parentElement, setTriggerValue }) {
  const state = instance(parentElement, (root) => {
    const tiles = el("div", { class: "tiles", role: "group" });
    root.append(tiles);
    return { tiles };
  });
  setAttribute(state.tiles, "class", data.old ? "tiles old" : "tiles");
  setAttribute(state.tiles, "aria-label", data.label);
  reconcile(
    state.tiles,
    data.tiles,
    (tile) => tile.status,
    () =>
      el(
        "button",
        { type: "button" },
        el("span", { class: "label" }, el("span", { class: "dot" }), el("span", { class: "name" })),
        el("span", { class: "value" }),
      ),
    (node, tile) => {
      setAttribute(node, "class", `tile tone-${tile.tone}`);
      setAttribute(node, "aria-pressed", String(tile.status === data.selected));
      node.querySelector(".dot").hidden = tile.status === "";
      setText(node.querySelector(".name"), tile.label);
      setText(node.querySelector(".value"), count(tile.count));
      node.onclick = () => setTriggerValue("status", tile.status === data.selected ? "" : tile.status);
    },
  );
}
