"""The page: HTML under ``/ui``, made from the answers of the API's own routes.

    pages.py      the route of a page, its forms, its headers, and the page of a refusal
    frame.py      what features bring to every page; ``ledger/app/http/site.py`` names it
    navigation.py, addresses.py, visits.py, lag.py
                  where pages are, where a visitor was, and how far a page is behind
    showing.py    instants, durations, numbers, names and events as people read them
    permissions.py
                  what each permission allows, and the refusal of a visitor without it
    charts.py     the geometry of bands and bar charts
    log.py        parts shared by the logs: periods as people type them, active filters
    managed.py, first_steps.py
                  pages of things that people manage, and commands to copy
    templates/    the frame       static/    style, script, and two unchanged libraries

The pages themselves are in the features (``features/*/page``). ``app/http/site.py`` adds them to
the application.

A request goes from cookie to principal to permission to query model, as in the API
(``engine/http/lean.py``). The page then calls the API's endpoint functions in this process, decodes
their answers into the structs that were rendered, and renders a template. So page and API cannot
disagree, a page shows what its token may see, and a page has no SQL statement of its own if the API
has one.

Every page is complete HTML and works without script. With script, ``htmx`` requests the same page
again when the stream reports an event, and ``idiomorph`` changes only the elements that differ.
"""
