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
  let asked = null; // The thumb's place when the request was sent whose answer is awaited.
  let reached = false; // Whether the answer has moved the thumb to the instant of its page.

  const isSlider = (element) => element?.id === "slider";
  const isMove = (element) => isSlider(element) || element.matches("[data-step]");

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
    const { target, detail } = event;
    if (isSlider(target) && target.value === target.max) delete detail.parameters.at;
  });

  document.addEventListener("pointerdown", (event) => { held = isSlider(event.target); });
  for (const name of ["pointerup", "pointercancel", "change"]) {
    document.addEventListener(name, () => { held = false; }, true);
  }

  // An answer must not move the thumb while the user holds it, nor if the thumb has moved on since
  // the request. A thumb at the right end stays there, though the end of an answer lies later.
  const { beforeAttributeUpdated } = Idiomorph.defaults.callbacks;
  Idiomorph.defaults.callbacks.beforeAttributeUpdated = (name, element, change) => {
    const isPlace = name === "value" || (name === "max" && element.value === element.max);
    if (isSlider(element) && isPlace) {
      if (held || (asked !== null && asked !== element.value)) return false;
      reached ||= name === "value";
    }
    return beforeAttributeUpdated(name, element, change);
  };

  // While the user moves to another instant, refreshes of the present page are dropped. A refresh
  // could also change the slider, and htmx then forgets that the slider awaits an answer.
  document.addEventListener("htmx:beforeSwap", (event) => {
    const { elt } = event.detail.requestConfig;
    if (!isMove(elt) && (held || asked !== null)) event.detail.shouldSwap = false;
  });

  // One request at a time (hx-sync: drop). If the thumb has moved on meanwhile, the slider sends
  // another request. htmx could queue it, but forgets the queue when the answer changes the slider.
  // The other request must wait for "loadend": while htmx handles an answer, the answered request
  // still counts as awaited. If the answer left the slider as it was, htmx would drop the other
  // request. If the answer changed the slider, htmx would send the other request, then take it for
  // the answered one and let a third request run beside it: the page would show the place that is
  // answered last, and not the place of the thumb.
  document.addEventListener("htmx:beforeSend", (event) => {
    if (!isMove(event.detail.elt)) return;
    asked = document.getElementById("slider").value;
    reached = false;
    event.detail.xhr.addEventListener("loadend", settle);
  });
  document.addEventListener("htmx:afterRequest", (event) => {
    if (isMove(event.detail.elt) && !event.detail.successful) asked = null;
  });

  function settle() {
    const slider = document.getElementById("slider");
    const moved = slider && asked !== null && !reached && asked !== slider.value;
    asked = null;
    if (moved) htmx.trigger(slider, "again");
  }
})();
