// Shows the OpenAPI document in Swagger's viewer, in the page's colours.
"use strict";

(() => {
  const root = document.documentElement;
  const system = matchMedia("(prefers-color-scheme: dark)");
  const paint = () => {
    root.classList.toggle("dark-mode", root.dataset.theme ? root.dataset.theme === "dark" : system.matches);
  };
  system.addEventListener("change", paint);
  paint();

  const viewer = document.getElementById("viewer");
  // The viewer gives its choices and some buttons no names, and no keyboard reaches what is wider than its box.
  const named = (select) => select.closest("[data-param-name]")?.dataset.paramName
    ?? { servers: "Server" }[select.id] ?? (select.matches(".examples-select-element") ? "Example" : "Media type");
  new MutationObserver(() => {
    for (const select of viewer.querySelectorAll("select:not([aria-label])")) select.ariaLabel = named(select);
    for (const copy of viewer.querySelectorAll(".copy-to-clipboard button")) copy.ariaLabel ??= "Copy";
    for (const code of viewer.querySelectorAll("pre:not([tabindex])")) code.tabIndex = 0;
  }).observe(viewer, { childList: true, subtree: true });
  // Of a path, the viewer makes a link within the button that opens the operation.
  const plainPaths = () => ({
    wrapComponents: { DeepLink: (_, { React }) => ({ text }) => React.createElement("span", null, text) },
  });
  SwaggerUIBundle({
    url: viewer.dataset.document,
    domNode: viewer,
    layout: "BaseLayout",
    deepLinking: true,
    showExtensions: true,
    showCommonExtensions: true,
    defaultModelsExpandDepth: 0,
    presets: [SwaggerUIBundle.presets.apis],
    plugins: [plainPaths],
  });
})();
