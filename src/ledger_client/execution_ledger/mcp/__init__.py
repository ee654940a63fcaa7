"""The ledger for assistants: tools of the Model Context Protocol, which only read.

``elk mcp`` serves them to a program on the same machine, and the service at ``/mcp``. ``server``
needs the packages of the extra ``mcp``.

Texts of tenants reach an assistant only as values of ``structuredContent``, and in its copy as
JSON. Sentences, descriptions and errors are constants of this package. At most they contain names
of its own arguments.
"""
