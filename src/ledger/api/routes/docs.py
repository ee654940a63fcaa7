"""`/docs`: the API as a page to read and to try, from this service alone (contract, Access).

FastAPI's own page loads its script from a public server. In a closed network that page shows
nothing, and the owner of that server could read the token that a user types in. ``fastapi-offline``
brings the same files as a package; the Content-Security-Policy limits the page to these files.
"""

import base64
import hashlib
import re

from fastapi import FastAPI
from fastapi.openapi.docs import get_swagger_ui_html
from fastapi.responses import HTMLResponse
from starlette.staticfiles import StaticFiles

from ledger.api.policy import content_policy

# Relative paths, which also work behind a proxy that serves us below a path of its own.
_FILES = "docs/static"
_DOCUMENT = "openapi.json"

_INLINE_SCRIPT = re.compile("<script>(.*?)</script>", re.DOTALL)


def install(app: FastAPI) -> None:
    """Serve the page and its files without a token; the OpenAPI document lists neither."""
    app.mount(f"/{_FILES}", StaticFiles(packages=[("fastapi_offline", "static")]), name="docs")
    page = get_swagger_ui_html(
        openapi_url=_DOCUMENT,
        title=app.title,
        swagger_js_url=f"{_FILES}/swagger-ui-bundle.js",
        swagger_css_url=f"{_FILES}/swagger-ui.css",
        swagger_favicon_url=f"{_FILES}/favicon.png",
        swagger_ui_parameters={"defaultModelsExpandDepth": 0},
    ).body
    headers = {"Content-Security-Policy": _policy(bytes(page).decode())}

    @app.get("/docs", include_in_schema=False)
    async def docs() -> HTMLResponse:
        return HTMLResponse(bytes(page), headers=headers)


def _policy(page: str) -> str:
    """A policy that allows our own files only, and the page's inline script by its digest."""
    digests = [hashlib.sha256(text.encode()).digest() for text in _INLINE_SCRIPT.findall(page)]
    inline = " ".join(f"'sha256-{base64.b64encode(digest).decode()}'" for digest in digests)
    return content_policy(
        f"script-src 'self' {inline}", "img-src 'self' data:", "form-action 'none'"
    )
