// Text that a person typed into a form survives: a session that ends, a service that stops, a refusal.
// A form with hx-boost is sent in the page; refused, it comes back with its values.
"use strict";

(() => {
  const FORMS = "main form[method=post]";
  const FIELDS = "textarea, select, input:not([type=hidden], [type=checkbox], [type=radio])";
  const KEPT = "ledger-typed";

  const parse = (text) => new DOMParser().parseFromString(text, "text/html");
  const fields = () => [...document.querySelectorAll(FORMS)].flatMap((form) => [...form.querySelectorAll(FIELDS)]);
  // A refused form has its values from the service: they are typed too.
  const isTyped = (field) => (field.matches("textarea") ? field.value !== "" : field.matches("input") && field.value !== field.defaultValue);
  const sameForm = (form, page = document) => [...page.querySelectorAll(FORMS)].find((other) => other.getAttribute("action") === form);

  // A sentence above the fields of a form.
  function say(form, text) {
    let said = form.querySelector("[role=alert]");
    if (!said) {
      said = document.createElement("p");
      said.className = "refused";
      said.setAttribute("role", "alert");
      form.prepend(said);
    }
    said.textContent = text;
  }

  const isSent = (element) => element?.matches?.(FORMS) ?? false;

  document.addEventListener("htmx:beforeSwap", ({ detail }) => {
    const form = detail.requestConfig.elt;
    if (!isSent(form)) return;
    detail.isError = false;
    // A page without the form would lose what was typed.
    if (detail.xhr.status >= 400) detail.shouldSwap = Boolean(sameForm(form.getAttribute("action"), parse(detail.xhr.responseText)));
    const dialog = form.closest("dialog");
    if (detail.shouldSwap && !dialog?.contains(detail.target)) dialog?.close();
  });

  document.addEventListener("htmx:afterRequest", ({ detail }) => {
    const { elt, xhr } = detail;
    if (!isSent(elt) || xhr.status < 400 || !elt.isConnected) return;
    const page = parse(xhr.responseText);
    if (xhr.status === 401) signIn(page);
    else if (!sameForm(elt.getAttribute("action"), page)) {
      say(elt, `${page.querySelector("main p")?.textContent ?? `The service answered with status ${xhr.status}.`} What you typed is kept.`);
    }
  });
  // Another tab may have begun another session: the forms of this page go on with its key.
  document.addEventListener("htmx:afterRequest", ({ detail: { elt, xhr, successful } }) => {
    if (elt.id !== "view" || !successful) return;
    // Another tab has entered another organization: what is typed here was meant for the one that was left.
    const tenant = /data-tenant="([^"]*)"/.exec(xhr.responseText);
    if (tenant && tenant[1] !== document.querySelector("[data-tenant]")?.dataset.tenant) location.reload();
    const key = /name="form_key" value="([^"]+)"/.exec(xhr.responseText);
    if (key) for (const field of document.querySelectorAll("[name=form_key]")) [, field.value] = key;
  });
  for (const name of ["htmx:sendError", "htmx:timeout"]) {
    document.addEventListener(name, ({ detail: { elt } }) => {
      if (isSent(elt)) say(elt, "The service cannot be reached. What you typed is kept: send it again. It takes effect only once.");
    });
  }

  // A session that has ended is begun again above the page, if something was typed into it.
  document.addEventListener("ledger:ended", (event) => {
    if (!fields().some(isTyped)) return;
    event.preventDefault();
    signIn(parse(event.detail));
  });

  function signIn(page) {
    let dialog = document.getElementById("again");
    if (dialog?.open) return;
    if (!dialog) {
      dialog = document.createElement("dialog");
      dialog.id = "again";
      dialog.setAttribute("aria-label", "Sign in again");
      document.body.append(dialog);
    }
    dialog.replaceChildren(page.querySelector(".sign-in"));
    // What was typed stays in this tab.
    const provider = dialog.querySelector("a.provider");
    if (provider) provider.target = "_blank";
    dialog.querySelector("h1").textContent = "Sign in again";
    dialog.querySelector("h1 + p").textContent = "What you typed is kept. The form has it again after you sign in.";
    dialog.showModal();
  }

  document.addEventListener("submit", async (event) => {
    const form = event.target;
    if (!form.closest("#again")) return;
    event.preventDefault();
    try {
      const answer = await fetch(form.action, { method: "POST", body: new URLSearchParams(new FormData(form)) });
      if (answer.status !== 401) again();
      else say(form.closest(".sign-in"), parse(await answer.text()).querySelector("[role=alert]").textContent);
    } catch {
      say(form.closest(".sign-in"), "The service cannot be reached.");
    }
  });

  // The identity provider has signed the person in, in another tab.
  document.addEventListener("visibilitychange", async () => {
    const dialog = document.getElementById("again");
    if (document.hidden || !dialog?.open || !dialog.querySelector("a.provider")) return;
    const answer = await fetch(location.href).catch(() => null);
    if (answer && answer.status !== 401) again();
  });

  // Other forms lead to another page: the text would be lost if the session has ended, or the service is away.
  document.addEventListener("submit", async (event) => {
    const form = event.target;
    const isKnown = form.matches("[hx-boost], [hx-post]") || "checked" in form.dataset;
    if (event.defaultPrevented || !isSent(form) || isKnown || ![...form.querySelectorAll(FIELDS)].some(isTyped)) return;
    event.preventDefault();
    try {
      const answer = await fetch(location.href);
      if (answer.status === 401) {
        signIn(parse(await answer.text()));
        return;
      }
      form.dataset.checked = "";
      form.requestSubmit(event.submitter);
    } catch {
      say(form, "The service cannot be reached. What you typed is kept: send it again.");
    }
  });

  // The page is made anew for the new session; what was typed waits in this tab meanwhile.
  function again() {
    // A form that was loaded into the page would not be in the page made anew: a refresh brings the key.
    if (document.querySelector("dialog.acting[open] form")) {
      document.getElementById("again").close();
      htmx.trigger("#view", "news");
      return;
    }
    const typed = fields().filter((field) => isTyped(field) || field.matches("select"));
    const kept = typed.map((field) => ({
      form: field.form.getAttribute("action"), name: field.name, value: field.value, open: Boolean(field.closest("dialog[open], details[open]")),
    }));
    sessionStorage.setItem(KEPT, JSON.stringify(kept));
    location.reload();
  }

  function restore() {
    const kept = JSON.parse(sessionStorage.getItem(KEPT) ?? "[]");
    sessionStorage.removeItem(KEPT);
    for (const { form, name, value, open } of kept) {
      const field = sameForm(form)?.elements[name];
      if (!field) continue;
      field.value = value;
      const around = field.closest("dialog:not([open]), details:not([open])");
      if (open && around?.matches("dialog")) around.showModal();
      else if (open && around) around.open = true;
    }
  }

  restore();
})();
