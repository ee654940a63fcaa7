"""The answer corpus: every read of a ledger, from the OpenAPI document and earlier answers.

``Corpus`` sends the requests to the version that wrote the ledger, and stores the answers. It sends
each route with each reader's key, with several values of each parameter, now and in the past. Ids,
words and instants come from earlier answers. Lists are read page by page.
"""

import json
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain, pairwise
from typing import Any
from urllib.parse import quote, urlencode

from corpus_request import Answer, Request, Send

READERS = ("organization", "admin", "workspace", "other")
REFUSED = ("nobody", "unknown", "writer")

LEFT_OUT = {
    "/readyz": "depends on the state of this process",
    "/metrics": "counts the work of this process",
    "/events/stream": "never ends, and has what the feed has",
}
"""The ends of the paths that are not compared, and the reasons."""

PATHS, VALUES, PAGES = 8, 4, 5
"""The most paths of a route, values of a parameter, and pages of a list that are requested."""

_WORDS: Mapping[str, Sequence[str]] = {
    "limit": ("2",),
    "q": ("payments", "000001", "zoë"),
    "time_zone": ("Europe/Berlin",),
    "group_by": ("workspace", "model,month", "resource", "day"),
    "health": ("none",),
}
"""Values that are in no answer and no enumeration."""

_ID = re.compile(r"[A-Z]{3}-\d\d-\d+")

Json = Any


class Corpus:
    """All requests with their answers, in the order of the requests."""

    def __init__(self, send: Send, document: Json) -> None:
        self._send, self._schemas = send, document["components"]["schemas"]
        self._routes: dict[str, list[Json]] = {
            template: methods["get"].get("parameters", [])
            for template, methods in document["paths"].items()
            if "get" in methods and not template.endswith((*LEFT_OUT,))
        }
        self.answers: dict[Request, Answer] = {}
        self._found: dict[str, dict[str, None]] = defaultdict(dict)
        """The values of each member of the answers, and the ids by their prefixes."""

    def ask(self) -> None:
        """Send all requests."""
        # The ids that a route needs may be in the answers of later routes.
        for role in (*READERS, *READERS[:1], *REFUSED):
            for template in self._routes:
                for path in self._paths(template):
                    self.get(path, role, self._needed(template, role, path))
        for role in READERS:
            for template in self._routes:
                self._vary(template, role)
        self._set_conditions()

    def get(
        self, path: str, role: str, query: Mapping[str, str], method: str = "GET", **headers: str
    ) -> Answer:
        """Send a request unless it was sent before; store and return the answer."""
        named = tuple((name.replace("_", "-"), value) for name, value in headers.items())
        request = Request(role, f"{path}?{urlencode(query)}" if query else path, method, named)
        if request not in self.answers:
            answer = self.answers[request] = self._send(request)
            if role == READERS[0] and answer.headers.get("content-type") == "application/json":
                self._find(json.loads(answer.body or b"null"))
        return self.answers[request]

    def _find(self, value: Json, name: str = "") -> None:
        if isinstance(value, dict):
            for key, item in value.items():
                self._find(item, key)
        elif isinstance(value, list):
            for item in value:
                self._find(item, name.removesuffix("s"))
        elif isinstance(value, str):
            self._found[value[:3] if _ID.fullmatch(value) else ""][value] = None
            self._found[name][value] = None

    def _paths(self, template: str) -> Sequence[str]:
        """The paths of a route, with ids from answers."""
        parts = [part for part in self._routes[template] if part["in"] == "path"]
        if not parts:
            return [template]
        (part,) = parts
        values = _spread([*self._values(part, spread=False)], PATHS)
        return [template.replace(f"{{{part['name']}}}", quote(value)) for value in values]

    def _needed(self, template: str, role: str, path: str) -> dict[str, str]:
        """The parameters that a route requires: for some routes, the organization."""
        queries = [each for each in self._routes[template] if each["in"] == "query"]
        needed = {
            each["name"]: next(self._values(each)) for each in queries if each.get("required")
        }
        is_refused = self.get(path, role, needed).status == 422
        if is_refused and any(each["name"] == "organization_id" for each in queries):
            needed |= dict.fromkeys(["organization_id"], next(iter(self._found["organization_id"])))
        return needed

    def _values(self, parameter: Json, *, spread: bool = True) -> Iterator[str]:
        schema = self._schema(parameter["schema"])
        words = [*schema.get("enum", []), *([schema["const"]] if "const" in schema else [])]
        name, pattern = parameter["name"], schema.get("pattern", "")
        if prefix := re.match(r"\^([A-Z]{3})-", pattern):
            found = [*self._found[prefix[1]]]
        elif pattern.startswith("^(19|20)"):
            found = sorted(self._found["recorded_at"])
        else:
            found = [*self._found[name]]
        if schema.get("type") == "integer" and name not in _WORDS:
            found = [str(number) for number in (1, 2, 255, 256, 1000)]
        yield from map(str, words)
        yield from _WORDS.get(name, ())
        if not words and name not in _WORDS:
            yield from _spread(found, VALUES) if spread else found
        if spread:
            several = [*words, *found][:2]
            if "items" in parameter["schema"] and len(several) > 1:
                yield ",".join(several)
            yield "none"

    def _schema(self, schema: Json) -> Json:
        schema = schema.get("items", schema)
        return self._schemas[schema["$ref"].rsplit("/", 1)[1]] if "$ref" in schema else schema

    def _vary(self, template: str, role: str) -> None:
        """Send each value of each parameter, now and in the past, and read the pages."""
        queries = [each for each in self._routes[template] if each["in"] == "query"]
        names = {each["name"] for each in queries}
        instants = _spread(sorted(self._found["recorded_at"]), VALUES)
        for path in _spread(self._paths(template), PATHS if role == READERS[0] else 1):
            needed = self._needed(template, role, path)
            pasts = [{"as_of": instants[-2]}] if "as_of" in names else []
            pasts += [
                {"from": a, "to": b} for a, b in pairwise(instants) if {"from", "to"} <= names
            ]
            for more in ({}, *pasts):
                self.get(path, role, needed | more)
                for each in queries if len(more) < 2 else ():
                    for value in self._values(each):
                        self.get(path, role, needed | more | {each["name"]: value})
            if "cursor" in names:
                self._read_pages(path, role, needed | {"limit": "3"})

    def _read_pages(self, path: str, role: str, query: dict[str, str]) -> None:
        for _ in range(PAGES):
            answer = self.get(path, role, query)
            meta = json.loads(answer.body)["meta"] if answer.status == 200 else {}
            if not meta.get("cursor"):
                return
            query = query | {"cursor": meta["cursor"]}

    def _set_conditions(self) -> None:
        """Send entity tags, HEAD, and a least position that the ledger has, once per route."""
        for template in self._routes:
            for path in self._paths(template)[:1]:
                query = self._needed(template, READERS[0], path)
                answer = self.get(path, READERS[0], query)
                tag = answer.headers.get("etag")
                for sent in chain([tag, f"W/{tag}"] if tag else [], ('"other"', "*")):
                    self.get(path, READERS[0], query, if_none_match=sent)
                self.get(path, READERS[0], query, ledger_min_position="1")
                self.get(path, READERS[0], query, "HEAD")


def _spread(values: Sequence[str], most: int) -> list[str]:
    """At most ``most`` of the values, spread from the first to the last."""
    step = max(1, (len(values) - 1) / max(1, most - 1))
    return [values[round(n * step)] for n in range(min(most, len(values)))]
