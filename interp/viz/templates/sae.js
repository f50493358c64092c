// Sorts the table of latents, and hides rows and cards that a search does not find.
(() => {
  "use strict";
  const table = document.getElementById("latents");
  const body = table.tBodies[0];
  const heads = [...table.tHead.rows[0].cells];
  const cards = new Map([...document.querySelectorAll(".card")].map((card) => [card.dataset.latent, card]));
  const number = (text) => (text === "" ? -Infinity : Number(text));

  function sort(column) {
    const falling = heads[column].getAttribute("aria-sort") !== "descending";
    heads.forEach((head) => head.removeAttribute("aria-sort"));
    heads[column].setAttribute("aria-sort", falling ? "descending" : "ascending");
    const rows = [...body.rows];
    const keys = new Map(rows.map((row) => [row, row.cells[column].dataset.sort]));
    const numeric = rows.every((row) => !Number.isNaN(Number(keys.get(row))));
    const compare = (a, b) => (numeric ? number(keys.get(a)) - number(keys.get(b)) || 0 : keys.get(a).localeCompare(keys.get(b)));
    rows.sort((a, b) => (falling ? compare(b, a) : compare(a, b)));
    body.append(...rows);
  }
  heads.forEach((head, column) => head.querySelector("button").addEventListener("click", () => sort(column)));

  const search = document.getElementById("search");
  const texts = new Map([...body.rows].map((row) => {
    const card = cards.get(row.dataset.latent);
    const said = [row.textContent, card.querySelector(".about").textContent, card.querySelector(".effects").textContent];
    return [row, said.join(" ").toLowerCase()];
  }));
  search.addEventListener("input", () => {
    const wanted = search.value.trim().toLowerCase();
    let found = 0;
    for (const [row, text] of texts) {
      const hidden = !text.includes(wanted);
      row.hidden = hidden;
      cards.get(row.dataset.latent).hidden = hidden;
      found += hidden ? 0 : 1;
    }
    document.getElementById("count").textContent = `${found} of ${texts.size} latents`;
  });
})();
