"""The HTTP edge: parse, call, serialise.

machinery/   code that every request and every answer passes
access/      authentication: from a bearer token to a principal
lean.py      from a request to its route's arguments
routes/      a function for each method and path: ask or execute, then render
reading.py, writing.py   shared code of the routes that read or write
"""
