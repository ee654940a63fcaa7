// The slider through a line's history. htmx handles dragging. This script adds steps by keyboard
// and the right end as "now", and keeps answers from moving the thumb while the user drags it.
"use strict";

(() => {
  // Each step is a link on the page, which works without this script.
  const STEPS = {
    ArrowLeft: "previous",
    ArrowDown: "previous",
    ArrowRight: "next",
    ArrowUp: "next",
    Home: "first",
    End: "now",
  };

  let held = false;
  let asked = null; // The place whose page is awaited.
  let reached = false; // Whether the answer has moved the thumb to the event of its page.

  const isSlider = (element) => element?.id === "slider";

  document.addEventListener("keydown", (event) => {
    const step = STEPS[event.key];
    if (!step || !isSlider(event.target) || event.altKey || event.ctrlKey || event.metaKey) return;
    event.preventDefault();
    // While an answer is awaited, hx-sync drops the repeats of a key that is held down.
    document.querySelector(`[data-step="${step}"]`)?.click();
  });

  // A disabled step may have been enabled before: htmx still listens to its clicks.
  document.addEventListener("click", (event) => {
    if (event.target.closest('[data-step][aria-disabled="true"]')) event.stopPropagation();
  }, true);

  // "Now" is sent without a place: by the time the request arrives, the place lies in the past.
  document.addEventListener("htmx:configRequest", (event) => {
    if (!isSlider(event.target)) return;
    asked = event.target.value;
    reached = false;
    if (asked === event.target.max) delete event.detail.parameters.at;
  });

  document.addEventListener("pointerdown", (event) => { held = isSlider(event.target); });
  for (const name of ["pointerup", "pointercancel", "change"]) {
    document.addEventListener(name, () => { held = false; }, true);
  }

  // An answer must not move the thumb while the user holds it, nor if the thumb has moved on since
  // the request.
  const { beforeAttributeUpdated } = Idiomorph.defaults.callbacks;
  Idiomorph.defaults.callbacks.beforeAttributeUpdated = (name, element, change) => {
    if (name === "value" && isSlider(element)) {
      if (held || (asked !== null && asked !== element.value)) return false;
      reached = true;
    }
    return beforeAttributeUpdated(name, element, change);
  };

  // While the user moves to another instant, refreshes of the present page are dropped.
  document.addEventListener("htmx:beforeSwap", (event) => {
    const { elt } = event.detail.requestConfig;
    if (!isSlider(elt) && (held || asked !== null)) event.detail.shouldSwap = false;
  });

  // One request at a time (hx-sync: drop). If the thumb has moved on meanwhile, the slider sends
  // another request. htmx could queue it, but forgets the queue when the answer changes the slider.
  document.addEventListener("htmx:afterRequest", (event) => {
    if (isSlider(event.detail.elt) && !event.detail.successful) asked = null;
  });
  document.addEventListener("htmx:afterSettle", (event) => {
    if (!isSlider(event.detail.requestConfig?.elt)) return;
    const slider = document.getElementById("slider");
    const moved = slider && !reached && asked !== slider.value;
    asked = null;
    if (moved) htmx.trigger(slider, "again");
  });
})();
