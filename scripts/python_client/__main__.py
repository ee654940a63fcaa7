"""Write the generated modules of the Python client: types, routes, the synchronous twin, verifier.

``python -m scripts.python_client``, after a change of ``_async``; after one of the API
``make generate``, for both clients. The test ``tests/client/test_generated.py`` fails until then.
"""

import sys
from types import SimpleNamespace

from ledger.app.http.app import create_app
from ledger.engine.http.document.compose import compose
from scripts.python_client.modules import Schema, made

STANDS_IN = SimpleNamespace(
    root_path="", cors_origins=(), is_public_by_https=False, positions=None, only_reads=False
)
"""The services of an application that only describes itself."""


def document() -> Schema:
    """The OpenAPI document of the service, without a service."""
    app = create_app(STANDS_IN)  # type: ignore[arg-type]
    return compose(app, app.routers)


def main() -> int:
    """Write each module that is not as it should be."""
    for path, text in made(document()).items():
        path.parent.mkdir(exist_ok=True)
        if not path.exists() or path.read_text() != text:
            path.write_text(text)
            print(f"written: {path.name}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
