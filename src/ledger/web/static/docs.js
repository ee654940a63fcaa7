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
  SwaggerUIBundle({
    url: viewer.dataset.document,
    domNode: viewer,
    layout: "BaseLayout",
    deepLinking: true,
    showExtensions: true,
    showCommonExtensions: true,
    defaultModelsExpandDepth: 0,
    presets: [SwaggerUIBundle.presets.apis],
  });
})();
