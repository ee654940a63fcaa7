// The palette (search while typing), fields for ids, which offer what fits in the same way, and the keys
// of lists. No key does anything while a person types in another field, and none but Ctrl-K with a modifier.
"use strict";

(() => {
  const PAUSE_MS = 120; // One request for a burst of keystrokes.
  const FIELDS = "input:not([type=checkbox]), textarea, select, [contenteditable]:not([contenteditable=false])";
  const ROWS = "main tbody tr:not(.more), main .found li";

  let pending = null;
  let request = null;
  let field = null; // The palette's, or the field for ids that is typed into.

  const palette = () => document.getElementById("palette");
  const results = () => field.closest(".palette, .offered").querySelector("[data-results]");
  const options = () => [...results().querySelectorAll("[role=option]")];
  const chosen = () => results().querySelector("[aria-selected=true]");
  // A field for ids has several, between commas: the last one is being typed.
  const words = () => (field.dataset.offers ? field.value.split(",") : [field.value]).map((word) => word.trim());

  function open(text = "") {
    if (!palette() || document.querySelector("dialog:modal")) return;
    palette().showModal();
    field = palette().querySelector("[role=combobox]");
    field.value = text;
    field.focus();
    search();
  }

  function choose(option) {
    chosen()?.setAttribute("aria-selected", "false");
    option?.setAttribute("aria-selected", "true");
    option?.scrollIntoView({ block: "nearest" });
    if (option) field.setAttribute("aria-activedescendant", option.id);
    else field.removeAttribute("aria-activedescendant");
  }

  function fill(content) {
    results().innerHTML = content;
    field.setAttribute("aria-expanded", String(options().length > 0));
    choose(options()[0]);
  }

  // Ends the search, and shows nothing.
  function leave() {
    clearTimeout(pending);
    request?.abort();
    fill("");
  }

  function search(isAsked = Boolean(words().at(-1))) {
    clearTimeout(pending);
    request?.abort();
    if (!isAsked) {
      fill("");
      return;
    }
    // Results of an earlier text must not be opened for this text.
    choose(null);
    pending = setTimeout(ask, PAUSE_MS);
  }

  function query() {
    const { form, dataset: { offers } } = field;
    if (!offers) return new FormData(form);
    const asked = { type: offers, q: words().at(-1), organization_id: form.elements.organization_id?.value };
    return Object.entries(asked).filter(([, value]) => value);
  }

  async function ask() {
    request = new AbortController();
    const { signal } = request;
    try {
      const { action } = palette().querySelector("form");
      const answer = await fetch(`${action}/results?${new URLSearchParams(query())}`, { signal });
      if (answer.status === 401 && !field.dataset.offers) location.reload();
      else if (answer.ok) fill(await answer.text());
      else fail();
    } catch {
      if (!signal.aborted) fail();
    }
  }

  function fail() {
    fill('<p role="status">The service cannot search now. Type again to try once more.</p>');
  }

  // An id is put in the place of what was typed, ready for a further one.
  function pick(id) {
    field.value = [...words().slice(0, -1), id, ""].join(", ");
    leave();
    field.dispatchEvent(new Event("change", { bubbles: true }));
  }

  const MOVES = { ArrowDown: 1, ArrowUp: -1 };

  function onKeyInField(event) {
    if (event.isComposing || event.target !== field) return;
    const all = options();
    if (event.key in MOVES) {
      event.preventDefault();
      if (field.dataset.offers && !all.length) search(true);
      const place = all.indexOf(chosen()) + MOVES[event.key];
      choose(all.at(place % all.length));
    } else if (event.key === "Enter" && chosen()?.matches("[href], [data-value]")) {
      event.preventDefault();
      chosen().click();
    } else if (event.key === "Enter" && field.dataset.offers && words().at(-1)) {
      // The form is not sent with a part of a name, while its results are awaited.
      event.preventDefault();
    } else if (event.key === "Escape" && field.dataset.offers && results().hasChildNodes()) {
      event.preventDefault();
      leave();
    }
  }

  function move(by) {
    const rows = [...document.querySelectorAll(ROWS)].filter((row) => row.checkVisibility());
    const links = rows.map((row) => row.querySelector("a[href]")).filter(Boolean);
    if (!links.length) return;
    const row = document.activeElement.closest(ROWS);
    const place = links.findIndex((link) => row?.contains(link));
    const next = place < 0 ? (by > 0 ? 0 : links.length - 1) : place + by;
    const link = links[Math.max(0, Math.min(next, links.length - 1))];
    link.focus();
    link.scrollIntoView({ block: "nearest" });
  }

  function step(key) {
    document.querySelector(`[aria-keyshortcuts="${key}"]`)?.click();
  }

  const press = (part) => document.activeElement.closest(ROWS)?.querySelector(part)?.click();

  // One more row is selected, below or above.
  function stretch(by) {
    move(by);
    const box = document.activeElement.closest(ROWS)?.querySelector(".tick > input");
    if (box && !box.checked) box.click();
  }

  const KEYS = {
    "/": () => open(),
    "?": () => document.getElementById("shortcuts")?.showModal(),
    j: () => move(1),
    k: () => move(-1),
    "[": () => step("["),
    "]": () => step("]"),
    J: () => stretch(1),
    K: () => stretch(-1),
    a: () => step("a"),
    p: () => step("p"),
    r: () => step("r"),
    x: () => press(".tick > input"),
    " ": () => press(".unfold summary"),
  };

  document.addEventListener("keydown", (event) => {
    if (palette()?.open || event.target.matches?.("[data-offers]")) {
      onKeyInField(event);
      return;
    }
    if (event.defaultPrevented || event.isComposing || event.target.closest?.(FIELDS)) return;
    if (document.querySelector("dialog:modal")) return;
    const { key, ctrlKey, metaKey, altKey } = event;
    const isOpening = (ctrlKey || metaKey) && !altKey && !event.shiftKey && key.toLowerCase() === "k";
    // Elsewhere the space bar scrolls, or presses what has the focus.
    if (key === " " && !event.target.closest("main tbody tr a")) return;
    // Many keyboards write brackets with AltGr, which some systems report as Ctrl and Alt.
    const isModified = (ctrlKey || metaKey || altKey) && !event.getModifierState("AltGraph");
    const act = isOpening ? KEYS["/"] : isModified ? null : KEYS[key];
    if (!act || (isOpening && !palette())) return;
    event.preventDefault();
    act();
  });

  document.addEventListener("input", ({ target }) => {
    if (target === field) search();
  });
  document.addEventListener("focusin", ({ target }) => {
    if (target.matches("[data-offers]")) field = target;
  });
  document.addEventListener("focusout", ({ target }) => {
    if (target.matches("[data-offers]")) leave();
  });
  // The field keeps the focus while an option is clicked.
  document.addEventListener("mousedown", (event) => {
    if (event.target.closest("[data-value]")) event.preventDefault();
  });

  // A click on the backdrop has the dialog as its target, and lies outside of the dialog's box.
  function isBeside(target, { clientX, clientY, detail }) {
    if (!target.matches("dialog.palette") || !detail) return false;
    const { left, right, top, bottom } = target.getBoundingClientRect();
    return clientX < left || clientX > right || clientY < top || clientY > bottom;
  }

  document.addEventListener("click", (event) => {
    const { target } = event;
    const option = target.closest("[data-value]");
    if (option) {
      pick(option.dataset.value);
    } else if (target.closest("[data-close]") || isBeside(target, event)) {
      target.closest("dialog").close();
    } else if (target.matches(".top .search input")) {
      open(target.value);
    }
  });
})();
