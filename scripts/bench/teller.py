"""Tells a tale to a running service: facts and commands over HTTP, keys by the command line.

Each answer must be the expected one. The teller keeps the routes, types and refusals that were
used, so that a tale can find out what it left out.
"""

import itertools
import json
import re
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import quote

import httpx
from product import MANY, ONE, Product

WAIT = 30.0  # seconds for the service's own work, such as making a line idle

Json = Any


class UntoldError(Exception):
    """The service answered otherwise than the tale needs; the message says how."""


class Teller:
    """Sends requests in the name of several keys, by the role of each."""

    def __init__(self, product: Product) -> None:
        self.product = product
        self.keys: dict[str, str] = {}
        self.now = datetime.now(UTC)
        self.used: set[tuple[str, str]] = set()
        """Method and path of every command that succeeded."""
        self.reported: set[str] = set()
        """Types of the facts that were recorded."""
        self.refused: set[tuple[int, str]] = set()
        """Status and code of every refusal."""
        self._numbers = itertools.count(1)
        self._http = httpx.Client(base_url=f"http://127.0.0.1:{product.port}", timeout=30)

    def create_key(self, role: str, *options: str) -> None:
        """Create a key for a role."""
        token = self.product.command("keys", "create", "--name", role, *options)
        self.keys[role] = token.strip()

    def revoke_key(self, role: str) -> None:
        """Revoke a role's key, and wait until it is refused."""
        keys = self.get("/v1/keys?limit=100", "admin")["data"]
        (key,) = (key["id"] for key in keys if key["name"] == role)
        self.product.command("keys", "revoke", key)
        self.wait(lambda: self._send("GET", "/v1/execution", role).status_code == 401, "revocation")

    def ago(self, **duration: float) -> str:
        """An instant before the tale began."""
        return _text(self.now - timedelta(**duration))

    def instant(self) -> str:
        """The present instant."""
        return _text(datetime.now(UTC))

    def fact(self, kind: str, subject: str | None = None, /, **data: Json) -> dict[str, Json]:
        """A fact; arguments that end with an underscore are attributes of the CloudEvent."""
        attributes = {name[:-1]: data.pop(name) for name in list(data) if name.endswith("_")}
        made = {
            "specversion": "1.0",
            "id": f"fact-{next(self._numbers):04d}",
            "source": "/tale",
            "type": kind,
            "data": data,
        }
        if subject is not None:
            made["subject"] = subject
        return made | attributes

    def report(self, *facts: dict[str, Json], role: str = "organization") -> list[Json]:
        """Send facts in one batch, each of which must be recorded; return their outcomes."""
        outcomes: list[Json] = self.batch(*facts, role=role)
        for fact, outcome in zip(facts, outcomes, strict=True):
            if outcome["outcome"] != "recorded":
                raise UntoldError(f"{fact['type']} was not recorded: {outcome}")
            self.reported.add(fact["type"])
        return outcomes

    def report_alone(self, fact: dict[str, Json], *, binary: bool = False) -> None:
        """Send a fact in a request of its own, structured or binary."""
        headers = {"content-type": ONE}
        body: Json = fact
        if binary:
            body = fact["data"]
            kept = {name: value for name, value in fact.items() if name != "data"}
            headers = {f"ce-{name}": quote(str(value)) for name, value in kept.items()}
        answer = self._send("POST", "/v1/facts", "organization", body, **headers)
        self._insist(answer, 201)

    def load(self, *facts: dict[str, Json]) -> None:
        """Record facts by `ledger import` of a file."""
        file = self.product.data_dir / "facts.jsonl"
        file.write_text("".join(f"{json.dumps(fact)}\n" for fact in facts))
        self.product.command("import", str(file))

    def batch(self, *facts: Json, role: str = "organization") -> list[Json]:
        """Send facts in one batch; return their outcomes, whatever these are."""
        answer = self._send("POST", "/v1/facts", role, list(facts), **{"content-type": MANY})
        self._insist(answer, 200)
        outcomes: list[Json] = answer.json()["data"]
        for outcome in outcomes:
            if outcome["error"] is not None:
                self.refused.add((0, outcome["error"]["code"]))
        return outcomes

    def command(
        self,
        method: str,
        path: str,
        body: Json = None,
        *,
        role: str = "organization",
        status: int = 200,
        **headers: str,
    ) -> Json:
        """Send a request that must be answered with ``status``; return the answer's JSON."""
        answer = self._send(method, path, role, body, **headers)
        self._insist(answer, status)
        if answer.is_success:
            self.used.add((method, path))
        else:
            self.refused.add((status, answer.json()["code"]))
        return answer.json() if answer.content else None

    def get(self, path: str, role: str = "organization") -> Json:
        """The answer's JSON of a GET."""
        answer = self._send("GET", path, role)
        self._insist(answer, 200)
        return answer.json()

    def wait(self, is_so: Callable[[], object], what: str) -> None:
        """Wait until the service has done work of its own."""
        deadline = time.monotonic() + WAIT
        while not is_so():
            if time.monotonic() > deadline:
                raise UntoldError(f"{what}: not after {WAIT:.0f} s")
            time.sleep(0.05)

    def positions(self) -> tuple[int, int]:
        """The log's last position, and the last sealed position."""
        return tuple(
            int(self._send("GET", path, "organization").headers["ledger-position"])
            for path in ("/healthz", "/v1/log/checkpoint")
        )  # type: ignore[return-value]

    def settle(self) -> int:
        """Wait until the log is quiet and sealed; return its last position."""
        before = -1, 0

        def is_quiet() -> bool:
            nonlocal before
            found = self.positions()
            if found[0] == found[1] and found == before:
                return True
            before = found
            time.sleep(0.5)
            return False

        self.wait(is_quiet, "a quiet and sealed log")
        return before[0]

    def uncalled(self, document: Json) -> set[str]:
        """The commands of an OpenAPI document that never succeeded here."""
        missing = set()
        for template, methods in document["paths"].items():
            pattern = re.compile(re.sub(r"\{[^}]*\}", "[^/]+", template))
            for method in methods.keys() - {"get"}:
                used = (path for verb, path in self.used if verb == method.upper())
                if not any(pattern.fullmatch(path) for path in used):
                    missing.add(f"{method.upper()} {template}")
        return missing - {"POST /v1/facts"}

    def _send(
        self, method: str, path: str, role: str, body: Json = None, **headers: str
    ) -> httpx.Response:
        if role in self.keys:
            headers["authorization"] = f"Bearer {self.keys[role]}"
        content = b""
        if body is not None:
            headers.setdefault("content-type", "application/json")
            content = json.dumps(body, ensure_ascii=False).encode()
        return self._http.request(method, path, content=content, headers=headers)

    def _insist(self, answer: httpx.Response, status: int) -> None:
        if answer.status_code != status:
            asked = f"{answer.request.method} {answer.request.url.raw_path.decode()}"
            raise UntoldError(
                f"{asked} answered {answer.status_code}, not {status}: {answer.text[:500]}"
            )


def _text(at: datetime) -> str:
    return at.isoformat(timespec="microseconds").replace("+00:00", "Z")


def consts(document: Json, suffix: str) -> set[str]:
    """The types in a document's schemas whose names end with ``suffix`` (Fact, Event)."""
    found = set()
    for name, schema in document["components"]["schemas"].items():
        kind = schema.get("properties", {}).get("type", {}).get("const")
        if kind is not None and name.endswith(suffix):
            found.add(kind)
    return found
