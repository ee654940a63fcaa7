// The board: folded states on a phone, and the selection of lines, which lives in the boxes of the rows.
"use strict";

(() => {
  const phone = matchMedia("(max-width: 44rem)");
  const seen = new WeakSet(); // A section that the user has opened stays open when the page refreshes.
  // The signs by which a spreadsheet takes a cell for a formula, as in the API's exports.
  const FORMULA = /^\s*[=+\-@＝＋－＠]/;

  let last = null; // The box that was clicked last: a click with Shift reaches from there.

  const form = () => document.getElementById("lines");
  const boxes = (within = form()) => [...within.querySelectorAll("[name=line]")];
  const chosen = () => boxes().filter((box) => box.checked).map((box) => box.closest("tr"));

  function fold() {
    for (const section of document.querySelectorAll("details[data-folds]")) {
      if (phone.matches && !seen.has(section)) section.open = false;
      seen.add(section);
    }
  }

  function tell() {
    const rows = chosen();
    const said = rows.length ? `${rows.length} ${rows.length === 1 ? "line" : "lines"} selected` : "";
    for (const part of form().querySelectorAll("[data-count]")) {
      if (part.textContent !== said) part.textContent = said;
    }
    for (const all of form().querySelectorAll("[data-all]")) {
      const own = boxes(all.closest("table"));
      const ticked = own.filter((box) => box.checked).length;
      all.checked = ticked === own.length;
      all.indeterminate = ticked > 0 && !all.checked;
    }
    const copy = form().querySelector(".selection [data-copy]");
    copy.dataset.copy = rows.map((row) => row.querySelector("th a").href).join("\n");
    copy.textContent = "Copy links";
  }

  function settle() {
    if (!form()) return; // The page of a refusal.
    fold();
    tell();
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

  document.addEventListener("click", (event) => {
    const { target } = event;
    if (target.matches("[data-csv]")) csv();
    if (!target.matches("[name=line]")) return;
    const all = boxes();
    const from = all.indexOf(last);
    const to = all.indexOf(target);
    if (event.shiftKey && from >= 0) {
      for (const box of all.slice(Math.min(from, to), Math.max(from, to) + 1)) box.checked = target.checked;
    }
    last = target;
  });
  document.addEventListener("change", ({ target }) => {
    if (target.matches("[data-all]")) {
      for (const box of boxes(target.closest("table"))) box.checked = target.checked;
    }
    if (target.matches("[data-all], [name=line]")) tell();
  });
  // Pausing and resuming lines: of the selected ones, or of the one that has the focus.
  document.addEventListener("click", (event) => {
    if (!event.target.closest("[data-act]") || chosen().length) return;
    const box = document.activeElement.closest("tr")?.querySelector("[name=line]");
    if (box) box.checked = true;
    else event.stopPropagation();
    tell();
  }, true);
  const many = () => document.getElementById("many");
  document.addEventListener("htmx:beforeSwap", ({ detail }) => {
    // A refusal is shown at its form.
    if (detail.target === many() && detail.xhr.status < 500 && detail.xhr.status !== 401) detail.shouldSwap = true;
  });
  document.addEventListener("close", ({ target }) => {
    if (target !== many()?.closest("dialog")) return;
    if (!many().querySelector("form")) form().reset(); // The selected lines were paused or resumed.
    many().replaceChildren();
  }, true);

  // A panel's field has the focus as soon as the panel is open.
  document.addEventListener("toggle", ({ target }) => {
    if (target.matches("details.pick[open]")) target.querySelector("[name=name]").focus();
  }, true);

  document.addEventListener("reset", () => setTimeout(tell));
  // Before the page's own listener, which closes what is open: then Escape clears nothing.
  document.addEventListener("keydown", (event) => {
    const isTaken = document.querySelector("details.tool[open], dialog[open]");
    if (event.key === "Escape" && !isTaken) form()?.reset();
  }, true);
  document.addEventListener("htmx:afterSettle", settle);
  addEventListener("pageshow", settle);
})();
