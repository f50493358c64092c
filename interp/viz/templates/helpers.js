// Small pure functions of the viewer.
window.denoscope = (() => {
  "use strict";
  const name = (cell) => `r${Math.floor(cell / 9) + 1}c${(cell % 9) + 1}`;
  const words = (kind) => kind.replaceAll("_", " ");
  const count = (n, noun) => `${n} ${noun}${n === 1 ? "" : "s"}`;
  const percent = (share) => `${Math.round(100 * share)}`;

  function make(tag, className, text) {
    const element = document.createElement(tag);
    if (className) element.className = className;
    if (text !== undefined) element.textContent = text;
    return element;
  }

  /* Digits that the row, column and box of a cell leave open on the board the network saw. */
  function allowed(digits, cell) {
    const open = Array(9).fill(true);
    const row = Math.floor(cell / 9);
    const column = cell % 9;
    for (let other = 0; other < 81; other += 1) {
      const r = Math.floor(other / 9);
      const c = other % 9;
      const sameBox = Math.floor(r / 3) === Math.floor(row / 3) && Math.floor(c / 3) === Math.floor(column / 3);
      if (other !== cell && digits[other] && (r === row || c === column || sameBox)) open[digits[other] - 1] = false;
    }
    return open;
  }

  /* A digit read as candidate that its units exclude, or one they allow that was not read. */
  const markClass = (probability, open) => (probability >= 50 && !open ? "intruder" : probability < 50 && open ? "missed" : "");

  return { allowed, count, make, markClass, name, percent, words };
})();
