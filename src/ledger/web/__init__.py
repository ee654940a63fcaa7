"""The page people look at: HTML under ``/ui``, made from what the API's own routes answer.

    session.py    who looks: a token in a cookie that only this service can read
    pages.py      a page's route, its forms, its headers, how a refusal looks
    showing.py    instants, durations and numbers as people read them, in the zone they chose
    history.py    the slider through a line's events, and what was not known yet at an instant
    charts.py     where the marks of a band or a bar chart go: pure geometry
    log.py        what the logs share: stretches of time as people write them, chosen filters
    summary.py    what an event says, in one line
    webhook_forms.py    what forms about endpoints send, as the API's models take it
    sign_in.py, board.py, line.py, run.py, events.py, audit.py, webhooks.py    one page each
    jump.py       to another id, instant or zone
    site.py       all of them, added to the application
    templates/    their HTML            static/    style, script, and the two libraries as they are

A page's way: cookie → principal → permission → query model, as in the API (``api/lean.py``); then
the API's endpoint functions are called in this process, their bytes read by the models that
describe them, and a template shows the result. So page and API cannot disagree, a page sees what
its token sees, and no statement is written for a page alone where the API has one.

Every page is whole HTML and works without script. With script, ``htmx`` asks for the same page
again when the stream says that something happened, and ``idiomorph`` changes what differs.
"""
