"""The HTTP edge: parse, call, serialise.

machinery/   what every request and every answer passes
access/      who may come in
lean.py      from a request to its route's arguments
routes/      a function for each method and path: ask or execute, then render
reading.py, writing.py   what routes that read or write share
"""
