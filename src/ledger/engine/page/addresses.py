"""Addresses of pages: within this service, and with other parameters."""

import posixpath
import re
from contextlib import suppress
from urllib.parse import parse_qsl, urlencode, urlsplit

from fastapi import Request

from ledger.engine.http.machinery.middleware import without_prefix
from ledger.engine.http.reading import services_of

HOME = "/ui"
START = "/ui/start"

_PATH_END = re.compile("[?#]")
_ENCODED_DOT = re.compile("%2e", re.IGNORECASE)
_MISREAD = re.compile(r"[\x00-\x20\x7f\\]")
"""Characters that a browser removes from a path, or reads as a slash."""


def own_page(address: str) -> str:
    """The address itself if it is below ``/ui``, else ``/ui`` (contract, Access).

    Browsers resolve dot segments, also percent-encoded ones, read a backslash as a slash, and
    remove tabs and line ends. So this function resolves dot segments, and replaces a path with a
    backslash, a space or a control character by ``/ui``.
    """
    path = _PATH_END.split(address, maxsplit=1)[0]
    rest = address[len(path) :]
    if _MISREAD.search(path):
        return HOME
    path = posixpath.normpath(_ENCODED_DOT.sub(".", path))
    return path + rest if path == HOME or path.startswith(f"{HOME}/") else HOME


def with_parameter(address: str, name: str, value: str | None) -> str:
    """An address of this site with one parameter set, or removed if the value is None."""
    path, _, query = address.partition("?")
    pairs = [pair for pair in parse_qsl(query) if pair[0] != name]
    if value is not None:
        pairs.append((name, value))
    return path + (f"?{urlencode(pairs)}" if pairs else "")


def here(request: Request) -> str:
    """The address of the present page; for the request of a form, the page that the form is on."""
    if request.method in ("GET", "HEAD"):
        query = request.url.query
        return request.url.path + (f"?{query}" if query else "")
    return own_page(sender(request) or HOME)


def sender(request: Request) -> str | None:
    """The address, of whatever site, of the page with the link or form that led here."""
    with suppress(ValueError):
        found = urlsplit(request.headers.get("referer", ""))
        path = without_prefix(found.path, services_of(request).root_path)
        return path + (f"?{found.query}" if found.query else "")
    return None
