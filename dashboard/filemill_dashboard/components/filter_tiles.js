// A count per value. Clicking a tile filters by its value; clicking again removes the filter.
export default function ({ data, parentElement, setTriggerValue }) {
  const state = mountedState(parentElement, (root) => {
    const tiles = el("div", { class: "tiles", role: "group" });
    root.append(tiles);
    return { tiles };
  });
  setAttribute(state.tiles, "class", data.stale ? "tiles stale" : "tiles");
  setAttribute(state.tiles, "aria-label", data.label);
  reconcile(
    state.tiles,
    data.tiles,
    (tile) => tile.value,
    () =>
      el(
        "button",
        { type: "button" },
        el("span", { class: "label" }, el("span", { class: "dot" }), el("span", { class: "name" })),
        el("span", { class: "value" }),
      ),
    (node, tile) => {
      setAttribute(node, "class", `tile tone-${tile.tone}`);
      setAttribute(node, "aria-pressed", String(tile.value === data.selected));
      node.querySelector(".dot").hidden = tile.value === "";
      setText(node.querySelector(".name"), tile.label);
      setText(node.querySelector(".value"), count(tile.count));
      node.onclick = () => setTriggerValue("choice", tile.value === data.selected ? "" : tile.value);
    },
  );
}
