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
    if (isSlider(event.target) && event.target.value === event.target.max) {
      delete event.detail.parameters.at;
    }
  });

  document.addEventListener("pointerdown", (event) => { held = isSlider(event.target); });
  for (const name of ["pointerup", "pointercancel", "change"]) {
    document.addEventListener(name, () => { held = false; }, true);
  }

  // A thumb that is held is not moved from under the hand.
  const { beforeAttributeUpdated } = Idiomorph.defaults.callbacks;
  Idiomorph.defaults.callbacks.beforeAttributeUpdated = (name, element, change) =>
    !(held && name === "value" && isSlider(element)) && beforeAttributeUpdated(name, element, change);
})();
