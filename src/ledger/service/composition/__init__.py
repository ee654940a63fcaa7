"""The composition root: the one place that knows how the parts fit together.

    database.py       what every command needs first: schema, master key
    writing.py        a writer
    views.py          our views and their projector
    loops.py          everything that works behind the log
    dispatching.py    what sends webhooks
    sealing.py        what seals the log
    api.py            the HTTP application

One module for each kind of process, so that each loads what it needs and no more: the web framework
is half of all that there is to load. Factories only: nothing connects before it is asked to.
"""
