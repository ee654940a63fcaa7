"""The HTTP edge: parse, call, serialise.

machinery/   code that every request and every answer passes
lean.py      from a request to its route's arguments
reading.py, writing.py   shared code of the routes that read or write
document/    the OpenAPI document, made of the routes

The routes are in the features (``features/*/routes``), and so is authentication
(``features/sign_in/access``).
"""
