// The trace viewer: one slider, and a pane for each trace with its heatmap, its curve and its canvas.
(() => {
  "use strict";
  const { count, make, statements } = window.denoscope;
  const { STATES, canvas, facts, heatmap, quantity, unpack } = window.denoscopeTrace;
  performance.mark("denoscope-start");
  const byId = (id) => document.getElementById(id);
  const traces = JSON.parse(byId("trace-data").textContent);
  const SLOWEST_MS = 700;
  const QUICKEST_MS = 60;
  const ALL_MS = 20000;
  const state = { step: 0, sample: 0, choice: "confidence", feature: "", unwritten: "blank", marks: true, linked: null, pinned: null, timer: null };
  let panes = [];
  let showStatements = () => {};
  const last = () => Math.max(...panes.map(({ run }) => run.steps));
  const within = (pane) => Math.min(state.step, pane.run.steps);

  function choiceName() {
    const select = byId("color-select");
    return select.selectedOptions[0].textContent + (state.choice.startsWith("vector:") ? ` ${byId("feature-select").selectedOptions[0].textContent}` : "");
  }

  function tell(pane, step, position, x, y) {
    const tip = byId("tip");
    const { choice, feature } = state;
    tip.replaceChildren(facts.position(pane, step, position, { choice, feature, name: choiceName() }));
    tip.hidden = false;
    const { width, height } = tip.getBoundingClientRect();
    tip.style.left = `${Math.max(4, Math.min(x + 16, document.documentElement.clientWidth - width - 4))}px`;
    tip.style.top = `${Math.max(4, y + 20 + height > window.innerHeight ? y - height - 14 : y + 20)}px`;
  }

  function link(position) {
    const next = position ?? state.pinned;
    if (next === state.linked) return;
    state.linked = next;
    for (const pane of panes) {
      pane.canvas.link(next === null ? [] : [next]);
      pane.heat.link(next !== null && next < pane.run.positions ? next : null);
    }
  }

  /* The places that a statement about the first trace names; none leads back to what is pinned. */
  function light(places) {
    panes[0].canvas.link(places.length || state.pinned === null ? places : [state.pinned]);
  }

  function pin(position) {
    state.pinned = state.pinned === position ? null : position;
    link(position);
  }

  function leave() {
    byId("tip").hidden = true;
    link(null);
  }

  function show(step) {
    state.step = Math.min(last(), Math.max(0, step));
    for (const pane of panes) {
      const own = within(pane);
      pane.canvas.show(own, state.unwritten);
      pane.heat.goTo(own);
      pane.cursor.setAttribute("x1", own);
      pane.cursor.setAttribute("x2", own);
      pane.element.querySelector(".summary").textContent = facts.summary(pane.run, state.step);
    }
    showStatements(state.step);
    byId("step-slider").value = state.step;
    byId("step-slider").setAttribute("aria-valuetext", `step ${state.step} of ${last()}`);
    byId("step-label").textContent = `Step ${state.step} of ${last()}`;
    byId("previous").disabled = state.step === 0;
    byId("next").disabled = state.step === last();
  }

  function pause() {
    clearInterval(state.timer);
    state.timer = null;
    byId("play").textContent = "Play";
    byId("play").setAttribute("aria-label", "Play");
  }

  function go(step) {
    pause();
    show(step);
  }

  function play() {
    if (state.timer !== null) { pause(); return; }
    if (state.step === last()) show(0);
    byId("play").textContent = "Pause";
    byId("play").setAttribute("aria-label", "Pause");
    const pace = Math.min(SLOWEST_MS, Math.max(QUICKEST_MS, ALL_MS / (last() + 1)));
    state.timer = setInterval(() => (state.step === last() ? pause() : show(state.step + 1)), pace);
  }

  /* The colours of all panes span one range, so that the same colour says the same thing. */
  function range() {
    const all = panes.map(({ run }) => quantity(run, state.choice, state.feature)).filter(({ known }) => known);
    return { low: Math.min(...all.map(({ low }) => low)), high: Math.max(...all.map(({ high }) => high)) };
  }

  function drawLegend({ low, high }) {
    const legend = byId("color-legend");
    legend.replaceChildren();
    if (state.choice === "state") {
      STATES.slice(0, 5).forEach((name, index) => {
        const key = make("span", "swatch");
        key.style.background = heatmap.STATE_COLORS[index];
        legend.append(key, make("span", "", name));
      });
    } else {
      const bar = make("span", "ramp");
      bar.style.background = `linear-gradient(to right, ${heatmap.CIVIDIS.join(", ")})`;
      const digits = high - low > 20 ? 0 : 2;
      legend.append(make("span", "", low.toFixed(digits)), bar, make("span", "", high.toFixed(digits)));
    }
    const many = panes.some(({ run }) => Math.max(run.changed.length, run.taken.length) > heatmap.MOST_MARKS);
    byId("marks-note").textContent = state.marks && many ? `More than ${heatmap.MOST_MARKS} changes of a kind are not marked; colour by state shows them.` : "";
  }

  async function recolor() {
    const { low, high } = range();
    const on = (pane) => ({
      hover: (step, position, event) => { tell(pane, step, position, event.clientX, event.clientY); link(position); },
      leave,
      click: (step, position) => { pin(position); go(step); },
    });
    drawLegend({ low, high });
    await Promise.all(panes.map(async (pane) => {
      const view = { ...state, low, high, steps: last(), layout: pane.trace.layout };
      pane.heat = await heatmap.draw(pane.element.querySelector(".heat-box"), pane.run, view, on(pane));
      pane.element.querySelector(".absent").hidden = quantity(pane.run, state.choice, state.feature).known;
    }));
    state.linked = null;
    link(null);
    show(state.step);
  }

  const options = (...pairs) => pairs.map(([text, value]) => new Option(text, value));
  const channels = (test) => [...new Map(panes.flatMap(({ run }) => run.channels.filter(test)).map((one) => [one.name, one])).values()];

  /* The features to choose from, where the colour is a vector channel. */
  function fillFeatures() {
    const own = panes.flatMap(({ run }) => run.channels.filter(({ name, features }) => features.length && state.choice === `vector:${name}`));
    byId("feature-choice").hidden = own.length === 0;
    const labels = [...new Set(own.flatMap(({ features }) => features))];
    state.feature = labels[0] ?? "";
    byId("feature-select").replaceChildren(...labels.map((label) => new Option(label, label)));
    byId("feature-note").textContent = own.some(({ recorded }) => recorded > labels.length) ? `${labels.length} of ${own[0].recorded}, those that vary most` : "";
  }

  function fillChoices() {
    const plain = [["confidence", "confidence"], ["entropy", "entropy"], ["margin", "margin"], ["state", "state"], ["commit order", "commit"]];
    const own = channels(() => true).map(({ name, features }) => [name, `${features.length ? "vector" : "scalar"}:${name}`]);
    byId("color-select").replaceChildren(...options(...plain, ...own));
    state.choice = [...byId("color-select").options].some(({ value }) => value === state.choice) ? state.choice : "confidence";
    byId("color-select").value = state.choice;
    const pencils = panes.some(({ trace }) => trace.layout === "board") ? channels(({ features }) => features.length === 9) : [];
    byId("unwritten-select").replaceChildren(
      ...options(["blank", "blank"], ["proposals", "proposals"], ...pencils.map(({ name }) => [`pencil marks: ${name}`, name])));
    byId("unwritten-select").value = state.unwritten;
    fillFeatures();
  }

  function buildCanvas(pane, index) {
    const { trace, run, element } = pane;
    const old = element.querySelector(".canvas");
    const fresh = old.cloneNode(false); // leaves the listeners of the sample before behind
    old.replaceWith(fresh);
    const label = `${trace.layout === "board" ? "Board" : "Text"} of ${trace.model}, ${trace.policy}`;
    pane.canvas = canvas.build(fresh, run, { layout: trace.layout, texts: trace.texts, label });
    const at = (event) => event.target.closest("[data-position]");
    fresh.addEventListener("pointerover", (event) => {
      if (!at(event)) return;
      tell(pane, within(pane), Number(at(event).dataset.position), event.clientX, event.clientY);
      link(Number(at(event).dataset.position));
    });
    fresh.addEventListener("pointerleave", leave);
    fresh.addEventListener("focusin", (event) => {
      const box = event.target.getBoundingClientRect();
      tell(pane, within(pane), Number(event.target.dataset.position), box.right, box.bottom);
      link(Number(event.target.dataset.position));
    });
    fresh.addEventListener("focusout", leave);
    fresh.addEventListener("click", (event) => { if (at(event)) pin(Number(at(event).dataset.position)); });
    fresh.addEventListener("keydown", (event) => walk(event, index));
  }

  /* Arrows walk over the canvas; Enter pins a position; page keys step, so that a position can be watched. */
  function walk(event, index) {
    const pane = panes[index];
    const from = Number(event.target.dataset.position);
    if (event.key.startsWith("Arrow")) {
      const to = canvas.walk(pane.canvas.cells, from, event.key, pane.trace.layout === "board");
      pane.canvas.cells[from].tabIndex = -1;
      pane.canvas.cells[to].tabIndex = 0;
      pane.canvas.cells[to].focus();
    } else if (event.key === "Enter") {
      pin(from);
    } else if (event.key === "PageUp" || event.key === "PageDown") {
      go(state.step + (event.key === "PageDown" ? 1 : -1));
      const box = event.target.getBoundingClientRect();
      tell(pane, within(pane), from, box.right, box.bottom);
    } else return;
    event.preventDefault();
    event.stopPropagation();
  }

  async function choose(sample) {
    pause();
    byId("trace").setAttribute("aria-busy", "true");
    state.sample = sample;
    state.pinned = null;
    const runs = await Promise.all(traces.map((trace) => unpack(trace.samples[sample])));
    panes = traces.map((trace, index) => ({ trace, run: runs[index], element: byId(`pane-${index}`) }));
    byId("step-slider").max = last();
    panes.forEach((pane, index) => {
      pane.element.querySelector(".about").textContent = `${pane.trace.model}, ${pane.trace.policy}: ${count(pane.run.steps, "network call")}`;
      pane.cursor = facts.curve(pane.element.querySelector(".curve-box"), pane.run, last(), go);
      buildCanvas(pane, index);
    });
    if (byId("statements")) {
      const written = panes[0].run.counts.map(({ fresh }) => fresh);
      showStatements = statements.build(traces[0].samples[sample].statements, { written, noun: "token", link: light });
    }
    fillChoices();
    state.step = Math.min(state.step, last());
    await recolor();
    byId("trace").setAttribute("aria-busy", "false");
    performance.mark("denoscope-shown");
  }

  function firstUnwritten() {
    if (traces.every(({ layout }) => layout !== "board")) return "blank";
    const pencil = traces.flatMap(({ samples }) => samples[0].channels).find(({ features }) => features.length === 9);
    return pencil ? pencil.name : "proposals";
  }

  state.unwritten = firstUnwritten();
  byId("sample-select").replaceChildren(...traces[0].samples.map(({ sample }, index) => new Option(sample, index)));
  byId("sample-choice").hidden = traces.every(({ nSamples }) => nSamples < 2);
  byId("sample-note").textContent = `of ${[...new Set(traces.map(({ nSamples }) => nSamples))].join(" and ")}, counted from 0`;
  byId("sample-select").addEventListener("change", (event) => choose(Number(event.target.value)));
  byId("color-select").addEventListener("change", (event) => { state.choice = event.target.value; fillFeatures(); recolor(); });
  byId("feature-select").addEventListener("change", (event) => { state.feature = event.target.value; recolor(); });
  byId("unwritten-select").addEventListener("change", (event) => { state.unwritten = event.target.value; show(state.step); });
  byId("marks-toggle").addEventListener("change", (event) => { state.marks = event.target.checked; recolor(); });
  byId("step-slider").addEventListener("input", (event) => go(Number(event.target.value)));
  byId("previous").addEventListener("click", () => go(state.step - 1));
  byId("next").addEventListener("click", () => go(state.step + 1));
  byId("play").addEventListener("click", play);
  document.addEventListener("keydown", (event) => {
    if (event.key === "Escape") { state.pinned = null; leave(); return; }
    if (event.ctrlKey || event.metaKey || event.altKey || event.target.closest("input[type=range], select")) return;
    const jump = { ArrowLeft: state.step - 1, ArrowRight: state.step + 1, Home: 0, End: last() }[event.key];
    if (jump !== undefined) go(jump); else if (event.key === " " && !event.target.closest("button, input")) play(); else return;
    event.preventDefault();
  });
  window.matchMedia("(prefers-color-scheme: dark)").addEventListener("change", recolor);
  choose(0);
})();
