"""Write the generated modules of the Python client: types, routes, synchronous twin, verifier.

Run ``python -m scripts.python_client`` after a change of ``_async``. After a change of the API, run
``make generate``, for both clients. Until then ``tests/client/test_generated.py`` fails.
"""

import sys
from types import SimpleNamespace

from ledger.app.http.app import create_app
from ledger.engine.http.document.compose import compose
from scripts.python_client.modules import Schema, made

STANDS_IN = SimpleNamespace(
    root_path="", cors_origins=(), is_public_by_https=False, positions=None, only_reads=False
)
"""Stands in for the services of an application that only describes itself."""


def document() -> Schema:
    """The OpenAPI document, made without a running service."""
    app = create_app(STANDS_IN)  # type: ignore[arg-type]
    return compose(app, app.routers)


def main() -> int:
    """Write each module whose text has changed."""
    for path, text in made(document()).items():
        path.parent.mkdir(exist_ok=True)
        if not path.exists() or path.read_text() != text:
            path.write_text(text)
            print(f"written: {path.name}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
