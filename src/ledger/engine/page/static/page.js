// Behaviour of the pages beyond links and forms: follow the stream, warn when a page is out of
// date, send the browser's time zone. htmx fetches pages; idiomorph changes the elements that differ.
"use strict";

(() => {
  const QUIET_MS = 700; // Events often come in bursts: one refresh for a burst.
  const RETRY_MS = 2000;
  const DONE_MS = 10_000; // How long a message about a form that was carried out stays.
  const TICK_MS = 30_000; // Durations such as "for 3 min" and the day change without an event.

  const notice = document.getElementById("notice");
  let source = null;
  let followed = null;
  let pending = null;
  let took = 0;
  let askedAt = 0;

  Object.assign(Idiomorph.defaults.callbacks, {
    // Equal elements are skipped, so a page of a thousand lines costs its changes only. The live
    // mark is skipped too: this script writes its text, and the service's page has none.
    beforeNodeMorphed: (old, fresh) => !old.isEqualNode(fresh) && !old.matches?.("[data-live]"),
    // Panels that the user opened stay open. (An element that is being made has no children yet.)
    // Rows that the user selected stay selected, under a new name too.
    beforeAttributeUpdated: (name, node) =>
      !(name === "open" && node.matches("details, dialog") && node.hasChildNodes())
      && !(name === "checked" && node.matches(".tick > input")),
  });

  const view = () => document.querySelector("[data-stream]");

  function say(text) {
    if (notice.textContent !== text) notice.textContent = text;
    notice.hidden = !text;
  }

  let told = ["", ""];

  // A page that is behind the log is not live, though its stream is open.
  function tell(...state) {
    told = state;
    const mark = document.querySelector("[data-live]");
    const isLate = told[0] === "on" && !document.getElementById("behind").hidden;
    [mark.dataset.state, mark.textContent] = isLate ? ["lost", "○ behind"] : told;
  }

  // The notice stands outside of the part that is refreshed.
  function lag(text) {
    const behind = document.getElementById("behind");
    if (behind.textContent !== text) behind.textContent = text;
    behind.hidden = !text;
    tell(...told);
    if (text) setTimeout(refresh, RETRY_MS);
  }

  // A failed request is repeated by the event that the element listens to; by default a refresh.
  const AGAIN = { FORM: "submit", INPUT: "change", A: "click" };

  function outdated(why, requester) {
    const shown = document.querySelector("[data-shown]")?.dataset.shown;
    say(`${why}${shown ? ` The data shown is from ${shown}.` : ""} Trying again.`);
    setTimeout(() => {
      if (requester.isConnected) htmx.trigger(requester, AGAIN[requester.tagName] ?? "news");
    }, RETRY_MS);
  }

  // One refresh for all events within a moment. Later events do not delay a refresh that is pending.
  function refresh() {
    if (pending !== null) return;
    pending = setTimeout(() => {
      pending = null;
      const target = view();
      if (target) htmx.trigger(target, "news");
      // A page that takes long to render is requested less often, since the API needs the CPU too.
    }, Math.max(QUIET_MS, 4 * took));
  }

  function follow() {
    const target = view();
    const wanted = target && !document.hidden ? target.dataset.stream : null;
    if (wanted === followed && source?.readyState !== EventSource.CLOSED) return;
    source?.close();
    source = null;
    followed = wanted;
    tell("", "");
    if (!wanted) return;
    source = new EventSource(wanted);
    source.onmessage = refresh;
    source.onopen = () => {
      tell("on", "● live");
      // Events may have been recorded after the page was rendered and before the stream opened.
      refresh();
    };
    source.onerror = () => {
      tell("lost", "○ offline, reconnecting");
      // The refresh shows whether the service is unreachable.
      refresh();
    };
  }

  // A browser does not reopen a stream that was refused once. A hidden page needs no stream.
  setInterval(() => {
    follow();
    if (!document.hidden) refresh();
  }, TICK_MS);
  document.addEventListener("visibilitychange", () => {
    follow();
    if (!document.hidden) refresh();
  });

  // A page shows that it awaits what a person asked for; the style delays the sign. A refresh of the
  // same page shows none.
  const { dataset } = document.documentElement;
  // Forms that change something are not sent again by themselves (forms.js).
  const isForm = (elt) => elt.matches("form[method=post]");
  const isAsked = (elt) => elt.id !== "view";
  addEventListener("beforeunload", () => { dataset.loading = ""; });
  // Back to a page that the browser has kept, or a download, which leaves the page as it is.
  for (const name of ["pageshow", "focus"]) addEventListener(name, () => { delete dataset.loading; });

  document.addEventListener("htmx:beforeSend", (event) => {
    askedAt = performance.now();
    if (isAsked(event.detail.elt)) dataset.loading = "";
  });
  document.addEventListener("htmx:afterRequest", (event) => {
    const { elt, xhr, successful } = event.detail;
    if (isAsked(elt)) delete dataset.loading;
    took = performance.now() - askedAt;
    if (isForm(elt)) return;
    if (successful) {
      say("");
      if (!isAsked(elt)) lag(xhr.getResponseHeader("Ledger-Behind") ?? "");
    } else if (xhr.status === 401) {
      const ended = new CustomEvent("ledger:ended", { cancelable: true, detail: xhr.responseText });
      if (document.dispatchEvent(ended)) location.reload();
    } else if (xhr.status === 429) {
      outdated("Too many pages are loading at once.", elt);
    } else if (xhr.status === 503) {
      outdated("The service cannot answer now.", elt);
    } else if (xhr.status) {
      // A refusal is a page; the notice shows its text.
      say(new DOMParser().parseFromString(xhr.responseText, "text/html").querySelector("main p")?.textContent
        ?? `The service answered with status ${xhr.status}.`);
    }
  });
  // These two events only: a request that was dropped for a newer one has no status either.
  for (const name of ["htmx:sendError", "htmx:timeout"]) {
    document.addEventListener(name, (event) => {
      if (!isForm(event.detail.elt)) outdated("The service cannot be reached.", event.detail.elt);
    });
  }
  // Drop an outdated answer: the page has moved on to another instant or other filters.
  document.addEventListener("htmx:beforeSwap", (event) => {
    const { elt, requestConfig } = event.detail;
    const asks = document.getElementById("view")?.getAttribute("hx-get");
    if (elt.id === "view" && requestConfig.path !== asks) event.detail.shouldSwap = false;
  });
  document.addEventListener("htmx:afterSettle", follow);

  // Panels close like menus: by Escape, or by a click elsewhere.
  const panels = () => document.querySelectorAll("details.tool[open]");
  document.addEventListener("keydown", (event) => {
    if (event.key !== "Escape") return;
    for (const panel of panels()) {
      panel.open = false;
      panel.querySelector("summary").focus();
    }
  });
  document.addEventListener("pointerdown", (event) => {
    for (const panel of panels()) {
      if (!panel.contains(event.target)) panel.open = false;
    }
  });

  // Without script, dialogs are popovers. With script they are modal: the page behind is inert.
  document.addEventListener("click", (event) => {
    const button = event.target.closest("[popovertarget]");
    const dialog = button && document.getElementById(button.getAttribute("popovertarget"));
    if (!dialog?.matches("dialog")) return;
    event.preventDefault();
    if (button.getAttribute("popovertargetaction") === "hide") dialog.close();
    else dialog.showModal();
  });

  // A dialog shows what is loaded into its section. Without script that is a page of its own.
  document.addEventListener("htmx:afterSwap", ({ detail: { target } }) => {
    const section = target.id && document.querySelector(`dialog.acting > #${CSS.escape(target.id)}`);
    if (!section?.firstElementChild) return;
    if (!section.parentNode.open) section.parentNode.showModal();
    section.querySelector("[autofocus]")?.focus();
  });
  document.addEventListener("click", (event) => {
    const dialog = event.target.closest("[data-leave]")?.closest("dialog");
    if (!dialog) return;
    event.preventDefault();
    dialog.close();
    htmx.trigger("#view", "news");
  });

  // Copy buttons. Without a secure connection there is no clipboard: the user then copies by hand.
  document.addEventListener("click", async (event) => {
    const button = event.target.closest("[data-copy]");
    if (!button) return;
    try {
      await navigator.clipboard.writeText(button.dataset.copy);
      button.textContent = "Copied";
    } catch {
      window.prompt("Copy this text:", button.dataset.copy);
    }
  });

  // Time passes while a page is open: move the latest time that the field accepts.
  document.addEventListener("toggle", (event) => {
    const field = event.target.matches("details.tool") && event.target.querySelector("[name=at]");
    const zone = document.querySelector("[data-zone]")?.textContent.trim();
    if (!field || !zone) return;
    const now = new Date().toLocaleString("sv", { timeZone: zone }).replace(" ", "T");
    if (now > field.max) field.max = now;
  }, true);

  // On paper nobody can open a section.
  addEventListener("beforeprint", () => {
    for (const part of document.querySelectorAll("main details:not([open], .unfold)")) {
      part.open = true;
      part.dataset.printed = "";
    }
  });
  addEventListener("afterprint", () => {
    for (const part of document.querySelectorAll("[data-printed]")) {
      part.open = false;
      delete part.dataset.printed;
    }
  });

  document.addEventListener("submit", (event) => {
    if (!event.target.matches("[data-zone-form]")) return;
    const { zone } = event.target.elements;
    const here = Intl.DateTimeFormat().resolvedOptions().timeZone;
    zone.value = event.target.querySelector("[data-zone]").textContent.trim() === "UTC" ? here : "UTC";
  });

  // The message about a form that was carried out is shown once: a reload must not repeat it.
  function forget() {
    const address = new URL(location.href);
    if (!address.searchParams.has("done")) return;
    address.searchParams.delete("done");
    history.replaceState(history.state, "", address);
    setTimeout(() => document.querySelector("main > .done")?.remove(), DONE_MS);
  }
  document.addEventListener("htmx:replacedInHistory", forget);
  forget();

  // The page with a secret answers a form. Under the address of its thing, neither Back nor a reload
  // asks to send the form again: both show the thing, without the secret.
  const thing = document.querySelector("main > .secret [data-thing]");
  if (thing) history.replaceState(history.state, "", thing.href);

  follow();
  lag(document.getElementById("behind").textContent);
})();
