// Is each server well, and how old is what the page shows? The age grows until new data arrives, so a page whose
// server died says so by itself.
const LATE_SECONDS = 10;

export default function ({ data, parentElement }) {
  const state = instance(parentElement, (root) => {
    const servers = el("span", { class: "servers" });
    const asof = el("span", { class: "asof", role: "timer" });
    root.append(el("div", { class: "status" }, servers, asof));
    return { servers, asof };
  });
  state.received = performance.now();
  reconcile(
    state.servers,
    data.servers,
    (server) => server.name,
    () => el("span", {}, el("span", { class: "dot" }), el("span", { class: "name" })),
    (node, server) => {
      setAttribute(node, "class", `server tone-${server.tone}`);
      setAttribute(node, "title", server.detail);
      setAttribute(node, "aria-label", `${server.name}: ${server.detail}`);
      setText(node.lastChild, server.name);
    },
  );
  return ticking(state, 200, () => {
    if (data.age === null) {
      setText(state.asof, "no data yet");
      return;
    }
    const seconds = data.age + (performance.now() - state.received) / 1000;
    setText(state.asof, `as of ${seconds < 60 ? `${seconds.toFixed(1)} s` : duration(seconds, false)} ago`);
    setAttribute(state.asof, "class", seconds > Math.max(LATE_SECONDS, 3 * (data.every ?? 0)) && data.every ? "asof late" : "asof");
  });
}
