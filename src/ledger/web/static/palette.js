// The palette (search while typing) and the keys of lists. No key does anything while a person types
// in a field, and none but Ctrl-K with a modifier.
"use strict";

(() => {
  const PAUSE_MS = 120; // One request for a burst of keystrokes.
  const FIELDS = "input:not([type=checkbox]), textarea, select, [contenteditable]:not([contenteditable=false])";
  const ROWS = "main tbody tr:not(.more), main .found li";

  let pending = null;
  let request = null;

  const palette = () => document.getElementById("palette");
  const field = () => palette().querySelector("[role=combobox]");
  const results = () => palette().querySelector("[data-results]");
  const options = () => [...palette().querySelectorAll("[role=option]")];
  const chosen = () => palette().querySelector("[aria-selected=true]");

  function open(text = "") {
    if (!palette() || document.querySelector("dialog:modal")) return;
    palette().showModal();
    field().value = text;
    field().focus();
    search();
  }

  function choose(option) {
    chosen()?.setAttribute("aria-selected", "false");
    option?.setAttribute("aria-selected", "true");
    option?.scrollIntoView({ block: "nearest" });
    if (option) field().setAttribute("aria-activedescendant", option.id);
    else field().removeAttribute("aria-activedescendant");
  }

  function fill(content) {
    results().innerHTML = content;
    field().setAttribute("aria-expanded", String(options().length > 0));
    choose(options()[0]);
  }

  function search() {
    clearTimeout(pending);
    request?.abort();
    const { form } = field();
    if (!field().value.trim()) {
      fill("");
      return;
    }
    // Results of an earlier text must not be opened for this text.
    choose(null);
    pending = setTimeout(() => ask(form), PAUSE_MS);
  }

  async function ask(form) {
    request = new AbortController();
    const { signal } = request;
    const query = new URLSearchParams(new FormData(form));
    try {
      const answer = await fetch(`${form.action}/results?${query}`, { signal });
      if (answer.status === 401) location.reload();
      else if (answer.ok) fill(await answer.text());
      else fail();
    } catch {
      if (!signal.aborted) fail();
    }
  }

  function fail() {
    fill('<p role="status">The service cannot search now. Type again to try once more.</p>');
  }

  const MOVES = { ArrowDown: 1, ArrowUp: -1 };

  function onKeyInPalette(event) {
    if (event.isComposing) return;
    if (event.key in MOVES && event.target === field()) {
      event.preventDefault();
      const all = options();
      const place = all.indexOf(chosen()) + MOVES[event.key];
      choose(all.at(place % all.length));
    } else if (event.key === "Enter" && event.target === field() && chosen()?.href) {
      event.preventDefault();
      chosen().click();
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
    if (palette()?.open) {
      onKeyInPalette(event);
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

  document.addEventListener("input", (event) => {
    if (event.target === palette()?.querySelector("[role=combobox]")) search();
  });

  // A click on the backdrop has the dialog as its target, and lies outside of the dialog's box.
  function isBeside(target, { clientX, clientY, detail }) {
    if (!target.matches("dialog.palette") || !detail) return false;
    const { left, right, top, bottom } = target.getBoundingClientRect();
    return clientX < left || clientX > right || clientY < top || clientY > bottom;
  }

  document.addEventListener("click", (event) => {
    const { target } = event;
    if (target.closest("[data-close]") || isBeside(target, event)) {
      target.closest("dialog").close();
    } else if (target.matches(".top .search input")) {
      open(target.value);
    }
  });
})();
