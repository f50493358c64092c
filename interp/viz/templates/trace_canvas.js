// The canvas of a pane at a step, a sudoku board or running text. Tokens enter the document as textContent only.
window.denoscopeTrace.canvas = (() => {
  "use strict";
  const { make } = window.denoscope;
  const { State, isMasked, isWritten, percent, place: placeOf, visible } = window.denoscopeTrace;
  const SPECIAL = /^(<[^<>\s]+>|\[[A-Z_:0-9]+\]|#\d+)$/;

  function boardCell(position) {
    const cell = make("div", "cell");
    const pencil = make("span", "pencil");
    const marks = Array.from({ length: 9 }, (_, digit) => make("span", "mark", digit + 1));
    pencil.append(...marks);
    const digit = make("span", "digit");
    cell.append(pencil, digit);
    cell.setAttribute("role", "gridcell");
    if (position % 3 === 0) cell.classList.add("box-left");
    if (Math.floor(position / 9) % 3 === 0) cell.classList.add("box-top");
    return { cell, digit, marks, pencil };
  }

  function buildBoard(place) {
    const cells = Array.from({ length: 81 }, (_, position) => boardCell(position));
    for (let row = 0; row < 9; row += 1) {
      const line = make("div", "row");
      line.setAttribute("role", "row");
      line.append(...cells.slice(9 * row, 9 * row + 9).map(({ cell }) => cell));
      place.append(line);
    }
    place.setAttribute("role", "grid");
    return cells;
  }

  function buildText(place, n) {
    const cells = Array.from({ length: n }, () => {
      const cell = make("span", "token");
      cell.setAttribute("role", "listitem");
      return { cell, digit: cell };
    });
    place.append(...cells.map(({ cell }) => cell));
    place.setAttribute("role", "list");
    return cells;
  }

  /* Returns {show(step, unwritten), link(position), cells}; `unwritten` is "blank", "proposals" or the name of a channel of nine features
     (where the run has none of that name, proposals). */
  function build(place, run, { layout, texts, label }) {
    const board = layout === "board";
    place.replaceChildren();
    place.className = board ? "canvas board" : "canvas text";
    place.setAttribute("aria-label", label);
    const cells = board ? buildBoard(place) : buildText(place, run.positions);
    cells.forEach(({ cell }, position) => {
      cell.dataset.position = position;
      cell.tabIndex = position === 0 ? 0 : -1;
    });
    const drawn = Array(run.positions).fill("");
    let linked = [];

    const pencilOf = (name) => board && run.channels.find((one) => one.name === name && one.features.length === 9);

    function look(step, position, unwritten) {
      const pencil = pencilOf(unwritten) || undefined;
      const index = step * run.positions + position;
      const state = run.state[index];
      const masked = isMasked(state);
      const since = run.since[index];
      const fresh = isWritten(state) && step > 0 && since === step;
      const sure = isWritten(state) && since > 0 ? run.confidence.at(since * run.positions + position) : NaN;
      return {
        index, state, masked, fresh, sure,
        token: masked ? 0 : run.token[index],
        proposed: masked && !pencil && unwritten !== "blank" ? run.proposal[index] : 0,
        pencil: masked ? pencil : undefined,
        taken: masked && step > 0 && !isMasked(run.state[index - run.positions]),
      };
    }

    function describe(position, { state, masked, fresh, sure, token, proposed }) {
      const what = masked ? "masked" : visible(texts[token]);
      const parts = [state === State.PROMPT ? "given" : "", state === State.REVISED ? "changed before" : "", fresh ? "written now" : ""];
      if (!Number.isNaN(sure)) parts.push(`confidence ${percent(sure)}`);
      if (proposed) parts.push(`proposal ${visible(texts[proposed])}`);
      return [`${placeOf(layout, position)}: ${what}`, ...parts.filter(Boolean)].join(", ");
    }

    function drawPencil({ pencil, marks }, { pencil: channel, index }) {
      pencil.hidden = channel === undefined;
      if (channel === undefined) return;
      const { at, low, high } = channel.values;
      const [least, most] = [Math.min(...low), Math.max(...high)];
      marks.forEach((mark, digit) => { mark.style.opacity = ((at(index * 9 + digit) - least) / (most - least) || 0).toFixed(3); });
    }

    function draw(position, now) {
      const { cell, digit, pencil, marks } = cells[position];
      const text = texts[now.token || now.proposed];
      const flags = {
        given: now.state === State.PROMPT, written: isWritten(now.state), masked: now.masked, proposed: now.proposed > 0, fresh: now.fresh,
        revised: now.state === State.REVISED, erased: now.taken, tinted: !Number.isNaN(now.sure), padding: now.state === State.PADDING,
        special: !board && SPECIAL.test(text), long: board && text.length > 1,
        repeated: !board && now.state === State.PROMPT && SPECIAL.test(text) && position > 0 && run.token[now.index - 1] === now.token,
      };
      for (const [flag, on] of Object.entries(flags)) cell.classList.toggle(flag, on);
      cell.style.setProperty("--sure", flags.tinted ? `${Math.round(100 * now.sure)}%` : "0%");
      digit.textContent = text;
      cell.setAttribute("aria-label", describe(position, now));
      if (board) drawPencil({ pencil, marks }, now);
    }

    function show(step, unwritten) {
      for (let position = 0; position < run.positions; position += 1) {
        const now = look(step, position, unwritten);
        const { state, token, proposed, fresh, taken, sure, pencil } = now;
        const key = `${state}|${token}|${proposed}|${fresh}|${taken}|${sure}|${pencil ? step : ""}`;
        if (drawn[position] === key) continue;
        drawn[position] = key;
        draw(position, now);
      }
    }

    function link(positions) {
      for (const position of linked) cells[position].cell.classList.remove("linked");
      linked = positions.filter((position) => position < cells.length);
      for (const position of linked) cells[position].cell.classList.add("linked");
    }

    return { show, link, cells: cells.map(({ cell }) => cell) };
  }

  /* The position that an arrow key leads to: nine columns on a board; on text the neighbour, or the nearest token of the next line. */
  function walk(cells, from, key, board) {
    const [row, column] = [Math.floor(from / 9), from % 9];
    if (key === "ArrowLeft") return board ? 9 * row + Math.max(0, column - 1) : Math.max(0, from - 1);
    if (key === "ArrowRight") return board ? 9 * row + Math.min(8, column + 1) : Math.min(cells.length - 1, from + 1);
    const down = key === "ArrowDown" ? 1 : -1;
    if (board) return 9 * Math.min(8, Math.max(0, row + down)) + column;
    const start = cells[from].getClientRects()[0];
    let line = null;
    let best = from;
    let least = Infinity;
    for (let position = from + down; position >= 0 && position < cells.length; position += down) {
      const box = cells[position].getClientRects()[0];
      if (!box || Math.abs(box.top - start.top) < start.height / 2) continue;
      line ??= box.top;
      if (Math.abs(box.top - line) > start.height / 2) break;
      if (Math.abs(box.left - start.left) < least) { least = Math.abs(box.left - start.left); best = position; }
    }
    return best;
  }

  return { build, walk };
})();
