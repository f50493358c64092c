// The heatmap of a pane: steps by positions in plotly. A step moves a band that lies over it; cells are drawn again for another colour only.
window.denoscopeTrace.heatmap = (() => {
  "use strict";
  const { quantity } = window.denoscopeTrace;
  const CIVIDIS = ["#00224e", "#123570", "#3b496c", "#575d6d", "#707173", "#8a8678", "#a59c74", "#c3b369", "#e1cc55", "#fee838"];
  const STATE_COLORS = ["#8a8f98", "#d9d6cf", "#0a7abf", "#e69f00", "#cc79a7", "#ffffff"];
  const MOST_MARKS = 4000;
  const MARGIN = { l: 52, r: 8, t: 8, b: 42 };
  const color = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

  const scale = (choice) =>
    choice === "state"
      ? STATE_COLORS.flatMap((one, index) => [[index / 6, one], [(index + 1) / 6, one]])
      : CIVIDIS.map((one, index) => [index / (CIVIDIS.length - 1), one]);

  function rows(run, at) {
    return Array.from({ length: run.steps + 1 }, (_, step) =>
      Float32Array.from({ length: run.positions }, (_unused, position) => at(step * run.positions + position)));
  }

  function marks(run, indices, name, marker, show) {
    const all = show && indices.length <= MOST_MARKS ? indices : [];
    return {
      type: "scatter", mode: "markers", name, hoverinfo: "skip", marker,
      x: all.map((index) => index % run.positions), y: all.map((index) => Math.floor(index / run.positions)),
    };
  }

  function written(run) {
    const found = [];
    run.commit.forEach((step, position) => { if (step > 0) found.push(step * run.positions + position); });
    return found;
  }

  function theme() {
    return {
      font: { color: color("--ink"), size: 12, family: "system-ui, 'Segoe UI', Roboto, 'Helvetica Neue', 'Liberation Sans', Arial, sans-serif" },
      paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: color("--surface-2"),
    };
  }

  /* Lays a band over the plot area: one step or position, in per cent of what the axis shows; an axis begins left, or at the bottom. */
  function lay(band, at, [begin, end], vertical) {
    band.hidden = at === null;
    if (at === null) return;
    const share = (value) => (100 * (vertical ? end - value : value - begin)) / (end - begin);
    const [from, to] = [share(at - 0.5), share(at + 0.5)];
    band.style[vertical ? "top" : "left"] = `${Math.min(from, to)}%`;
    band.style[vertical ? "height" : "width"] = `${Math.abs(to - from)}%`;
  }

  function layout(run, view) {
    const board = view.layout === "board";
    const axis = { showgrid: false, zeroline: false, ticks: "outside", tickcolor: color("--line"), title: { standoff: 6 } };
    const height = Math.round(Math.min(460, Math.max(230, 70 + 9 * (view.steps + 1))));
    return {
      ...theme(), uirevision: `${view.sample} ${view.steps}`, height, margin: MARGIN, showlegend: false, hovermode: "closest", dragmode: "zoom",
      xaxis: {
        ...axis, range: [-0.5, run.positions - 0.5], title: { text: board ? "cell" : "position", standoff: 6 },
        ...(board ? { tickvals: [0, 9, 18, 27, 36, 45, 54, 63, 72], ticktext: [1, 2, 3, 4, 5, 6, 7, 8, 9].map((row) => `r${row}c1`) } : {}),
      },
      yaxis: { ...axis, range: [view.steps + 0.5, -0.5], title: { text: "call", standoff: 6 } },
    };
  }

  /* Draws into `box`; returns {goTo(step), link(position)}. `on.hover(step, position, event)`, `on.leave()` and `on.click(step, position)`
     hear of the pointer. */
  async function draw(box, run, view, on) {
    const place = box.querySelector(".heat");
    const { at, low, high } = quantity(run, view.choice, view.feature);
    const cells = {
      type: "heatmap", z: rows(run, at), hoverinfo: "none", showscale: false, colorscale: scale(view.choice),
      ...(view.choice === "state" ? { zmin: -0.5, zmax: 5.5 } : { zmin: view.low ?? low, zmax: view.high ?? high }),
    };
    const edge = { color: "#ffffff", width: 1 };
    const data = [
      cells,
      marks(run, written(run), "written", { symbol: "circle", size: 4, color: "#14171b", line: edge }, view.marks),
      marks(run, run.changed, "changed", { symbol: "diamond", size: 8, color: "#d55e00", line: edge }, view.marks),
      marks(run, run.taken, "masked again", { symbol: "x", size: 6, color: "#cc79a7", line: edge }, view.marks),
    ];
    const config = { responsive: true, displaylogo: false, doubleClick: "reset", modeBarButtonsToRemove: ["lasso2d", "select2d", "autoScale2d"] };
    await window.Plotly.react(place, data, layout(run, view), config);
    for (const name of ["hover", "unhover", "click", "relayout"]) place.removeAllListeners(`plotly_${name}`);
    place.on("plotly_hover", ({ points: [point], event }) => on.hover(point.y, point.x, event));
    place.on("plotly_unhover", on.leave);
    place.on("plotly_click", ({ points: [point] }) => on.click(point.y, point.x));
    return bands(box, place);
  }

  /* The bands of the current step and the linked position; they follow where one zooms. */
  function bands(box, place) {
    const [step, position] = [box.querySelector(".step-band"), box.querySelector(".position-band")];
    const at = { step: null, position: null };
    const { l, r, t, b } = MARGIN;
    box.querySelector(".bands").style.inset = `${t}px ${r}px ${b}px ${l}px`;
    const goTo = (now) => { at.step = now; lay(step, now, place.layout.yaxis.range, true); };
    const link = (now) => { at.position = now; lay(position, now, place.layout.xaxis.range, false); };
    place.on("plotly_relayout", () => { goTo(at.step); link(at.position); });
    link(null);
    return { goTo, link };
  }

  return { CIVIDIS, MOST_MARKS, STATE_COLORS, draw };
})();
