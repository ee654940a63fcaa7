"""The composition root: the only place that puts the parts together.

    database.py      the database that every command needs: schema, master key, the login of reads
    writing.py       a writer
    metrics.py       what a writer counts
    verification.py  the verification of the tables beside the log, with those of features
    loops.py         the loops, the webhook dispatcher and the sealer, each in its own process
    sign_in.py       the rules of sessions, and the identity provider
    api.py           the HTTP application

A short command loads no more than it needs: the web framework is half of all the code. The modules
are factories: a part connects only once it is started.
"""
