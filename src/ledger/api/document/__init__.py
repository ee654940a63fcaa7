"""The OpenAPI document, made from the routes for the generators of clients.

compose.py     the whole document, in order of the steps
operations.py  names, security, parameters, bodies, headers and problems of operations
enums.py       each enumeration once, by name
schemas.py     walks through schemas, and the two kinds of objects: sent and answered
texts.py       about the service, its tags, its webhooks

A route brings its models, its permission and its statuses. Everything else follows from rules here,
so that a new route conforms by itself, or ``compose`` and ``tests/api/test_document.py`` say what
is missing.
"""
