// The list of statements beside a viewer: it grows with the step, and lights the places a statement is about.
window.denoscope.statements = (() => {
  "use strict";
  const { count, make, words } = window.denoscope;
  const SOUND = { true: ["sound", "✓ sound"], false: ["unsound", "✗ unsound"], null: ["open", "○ not checkable"] };
  const SUPPORT = { decisive: "decides its own output", used: "used by the rest" };
  const byId = (id) => document.getElementById(id);

  function itemOf(statement, link) {
    const item = make("li");
    item.dataset.kind = statement.kind;
    const [className, label] = SOUND[String(statement.sound)];
    const line = make("div", "line");
    line.append(make("p", "text", statement.text), make("span", `badge ${className}`, label));
    const small = make("p", "evidence");
    small.append(make("span", "kind", words(statement.kind)));
    if (SUPPORT[statement.support]) small.append(make("span", "kind support", SUPPORT[statement.support]));
    small.append(document.createTextNode(statement.evidence));
    item.append(line, small);
    for (const type of ["pointerenter", "focus"]) item.addEventListener(type, () => link(statement.places));
    for (const type of ["pointerleave", "blur"]) item.addEventListener(type, () => link([]));
    return item;
  }

  /* Fills the list with one run's statements. `written[step]` says how much a step wrote; `link(places)` lights places. Returns show(step). */
  function build(statements, { written, noun, link }) {
    const list = byId("statements");
    const select = byId("kind-select");
    list.replaceChildren();
    written.forEach((n, step) => {
      const own = statements.filter((statement) => statement.step === step);
      if (!own.length) return;
      const group = make("section", "group");
      group.dataset.groupStep = step;
      const heading = make("h4", "", step === 0 ? "Before the first call" : `Step ${step}`);
      if (n) heading.append(make("span", "muted", ` ${count(n, noun)} written`));
      const items = make("ul");
      own.forEach((statement) => items.append(itemOf(statement, link)));
      group.append(heading, items);
      list.append(group);
    });
    list.append(make("p", "nothing muted", "Nothing was said so far."));
    const kinds = [...new Set(statements.map((statement) => statement.kind))].sort();
    select.replaceChildren(new Option("all statements", ""), ...kinds.map((kind) => new Option(words(kind), kind)));
    byId("kind-choice").hidden = kinds.length < 2;
    let now = 0;

    function show(step) {
      now = step;
      let current = null;
      for (const group of list.querySelectorAll(".group")) {
        const own = Number(group.dataset.groupStep);
        const items = [...group.querySelectorAll("li")];
        for (const item of items) {
          item.hidden = select.value !== "" && item.dataset.kind !== select.value;
          item.classList.toggle("current", own === step);
          item.tabIndex = own === step ? 0 : -1;
        }
        group.hidden = own > step || items.every((item) => item.hidden);
        group.classList.toggle("current", own === step);
        if (!group.hidden) current = group;
      }
      list.querySelector(".nothing").hidden = current !== null;
      if (current) list.scrollTop = Math.max(0, current.offsetTop - 8);
      const soFar = statements.filter((statement) => statement.step <= step && (!select.value || statement.kind === select.value));
      const checkable = soFar.filter((statement) => statement.sound !== null);
      const sound = checkable.filter((statement) => statement.sound);
      byId("statement-summary").textContent = `${count(soFar.length, "statement")} so far; ${sound.length} of ${checkable.length} checkable ones sound`;
    }

    select.onchange = () => show(now);
    return show;
  }

  return { build };
})();
