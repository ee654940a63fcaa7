// On a phone the states that need nobody begin folded: the lines that need a human stay in reach.
"use strict";

(() => {
  const phone = matchMedia("(max-width: 44rem)");
  const seen = new WeakSet(); // A section that the user has opened stays open when the page refreshes.

  function fold() {
    for (const section of document.querySelectorAll("details[data-folds]")) {
      if (phone.matches && !seen.has(section)) section.open = false;
      seen.add(section);
    }
  }

  document.addEventListener("htmx:afterSettle", fold);
  fold();
})();
