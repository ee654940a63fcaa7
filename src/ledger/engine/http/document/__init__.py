"""The OpenAPI document, made from the routes for the generators of clients.

compose.py  the whole document: operations, parameters, bodies, responses
schemas.py  the schemas: of answers from the structs that are shown, of what is sent from its models
texts.py    about the service, its tags, its headers, its webhooks

A route names the struct that it shows, the model that it takes, its permission and its statuses.
Everything else follows from rules here, so that a new route conforms by itself, or ``compose`` and
``tests/app/test_document.py`` say what is missing.
"""
