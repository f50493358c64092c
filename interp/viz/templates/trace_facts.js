// What a pane tells in words and in a small curve: the facts of a position at a step, and how many positions were written when.
window.denoscopeTrace.facts = (() => {
  "use strict";
  const { count, make } = window.denoscope;
  const { STATES, isMasked, percent, place, quantity, visible } = window.denoscopeTrace;

  function svg(tag, attributes) {
    const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
    for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
    return element;
  }

  /* Draws the positions written after each call over the steps of the longest trace; returns the line that marks a step. */
  function curve(box, run, steps, go) {
    const { written, left } = run.counts[run.steps];
    const most = Math.max(1, ...run.counts.map((one) => one.written + one.left));
    const points = run.counts.map((one, step) => `${step},${100 - (96 * one.written) / most}`).join(" ");
    const picture = svg("svg", { viewBox: `0 0 ${Math.max(1, steps)} 100`, preserveAspectRatio: "none", role: "img" });
    picture.setAttribute("aria-label", `Positions written by call: ${written} of ${written + left} after ${count(run.steps, "call")}`);
    const area = svg("polygon", { points: `0,100 ${points} ${run.steps},100`, class: "area" });
    const cursor = svg("line", { y1: 0, y2: 100, class: "cursor" });
    picture.append(area, svg("polyline", { points, class: "curve" }), cursor);
    picture.addEventListener("click", (event) => {
      const { left: begin, width } = picture.getBoundingClientRect();
      go(Math.round(((event.clientX - begin) / width) * steps));
    });
    box.replaceChildren(picture);
    return cursor;
  }

  function line(term, value) {
    const row = make("div", "fact");
    row.append(make("span", "muted", term), make("span", "", value));
    return row;
  }

  function tops(run, trace, index) {
    const list = make("ol", "tops");
    for (let rank = 0; rank < run.ranks; rank += 1) {
      const token = run.topToken[index * run.ranks + rank];
      const share = run.topProbability.at(index * run.ranks + rank);
      if (!token) continue;
      const item = make("li");
      const bar = make("span", "share");
      bar.style.width = `${Math.round(100 * share)}%`;
      item.append(bar, make("span", "name", visible(trace.texts[token])), make("span", "value", percent(share)));
      list.append(item);
    }
    return list;
  }

  /* What is known of a position at a step; `colored` is {choice, feature, name} of the colour, told where it is a channel. */
  function position({ run, trace }, step, at, colored) {
    const index = step * run.positions + at;
    const box = document.createDocumentFragment();
    const now = isMasked(run.state[index]) ? "masked" : visible(trace.texts[run.token[index]]);
    box.append(make("p", "head", `${place(trace.layout, at)}, step ${step}: ${now}`), make("p", "muted", STATES[run.state[index]]));
    if (run.since[index] > 0) box.append(line("written in call", run.since[index]));
    if (run.proposal[index]) box.append(line("proposal", visible(trace.texts[run.proposal[index]])));
    if (!Number.isNaN(run.confidence.at(index))) {
      box.append(line("confidence", percent(run.confidence.at(index))), line("margin", percent(run.margin.at(index))));
      box.append(line("entropy", `${run.entropy.at(index).toFixed(2)} nats`));
    }
    const value = quantity(run, colored.choice, colored.feature).at(index);
    if (colored.choice.includes(":") && !Number.isNaN(value)) box.append(line(colored.name, value.toFixed(3)));
    box.append(tops(run, trace, index));
    return box;
  }

  /* What the calls so far wrote, in one line; `step` may lie beyond the end. */
  function summary(run, wanted) {
    const step = Math.min(wanted, run.steps);
    const { written, fresh, changed, taken, left } = run.counts[step];
    const parts = [step === 0 ? "before the first call" : `call ${step} of ${run.steps}`];
    if (step > 0) parts.push(`${fresh} written now${changed ? `, ${changed} of them changed` : ""}`);
    if (taken) parts.push(`${taken} masked again`);
    parts.push(`${written} written, ${left} left`);
    if (wanted > run.steps) parts.push("finished");
    return parts.join("; ");
  }

  return { curve, position, summary };
})();
