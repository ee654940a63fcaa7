"""The OpenAPI document, made from the routes for the generators of clients.

compose.py  the whole document: operations, parameters, bodies, responses
schemas.py  the schemas: of answers from their structs, of bodies from their models
texts.py    about the service, its tags, its headers, its webhooks

A route names the struct of its answer, the model of its body, its permission and its statuses.
Everything else follows from rules here, so that a new route conforms by itself, or ``compose`` and
``tests/app/test_document.py`` say what is missing.
"""
