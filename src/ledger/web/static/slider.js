// The slider through a line's history. Dragging it is htmx's; here is what it needs beyond that:
// steps by keyboard, the far right end as "now", and a hand that is not fought with.
"use strict";

(() => {
  // Each of these is a link on the page, which works without any of this.
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
  let reached = false; // Whether the thumb stands at that page's event.

  const isSlider = (element) => element?.id === "slider";

  document.addEventListener("keydown", (event) => {
    const step = STEPS[event.key];
    if (!step || !isSlider(event.target) || event.altKey || event.ctrlKey || event.metaKey) return;
    event.preventDefault();
    // A key that is kept down asks again once the last answer is there (hx-sync: drop).
    document.querySelector(`[data-step="${step}"]`)?.click();
  });

  // A step that leads nowhere was one that did: htmx still listens to it.
  document.addEventListener("click", (event) => {
    if (event.target.closest('[data-step][aria-disabled="true"]')) event.stopPropagation();
  }, true);

  // Now has no position: by the time the request arrives something may have been recorded there.
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

  // A thumb is not moved from under the hand, nor by an answer that its last place has outrun.
  const { beforeAttributeUpdated } = Idiomorph.defaults.callbacks;
  Idiomorph.defaults.callbacks.beforeAttributeUpdated = (name, element, change) => {
    if (name === "value" && isSlider(element)) {
      if (held || (asked !== null && asked !== element.value)) return false;
      reached = true;
    }
    return beforeAttributeUpdated(name, element, change);
  };

  // While one is on the way to another instant, the present is of no interest.
  document.addEventListener("htmx:beforeSwap", (event) => {
    const { elt } = event.detail.requestConfig;
    if (!isSlider(elt) && (held || asked !== null)) event.detail.shouldSwap = false;
  });

  // One question at a time (hx-sync: drop): who has moved on meanwhile asks again. htmx could keep
  // that question itself, but forgets it where the answer changes the one who asks.
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
