// The selection of rows, which lives in the boxes of the rows, and what is done with the selected ones.
"use strict";

(() => {
  let last = null; // The box that was clicked last: a click with Shift reaches from there.

  const form = () => document.querySelector("form[data-picks]");
  const boxes = (within = form()) => [...within.querySelectorAll("tbody .tick > input")];
  const chosen = () => boxes().filter((box) => box.checked).map((box) => box.closest("tr"));
  const isBox = (element) => element.matches("form[data-picks] tbody .tick > input");

  function tell() {
    const rows = chosen();
    const { picks } = form().dataset;
    const said = rows.length ? `${rows.length} ${picks}${rows.length === 1 ? "" : "s"} selected` : "";
    for (const part of form().querySelectorAll("[data-count]")) {
      if (part.textContent !== said) part.textContent = said;
    }
    for (const all of form().querySelectorAll("[data-all]")) {
      const own = boxes(all.closest("table"));
      const ticked = own.filter((box) => box.checked).length;
      all.checked = own.length > 0 && ticked === own.length;
      all.indeterminate = ticked > 0 && !all.checked;
    }
    const copy = form().querySelector(".selection [data-copy]");
    if (!copy) return;
    copy.dataset.copy = rows.map((row) => row.querySelector("th a").href).join("\n");
    copy.textContent = "Copy links";
  }

  function settle() {
    if (form()) tell(); // The page of a refusal has none.
  }

  document.addEventListener("click", (event) => {
    const { target } = event;
    if (!isBox(target)) return;
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
    if (target.matches("[data-all]") || isBox(target)) tell();
  });
  // What acts on the selected rows acts on the row that has the focus, if none is selected.
  document.addEventListener("click", (event) => {
    if (!event.target.closest("[data-act]") || chosen().length) return;
    const box = document.activeElement.closest("tr")?.querySelector(".tick > input");
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
    if (!many().querySelector("form")) form()?.reset(); // The selected rows are done.
    many().replaceChildren();
  }, true);

  document.addEventListener("reset", () => setTimeout(settle));
  // Before the page's own listener, which closes what is open: then Escape clears nothing.
  document.addEventListener("keydown", (event) => {
    const isTaken = document.querySelector("details.tool[open], dialog[open]");
    if (event.key === "Escape" && !isTaken) form()?.reset();
  }, true);
  document.addEventListener("htmx:afterSettle", settle);
  addEventListener("pageshow", settle);
})();
