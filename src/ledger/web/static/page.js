// What the pages do beyond links and forms: follow the stream, tell when they are not up to date,
// and say which zone the browser lives in. htmx fetches, idiomorph changes what differs.
"use strict";

(() => {
  const QUIET_MS = 700; // Many events come together: one look at them all.
  const RETRY_MS = 2000;
  const TICK_MS = 30_000; // "For 3 min" goes on, and midnight comes, without an event.

  const notice = document.getElementById("notice");
  let source = null;
  let followed = null;
  let pending = null;
  let took = 0;
  let askedAt = 0;

  Object.assign(Idiomorph.defaults.callbacks, {
    // What is the same already is not looked into: a page of a thousand lines costs its changes.
    // And the service knows nothing of what this script says.
    beforeNodeMorphed: (old, fresh) => !old.isEqualNode(fresh) && !old.matches?.("[data-live]"),
    // Nor of what somebody has opened: that stays open.
    beforeAttributeUpdated: (name, node) => !(name === "open" && node.matches("details, dialog")),
  });

  const view = () => document.querySelector("[data-stream]");

  function say(text) {
    if (notice.textContent !== text) notice.textContent = text;
    notice.hidden = !text;
  }

  function tell(state, text) {
    const mark = document.querySelector("[data-live]");
    mark.dataset.state = state;
    mark.textContent = text;
  }

  // What was asked for in vain is asked for again, by whatever asked.
  const AGAIN = { FORM: "submit", INPUT: "change", A: "click" };

  function outdated(why, asker) {
    const shown = document.querySelector("[data-shown]")?.dataset.shown;
    say(`${why}${shown ? ` What you see is from ${shown}.` : ""} Trying again.`);
    setTimeout(() => {
      if (asker.isConnected) htmx.trigger(asker, AGAIN[asker.tagName] ?? "news");
    }, RETRY_MS);
  }

  // One refresh for all that happens within a moment; the first waits no longer than the last.
  function refresh() {
    if (pending !== null) return;
    pending = setTimeout(() => {
      pending = null;
      const target = view();
      if (target) htmx.trigger(target, "news");
      // A page that is slow to make is asked for more seldom: the API lives beside it.
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
      // Something may have happened between the page and its stream.
      refresh();
    };
    source.onerror = () => {
      tell("lost", "○ not live: reconnecting");
      // Whether the service is away altogether, the next look tells.
      refresh();
    };
  }

  // A browser gives up on a stream that is refused once; a page that is hidden needs none.
  setInterval(() => {
    follow();
    if (!document.hidden) refresh();
  }, TICK_MS);
  document.addEventListener("visibilitychange", () => {
    follow();
    if (!document.hidden) refresh();
  });

  document.addEventListener("htmx:beforeSend", () => { askedAt = performance.now(); });
  document.addEventListener("htmx:afterRequest", (event) => {
    const { elt, xhr, successful } = event.detail;
    took = performance.now() - askedAt;
    if (successful) {
      say("");
    } else if (xhr.status === 401) {
      location.reload();
    } else if (xhr.status === 503) {
      outdated("The service cannot answer now.", elt);
    } else if (xhr.status) {
      // A refusal is a page of its own, in words.
      say(new DOMParser().parseFromString(xhr.responseText, "text/html").querySelector("main p")?.textContent
        ?? `The service answered ${xhr.status}.`);
    }
  });
  // Not where a request was given up for a newer one: that has no status either.
  for (const name of ["htmx:sendError", "htmx:timeout"]) {
    document.addEventListener(name, (event) => {
      outdated("The service cannot be reached.", event.detail.elt);
    });
  }
  // An answer to what the page asks no longer: it shows another instant, or other filters.
  document.addEventListener("htmx:beforeSwap", (event) => {
    const { elt, requestConfig } = event.detail;
    const asks = document.getElementById("view")?.getAttribute("hx-get");
    if (elt.id === "view" && requestConfig.path !== asks) event.detail.shouldSwap = false;
  });
  document.addEventListener("htmx:afterSettle", follow);

  // Panels close as menus do.
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

  // Dialogs are popovers, which need no script. With script nothing behind them can be reached.
  document.addEventListener("click", (event) => {
    const button = event.target.closest("[popovertarget]");
    const dialog = button && document.getElementById(button.getAttribute("popovertarget"));
    if (!dialog?.matches("dialog")) return;
    event.preventDefault();
    if (button.getAttribute("popovertargetaction") === "hide") dialog.close();
    else dialog.showModal();
  });

  // Time goes on while a page stands open: what one may look back at, too.
  document.addEventListener("toggle", (event) => {
    const field = event.target.matches("details.tool") && event.target.querySelector("[name=at]");
    const zone = document.querySelector("[data-zone]")?.textContent.trim();
    if (!field || !zone) return;
    const now = new Date().toLocaleString("sv", { timeZone: zone }).replace(" ", "T");
    if (now > field.max) field.max = now;
  }, true);

  document.addEventListener("submit", (event) => {
    if (!event.target.matches("[data-zone-form]")) return;
    const { zone } = event.target.elements;
    const here = Intl.DateTimeFormat().resolvedOptions().timeZone;
    zone.value = event.target.querySelector("[data-zone]").textContent.trim() === "UTC" ? here : "UTC";
  });

  // What was done just now is said once.
  const address = new URL(location.href);
  if (address.searchParams.has("done")) {
    address.searchParams.delete("done");
    history.replaceState(history.state, "", address);
  }

  follow();
})();
