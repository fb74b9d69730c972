// A background job or a deletion: its name, its progress, and a button that stops or undoes it.
export default function ({ data, parentElement, setTriggerValue }) {
  const state = mountedState(parentElement, (root) => {
    const [name, summary, fill, stop] = [
      el("span", { class: "name" }),
      el("span", { class: "summary" }),
      el("div", { class: "fill" }),
      el("button", { type: "button" }),
    ];
    const bar = el("div", { class: "bar", role: "progressbar", "aria-valuemin": 0, "aria-valuemax": 100 }, fill);
    const job = el("div", { role: "status" }, el("span", { class: "dot" }), name, bar, summary, stop);
    root.append(job);
    return { job, name, summary, fill, bar, stop };
  });
  parentElement.host.closest(".stElementContainer").style.display = data.name ? "" : "none";
  if (!data.name) return;
  setAttribute(state.job, "class", `job tone-${data.tone}`);
  setText(state.name, data.name);
  const receivedAt = performance.now();
  const stop = startTicking(state, 250, () => {
    const left = (data.seconds_left ?? 0) - (performance.now() - receivedAt) / 1000;
    const soon = data.seconds_left === null ? "" : left > 0 ? `in ${Math.ceil(left)} s, ` : "now, ";
    setText(state.summary, soon + data.summary);
  });
  state.fill.style.width = `${100 * data.fraction}%`;
  setAttribute(state.bar, "aria-valuenow", Math.round(100 * data.fraction));
  setAttribute(state.bar, "aria-label", data.name);
  setText(state.stop, data.button);
  state.stop.onclick = () => setTriggerValue("stop", true);
  return stop;
}
