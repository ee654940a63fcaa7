"""The routes and parameters of the OpenAPI document that no request of the corpus has asked for."""

import re
from collections.abc import Collection, Iterable
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from corpus_request import Request

LEFT_OUT = {
    "/readyz": "depends on the state of this process; new members are added",
    "/metrics": "counts the work of this process",
    "/openapi.json": "grows with every version, and its descriptions are texts",
    "/docs": "shows /openapi.json",
}
"""The paths that are not compared, and why; the last two are no routes of the OpenAPI document."""


def unasked(requests: Collection[Request], document: Any) -> list[str]:
    """The routes without a request, and the parameters that no request had."""
    missing = []
    for template, methods in document["paths"].items():
        if "get" not in methods or template in LEFT_OUT:
            continue
        asked = [r for r in requests if _is_of(template, r.path, document["paths"])]
        if not asked:
            missing.append(f"GET {template}")
            continue
        sent = {name for r in asked for name, _ in parse_qsl(urlsplit(r.path).query)}
        sent |= {name.lower() for r in asked for name, _ in r.headers}
        for parameter in methods["get"].get("parameters", []):
            name = parameter["name"]
            if parameter["in"] != "path" and not {name, name.lower()} & sent:
                missing.append(f"{name} of GET {template}")
    return missing


def _is_of(template: str, path: str, templates: Iterable[str]) -> bool:
    """Whether a path belongs to a template, and not to a template that is the path itself."""
    plain = urlsplit(path).path
    if plain in templates:
        return plain == template
    return re.fullmatch(re.sub(r"\{[^}]*\}", "[^/]+", template), plain) is not None
