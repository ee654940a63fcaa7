// The board: folded states on a phone, and the file of the selected lines (selection.js selects).
"use strict";

(() => {
  const phone = matchMedia("(max-width: 44rem)");
  const seen = new WeakSet(); // A section that the user has opened stays open when the page refreshes.
  // The signs by which a spreadsheet takes a cell for a formula, as in the API's exports.
  const FORMULA = /^\s*[=+\-@＝＋－＠]/;

  const chosen = () => [...document.querySelectorAll("#lines [name=line]:checked")].map((box) => box.closest("tr"));

  function fold() {
    for (const section of document.querySelectorAll("details[data-folds]")) {
      if (phone.matches && !seen.has(section)) section.open = false;
      seen.add(section);
    }
  }

  const shown = (cell) => cell.querySelector("time")?.dateTime.replace(" ", "T")
    ?? (cell.title || cell.textContent.replace(/\s+/g, " ").trim()).replace(/^—$/, "");

  function csv() {
    const lines = chosen().map((row) => {
      const names = [...row.closest("table").tHead.rows[0].cells].map((cell) => cell.dataset.said ?? cell.textContent);
      const cells = [...row.cells].map((cell, place) => [names[place], shown(cell)]).slice(2);
      const name = row.querySelector("th .name")?.textContent ?? "";
      const state = row.closest("section").id.replace("of-", "");
      return { ID: row.id, Line: name, State: state, ...Object.fromEntries(cells) };
    });
    const heads = [...new Set(lines.flatMap(Object.keys))].filter(Boolean);
    const cell = (text) => `"${text.replace(FORMULA, "'$&").replaceAll('"', '""')}"`;
    const file = [heads, ...lines.map((line) => heads.map((head) => line[head] ?? ""))];
    const link = document.createElement("a");
    link.href = `data:text/csv;charset=utf-8,${encodeURIComponent(file.map((row) => row.map(cell).join(",") + "\r\n").join(""))}`;
    link.download = "lines.csv";
    link.click();
  }

  document.addEventListener("click", ({ target }) => {
    if (target.matches("[data-csv]")) csv();
  });

  // A panel's field has the focus as soon as the panel is open.
  document.addEventListener("toggle", ({ target }) => {
    if (target.matches("details.pick[open]")) target.querySelector("[name=name]").focus();
  }, true);

  document.addEventListener("htmx:afterSettle", fold);
  addEventListener("pageshow", fold);
})();
