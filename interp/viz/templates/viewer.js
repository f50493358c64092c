// The board viewer. Data enters the document as text only: textContent and attributes, never markup.
(() => {
  "use strict";
  const { allowed, count, make, markClass, name, percent, statements } = window.denoscope;
  const byId = (id) => document.getElementById(id);
  const traces = JSON.parse(byId("trace-data").textContent);
  const PLAY_MS = 900;
  const state = { trace: 0, step: 0, timer: null, inspected: null };
  let showStatements = () => {};
  const cells = [];
  const trace = () => traces[state.trace];
  const last = () => trace().steps.length - 1;
  const before = (step) => trace().steps[Math.max(step - 1, 0)].digits;
  const isWrong = (digits, cell) => digits[cell] !== 0 && digits[cell] !== trace().solution[cell];

  function buildBoard() {
    const board = byId("board");
    for (let row = 0; row < 9; row += 1) {
      const line = make("div", "row");
      line.setAttribute("role", "row");
      for (let column = 0; column < 9; column += 1) {
        const index = row * 9 + column;
        const cell = make("div", "cell");
        cell.setAttribute("role", "gridcell");
        cell.dataset.cell = index;
        cell.tabIndex = index === 0 ? 0 : -1;
        if (column % 3 === 0) cell.classList.add("box-left");
        if (row % 3 === 0) cell.classList.add("box-top");
        const pencil = make("span", "pencil");
        const marks = Array.from({ length: 9 }, (_, digit) => {
          const mark = make("span", "mark");
          const glyph = make("span", "glyph", digit + 1);
          mark.append(glyph);
          pencil.append(mark);
          return { mark, glyph };
        });
        const digit = make("span", "digit");
        const corner = make("span", "corner");
        cell.append(pencil, digit, corner);
        cell.addEventListener("pointerenter", () => inspect(index));
        cell.addEventListener("focus", () => inspect(index));
        line.append(cell);
        cells.push({ cell, pencil, marks, digit, corner });
      }
      board.append(line);
      document.querySelector(".column-names").append(make("span", "", `c${row + 1}`));
      document.querySelector(".row-names").append(make("span", "", `r${row + 1}`));
    }
    board.addEventListener("keydown", walk);
  }

  function walk(event) {
    const move = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] }[event.key];
    const from = Number(event.target.dataset.cell);
    if (!move || Number.isNaN(from)) return;
    const row = Math.min(8, Math.max(0, Math.floor(from / 9) + move[0]));
    const column = Math.min(8, Math.max(0, (from % 9) + move[1]));
    cells[from].cell.tabIndex = -1;
    cells[row * 9 + column].cell.tabIndex = 0;
    cells[row * 9 + column].cell.focus();
    event.preventDefault();
    event.stopPropagation();
  }

  function describe(cell) {
    const { steps, givens, solution } = trace();
    const now = steps[state.step];
    const digit = now.digits[cell];
    if (givens[cell]) return `${name(cell)}: ${digit}, given`;
    const parts = [];
    if (digit === 0) {
      parts.push("not written yet");
    } else {
      let at = state.step;
      while (at > 0 && !(steps[at].written.includes(cell) || steps[at].revised.includes(cell))) at -= 1;
      const confidence = steps[at].confidence[cell];
      const old = at > 0 ? steps[at - 1].digits[cell] : 0;
      const act = old && old !== digit ? `changed from ${old} to ${digit}` : `${digit}, written`;
      parts.push(`${act} in step ${at}${confidence === null ? "" : ` with confidence ${percent(confidence)} %`}`);
      if (isWrong(now.digits, cell)) parts.push(`the solution has ${solution[cell]}`);
    }
    const top = now.confidence[cell];
    if (digit === 0 && top !== null) parts.push(`the network's top probability is ${percent(top)} %`);
    return `${name(cell)}: ${parts.join("; ")}`;
  }

  function drawCell(index) {
    const { steps, givens } = trace();
    const now = steps[state.step];
    const { cell, pencil, marks, digit, corner } = cells[index];
    const value = now.digits[index];
    const revised = value !== 0 && now.revised.includes(index);
    const fresh = revised || now.written.includes(index);
    const flags = {
      given: givens[index] !== 0, model: givens[index] === 0 && value !== 0, fresh, revised,
      wrong: isWrong(now.digits, index), erased: value === 0 && before(state.step)[index] !== 0,
    };
    for (const [flag, on] of Object.entries(flags)) cell.classList.toggle(flag, on);
    digit.textContent = value || "";
    const confidence = now.confidence[index];
    corner.textContent = flags.fresh && value && confidence !== null ? percent(confidence) : "";
    const reading = now.pencil && now.pencil[index];
    pencil.hidden = value !== 0 || !reading;
    if (!pencil.hidden) {
      const open = allowed(before(state.step), index);
      marks.forEach(({ mark, glyph }, d) => {
        mark.className = `mark ${markClass(reading[d], open[d])}`;
        glyph.style.opacity = reading[d] / 100;
      });
    }
    const text = describe(index);
    cell.title = text;
    cell.setAttribute("aria-label", text);
  }

  function inspect(cell) {
    state.inspected = cell;
    const { steps } = trace();
    let at = state.step;
    while (at > 0 && !(steps[at].pencil && steps[at].pencil[cell])) at -= 1;
    const reading = steps[at].pencil && steps[at].pencil[cell];
    const bars = byId("inspector-bars");
    bars.replaceChildren();
    byId("inspector-text").textContent = describe(cell) + (reading ? `. Read there in step ${at}, in % per candidate:` : ".");
    if (!reading) return;
    const open = allowed(before(at), cell);
    reading.forEach((probability, d) => {
      const bar = make("div", `bar ${markClass(probability, open[d])}`);
      const fill = make("span", "fill");
      fill.style.height = `${Math.max(probability, 2)}%`;
      const track = make("span", "track");
      track.append(fill);
      bar.append(make("span", "value", probability), track, make("span", "name", d + 1));
      bars.append(bar);
    });
  }

  function link(indices) {
    cells.forEach(({ cell }, index) => cell.classList.toggle("linked", indices.includes(index)));
  }

  function buildTimeline() {
    const { steps } = trace();
    const most = Math.max(1, ...steps.map((step) => step.written.length));
    const columns = steps.map((step, index) => {
      const column = make("div", "tick");
      column.dataset.tick = index;
      const wrong = step.written.filter((cell) => isWrong(step.digits, cell)).length;
      const right = step.written.length - wrong;
      for (const [className, n] of [["wrong", wrong], ["right", right]]) {
        const bar = make("span", className);
        bar.style.height = `${(100 * n) / most}%`;
        column.append(bar);
      }
      column.title = `step ${index}: ${count(step.written.length, "cell")} written${wrong ? `, ${wrong} wrong` : ""}`;
      column.addEventListener("click", () => { pause(); show(index); });
      return column;
    });
    byId("timeline").replaceChildren(...columns);
    byId("step-slider").style.setProperty("--steps", steps.length);
  }

  function show(step) {
    state.step = Math.min(last(), Math.max(0, step));
    const now = trace().steps[state.step];
    cells.forEach((_, index) => drawCell(index));
    showStatements(state.step);
    link([]);
    const slider = byId("step-slider");
    slider.value = state.step;
    slider.setAttribute("aria-valuetext", `step ${state.step} of ${last()}`);
    byId("step-label").textContent = `Step ${state.step} of ${last()}`;
    const empty = now.digits.filter((digit) => digit === 0).length;
    const wrong = now.digits.filter((_, cell) => isWrong(now.digits, cell)).length;
    byId("step-summary").textContent = [
      state.step === 0 ? "before the first call" : `${now.written.length} written now`,
      empty ? `${empty} still empty` : "board full", ...(wrong ? [`${wrong} wrong`] : []),
    ].join(", ");
    byId("previous").disabled = state.step === 0;
    byId("next").disabled = state.step === last();
    document.querySelectorAll(".tick").forEach((tick, index) => {
      tick.classList.toggle("now", index === state.step);
      tick.classList.toggle("past", index < state.step);
    });
    if (state.inspected !== null) inspect(state.inspected);
  }

  function pause() {
    if (state.timer !== null) clearInterval(state.timer);
    state.timer = null;
    byId("play").textContent = "Play";
    byId("play").setAttribute("aria-label", "Play");
  }

  function play() {
    if (state.timer !== null) return pause();
    if (state.step === last()) show(0);
    byId("play").textContent = "Pause";
    byId("play").setAttribute("aria-label", "Pause");
    state.timer = setInterval(() => (state.step === last() ? pause() : show(state.step + 1)), PLAY_MS);
    return undefined;
  }

  function choose(index) {
    pause();
    state.trace = index;
    const { model, policy, steps } = trace();
    byId("trace-about").textContent = `${model}; policy ${policy}; ${count(last(), "network call")}`;
    byId("step-slider").max = last();
    buildTimeline();
    showStatements = statements.build(trace().statements, { written: steps.map(({ written }) => written.length), noun: "cell", link });
    show(0);
  }

  buildBoard();
  byId("trace-select").replaceChildren(...traces.map((one, index) => new Option(one.title, index)));
  byId("trace-select").addEventListener("change", (event) => choose(Number(event.target.value)));
  byId("step-slider").addEventListener("input", (event) => { pause(); show(Number(event.target.value)); });
  byId("previous").addEventListener("click", () => { pause(); show(state.step - 1); });
  byId("next").addEventListener("click", () => { pause(); show(state.step + 1); });
  byId("play").addEventListener("click", play);
  byId("pencil-toggle").addEventListener("change", (event) => byId("board").classList.toggle("no-pencil", !event.target.checked));
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || event.target.closest("input, select, .plot")) return;
    const jump = { ArrowLeft: state.step - 1, ArrowRight: state.step + 1, Home: 0, End: last() }[event.key];
    if (jump !== undefined) { pause(); show(jump); } else if (event.key === " " && !event.target.closest("button")) play(); else return;
    event.preventDefault();
  });
  choose(0);
})();
