"""The composition root: the only place that puts the parts together.

    database.py       the database that every command needs: schema, master key
    reading.py        the login of the API's reads
    writing.py        a writer
    loops.py          the loops that follow the log
    dispatching.py    the webhook dispatcher
    sealing.py        the sealer
    api.py            the HTTP application

Each kind of process has a module, so that a process loads no more than it needs: the web framework
is half of all the code. The modules are factories: a part connects only once it is started.
"""
