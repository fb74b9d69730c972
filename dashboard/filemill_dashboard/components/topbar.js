// The health of each server and the age of the data. The age grows until new data arrives, so a page without a
// connection shows it.
const STALE_SECONDS = 10;
// A refresh that does not arrive, for example after a lost connection, is requested again after this many periods.
const TIMEOUT_PERIODS = 2;
const TIMEOUT_MIN_MS = 4000;
const BLANK_CHECK_MS = 1000;
// A page is blank between two checks at most while it loads. Without a server, a run that was begun before a change of
// page ends after some seconds, and the new page has no elements until then.
const BLANK_CHECKS = 3;
const EMPTY_CHECKS = 7;
const RELOAD_PAUSE_MS = 15000;
const RELOADED_AT = "filemill-reloaded-at";

// After an error in its own code, the library that draws the page removes all of it. If a refresh of the former page
// arrives during a change of page, the new page can stay without elements. The page is then reloaded, with its URL. The
// timer belongs to the window, because this component is removed, too.
function reloadBlankPage() {
  if (window.filemillBlankTimer) return;
  let [blank, empty] = [0, 0];
  window.filemillBlankTimer = setInterval(() => {
    blank = document.getElementById("root")?.childElementCount === 0 ? blank + 1 : 0;
    empty = document.querySelector('[data-testid="stMain"] .stElementContainer') === null ? empty + 1 : 0;
    if (blank < BLANK_CHECKS && empty < EMPTY_CHECKS) return;
    if (Date.now() - Number(sessionStorage.getItem(RELOADED_AT)) < RELOAD_PAUSE_MS) return;
    sessionStorage.setItem(RELOADED_AT, String(Date.now()));
    // Without an answer a reload would end in the browser's own error page, which does not retry.
    fetch("/healthz").then(
      (answer) => answer.ok && location.reload(),
      () => sessionStorage.removeItem(RELOADED_AT),
    );
  }, BLANK_CHECK_MS);
}

// A page that is not in the navigation belongs to an entry of it, which then looks like the active one.
function markSection(section) {
  for (const link of document.querySelectorAll(".st-key-nav a")) {
    const marked = section !== null && link.textContent.trim() === section;
    if (marked) setAttribute(link, "aria-current", "true");
    else if (link.classList.contains("section-of-page")) link.removeAttribute("aria-current");
    link.classList.toggle("section-of-page", marked);
  }
}

export default function ({ data, parentElement, setTriggerValue }) {
  reloadBlankPage();
  const state = mountedState(parentElement, (root) => {
    const servers = el("span", { class: "servers" });
    const age = el("span", { class: "age", role: "timer" });
    root.append(el("div", { class: "status" }, servers, age));
    return { servers, age };
  });
  markSection(data.section);
  const now = performance.now();
  if (state.refreshId !== data.refresh_id) {
    state.refreshId = data.refresh_id;
    state.receivedAt = now;
    state.requestedAt = null;
  }
  state.intervalMs = data.interval_seconds ? 1000 * data.interval_seconds : null;
  state.requestRefresh = () => {
    if (!state.intervalMs || document.hidden) return;
    const moment = performance.now();
    const pending =
      state.requestedAt !== null &&
      moment - state.requestedAt < Math.max(TIMEOUT_MIN_MS, TIMEOUT_PERIODS * state.intervalMs);
    // At a fixed rate: the duration of a refresh is part of its period.
    if (pending || moment - (state.dueAt ?? state.receivedAt) < state.intervalMs - 20) return;
    state.dueAt =
      state.dueAt !== undefined && moment - state.dueAt < 2 * state.intervalMs
        ? state.dueAt + state.intervalMs
        : moment;
    state.requestedAt = moment;
    setTriggerValue("refresh", moment);
  };
  if (!state.onVisibilityChange) {
    state.onVisibilityChange = () => state.requestRefresh();
    document.addEventListener("visibilitychange", state.onVisibilityChange);
  }
  reconcile(
    state.servers,
    data.servers,
    (server) => server.name,
    () => el("span", {}, el("span", { class: "dot" }), el("span", { class: "name" })),
    (node, server) => {
      setAttribute(node, "class", `server tone-${server.tone}`);
      setAttribute(node, "title", server.detail);
      setAttribute(node, "role", "img"); // an element without a role must not have a label
      setAttribute(node, "aria-label", `${server.name}: ${server.detail}`);
      setText(node.lastChild, server.name);
    },
  );
  const stop = startTicking(state, 200, () => {
    state.requestRefresh();
    if (data.age === null) {
      setText(state.age, "no data yet");
      return;
    }
    const seconds = data.age + (performance.now() - state.receivedAt) / 1000;
    setText(state.age, `updated ${seconds < 60 ? `${seconds.toFixed(1)} s` : duration(seconds, false)} ago`);
    setAttribute(
      state.age,
      "class",
      seconds > Math.max(STALE_SECONDS, 3 * (data.interval_seconds ?? 0)) && data.interval_seconds
        ? "age stale"
        : "age",
    );
  });
  return () => {
    stop();
    document.removeEventListener("visibilitychange", state.onVisibilityChange);
    state.onVisibilityChange = null;
  };
}
