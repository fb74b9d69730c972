// Is each server well, and how old is what the page shows? The age grows until new data arrives, so a page whose
// server died says so by itself.
const LATE_SECONDS = 10;
// A refresh that was asked for and never came, as through a connection that broke, is asked for again after so many periods.
const PATIENCE_PERIODS = 2;
const PATIENCE_LEAST_MS = 4000;

export default function ({ data, parentElement, setTriggerValue }) {
  const state = instance(parentElement, (root) => {
    const servers = el("span", { class: "servers" });
    const asof = el("span", { class: "asof", role: "timer" });
    root.append(el("div", { class: "status" }, servers, asof));
    return { servers, asof };
  });
  const now = performance.now();
  if (state.turn !== data.turn) {
    state.turn = data.turn;
    state.received = now;
    state.asked = null;
  }
  state.every = data.every ? 1000 * data.every : null;
  state.refresh = () => {
    if (!state.every || document.hidden) return;
    const moment = performance.now();
    const waiting =
      state.asked !== null && moment - state.asked < Math.max(PATIENCE_LEAST_MS, PATIENCE_PERIODS * state.every);
    // At a fixed rate: what a refresh takes is part of its period.
    if (waiting || moment - (state.due ?? state.received) < state.every - 20) return;
    state.due = state.due !== undefined && moment - state.due < 2 * state.every ? state.due + state.every : moment;
    state.asked = moment;
    setTriggerValue("tick", moment);
  };
  if (!state.listens) {
    state.listens = () => state.refresh();
    document.addEventListener("visibilitychange", state.listens);
  }
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
  const stop = ticking(state, 200, () => {
    state.refresh();
    if (data.age === null) {
      setText(state.asof, "no data yet");
      return;
    }
    const seconds = data.age + (performance.now() - state.received) / 1000;
    setText(state.asof, `as of ${seconds < 60 ? `${seconds.toFixed(1)} s` : duration(seconds, false)} ago`);
    setAttribute(
      state.asof,
      "class",
      seconds > Math.max(LATE_SECONDS, 3 * (data.every ?? 0)) && data.every ? "asof late" : "asof",
    );
  });
  return () => {
    stop();
    document.removeEventListener("visibilitychange", state.listens);
    state.listens = null;
  };
}
