"""The page: HTML under ``/ui``, made from the answers of the API's own routes.

    session.py    the session: a token in a cookie that only this service can read
    pages.py      the route of a page, its forms, its headers, and the page of a refusal
    showing.py    instants, durations, numbers, names and events as people read them
    history.py    the slider through a line's events, and records not yet known at an instant
    charts.py     the geometry of bands and bar charts
    log.py        parts shared by the logs: periods as people type them, active filters
    bell.py       the number of open alerts in the header
    webhook_forms.py, key_forms.py, statement_forms.py, watch_forms.py
                  the forms, converted to the API's models
    sign_in.py, board.py, line.py, alerts.py, watches.py, sources.py, run.py, statements.py,
    events.py, audit.py, webhooks.py, keys.py, integrity.py  one page each
    channels.py   the dialog that sets up an endpoint for people, and tries it
    jump.py       redirects to another id, instant, time zone or colours
    site.py       adds all pages to the application
    templates/    their HTML            static/    style, script, and two unchanged libraries

A request goes from cookie to principal to permission to query model, as in the API
(``engine/http/lean.py``). The page then calls the API's endpoint functions in this process, decodes their
answers into the structs that were rendered, and renders a template. So page and API cannot
disagree, a page shows what its token may see, and a page has no SQL statement of its own if the API
has one.

Every page is complete HTML and works without script. With script, ``htmx`` requests the same page
again when the stream reports an event, and ``idiomorph`` changes only the elements that differ.
"""
