"""The ledger for assistants: tools by the Model Context Protocol, which read and never write.

``elk mcp`` serves them to a program on the same machine, and the service itself at ``/mcp``.
``server`` needs the packages of the extra ``mcp``.

Texts of tenants reach an assistant only as values of ``structuredContent``, and in its copy as
JSON. Sentences, descriptions and errors are constants of this package, with names of its own
arguments at most.
"""
