// A plotly figure that stays mounted and is updated. Times are milliseconds since 1970, shown in the viewer's time zone.
const TIMEOUT_MS = 30000;

// All charts of the page share one script.
function load(source) {
  window.filemillPlotly ??= new Promise((resolve, reject) => {
    const script = el("script", { src: source, async: "" });
    script.onload = () => resolve(window.Plotly);
    script.onerror = () => reject(new Error("The chart library did not load"));
    setTimeout(script.onerror, TIMEOUT_MS);
    document.head.append(script);
  });
  return window.filemillPlotly;
}

export default function ({ data, parentElement }) {
  const state = mountedState(parentElement, (root) => {
    const plot = el("div", { class: "plot" });
    const message = el("div", { class: "message" });
    const chart = el("div", { class: "chart" }, plot, message);
    root.append(chart);
    return { chart, plot, message };
  });
  setAttribute(state.chart, "class", data.stale ? "chart stale" : "chart");
  state.chart.style.height = `${data.height}px`;
  setAttribute(state.chart, "role", "img");
  setAttribute(state.chart, "aria-label", data.alt);
  setText(state.message, data.message);
  load(data.script).then(
    (plotly) =>
      draw(plotly, state, data.figure, data.annotations ?? [], data.elapsed ? (seconds) => seconds : toLocalTime),
    (error) => {
      window.filemillPlotly = undefined; // the next refresh retries
      setText(state.message, error.message);
    },
  );
  return () => {
    state.observer?.disconnect();
    if (window.Plotly) window.Plotly.purge(state.plot);
  };
}

// `toAxis` converts a moment to a value of the x axis.
function draw(plotly, state, figure, annotations, toAxis) {
  const style = getComputedStyle(state.chart);
  const colour = (name) => style.getPropertyValue(`--st-${name}`).trim();
  const axis = {
    gridcolor: colour("border-color"),
    linecolor: colour("border-color"),
    tickfont: { color: colour("gray-text-color"), size: 11 },
    zeroline: false,
    fixedrange: true,
    automargin: true,
  };
  const { xaxis, yaxis, yaxis3, ...rest } = figure.layout; // yaxis2 belongs to the annotations
  const layout = {
    autosize: true,
    margin: { l: 40, r: 6, t: 30, b: 0 },
    paper_bgcolor: "rgba(0,0,0,0)",
    plot_bgcolor: "rgba(0,0,0,0)",
    colorway: colour("chart-categorical-colors")
      .split(",")
      .map((part) => part.trim()),
    font: { family: colour("font"), size: 12, color: colour("text-color") },
    hovermode: "x unified",
    hoverlabel: {
      bgcolor: colour("background-color"),
      bordercolor: colour("border-color"),
      font: { family: colour("font"), size: 12, color: colour("text-color") },
    },
    showlegend: true,
    legend: { orientation: "h", x: 0, y: 1.02, xanchor: "left", yanchor: "bottom", font: { size: 12 } },
    ...rest,
    xaxis: {
      ...axis,
      type: toAxis === toLocalTime ? "date" : "linear",
      showgrid: false,
      ...xaxis,
      range: xaxis.range.map(toAxis),
    },
    yaxis: { ...axis, ...yaxis },
  };
  if (yaxis3) layout.yaxis3 = { ...axis, overlaying: "y", side: "right", showgrid: false, ...yaxis3 };
  const traces = figure.data.map((trace) => ({ ...trace, x: trace.x.map(toAxis) }));
  const line = { color: colour("violet-color"), width: 1.2, dash: "dot" };
  layout.shapes = annotations.map((annotation) => ({
    xref: "x",
    yref: "paper",
    x0: toAxis(annotation.at_ms),
    x1: toAxis(annotation.until_ms ?? annotation.at_ms),
    y0: 0,
    y1: 1,
    ...(annotation.until_ms === null
      ? { type: "line", line }
      : { type: "rect", line: { width: 0 }, fillcolor: colour("violet-color"), opacity: 0.16 }),
  }));
  if (annotations.length) {
    layout.yaxis2 = { overlaying: "y", range: [0, 1], visible: false, fixedrange: true };
    traces.push({
      type: "scatter",
      mode: "markers",
      yaxis: "y2",
      x: annotations.map((annotation) => toAxis(annotation.at_ms)),
      y: annotations.map(() => 1),
      text: annotations.map((annotation) => annotation.text),
      hovertemplate: "%{text}<extra></extra>",
      showlegend: false,
      cliponaxis: false,
      marker: { symbol: "triangle-down", size: 9, color: colour("violet-color") },
    });
  }
  plotly.react(state.plot, traces, layout, { displayModeBar: false, responsive: false });
  state.observer ??= resizeWith(plotly, state);
}

function resizeWith(plotly, state) {
  // A chart that is hidden or removed at this moment cannot be resized, and needs not.
  const observer = new ResizeObserver(() => state.plot.data && plotly.Plots.resize(state.plot).catch(() => undefined));
  observer.observe(state.chart);
  return observer;
}

// Plotly has no time zones: it shows the text of a moment unchanged.
function toLocalTime(milliseconds) {
  if (milliseconds === null) return null;
  const moment = new Date(milliseconds);
  return new Date(milliseconds - moment.getTimezoneOffset() * 60000).toISOString().slice(0, -1);
}
