"""Clients that report facts and read through every failure, and store what was acknowledged.

Each group of clients has an address: the proxy before the nodes, or a node itself. If it has
several addresses, its clients switch to the next one after each failure. A client repeats a fact
under the same id until it is acknowledged, and then sends the next one.
"""

import http.client
import itertools
import json
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Self
from urllib.parse import urlsplit

from scripts.rehearse.nodes import ORGANIZATION

CLIENT_SECONDS = 12.0
"""The time limit of a client: longer than the 10 s within which a living node answers."""

PAUSE_SECONDS = 0.02
"""The time between two requests of a client, so that two cores suffice for the whole cluster."""

_ACKNOWLEDGED = (200, 201)


@dataclass
class ClientGroup:
    """The clients of an address, and their results."""

    name: str
    addresses: tuple[str, ...]
    writers: int = 2
    readers: int = 1
    written_at: list[float] = field(default_factory=list)
    read_at: list[float] = field(default_factory=list)
    slowest: float = 0.0
    """The time of the slowest answer, in seconds."""
    statuses: Counter[int] = field(default_factory=Counter)
    """The number of answers by status; 0 for no answer."""


class Load:
    """Groups of clients, which run from ``with`` until ``stop``."""

    def __init__(self, name: str, token: str, groups: list[ClientGroup], line: str) -> None:
        self.source = f"/rehearsal/{name}"
        self.groups = {group.name: group for group in groups}
        self.acknowledged: dict[str, int] = {}
        """The position that was acknowledged, by the id of the fact."""
        self.began_at = self.ended_at = 0.0
        self._token, self._line = token, line
        self._numbers = itertools.count(1)
        self._stopping = threading.Event()
        self._threads = [
            threading.Thread(target=work, args=(group,), daemon=True)
            for group in groups
            for work in [self._write] * group.writers + [self._read] * group.readers
        ]

    def __enter__(self) -> Self:
        self.began_at = time.monotonic()
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """Let each client finish its request. Raises TimeoutError if a client hangs."""
        if not self._stopping.is_set():
            self.ended_at = time.monotonic()
            self._stopping.set()
        for thread in self._threads:
            thread.join(CLIENT_SECONDS + 5)
            if thread.is_alive():
                raise TimeoutError("a client of the load hangs")

    def await_more(self, count: int, groups: tuple[str, ...] = (), seconds: float = 60.0) -> None:
        """Wait until each of these groups (by default all) has written ``count`` more facts.

        Raises TimeoutError.
        """
        wanted = {n: len(self.groups[n].written_at) + count for n in groups or self.groups}
        deadline = time.monotonic() + seconds
        while any(len(self.groups[name].written_at) < least for name, least in wanted.items()):
            if time.monotonic() > deadline:
                before = {name: dict(self.groups[name].statuses) for name in wanted}
                raise TimeoutError(f"writes do not go on; answers by status: {before}")
            time.sleep(0.05)

    def go_on_for(self, seconds: float) -> None:
        """Continue the load for some time, which the failure is meant to last."""
        self._stopping.wait(seconds)

    def gap(self, groups: tuple[str, ...], reads: bool = False) -> float:
        """The longest time in seconds without a success in one of these groups."""
        longest = 0.0
        for name in groups:
            group = self.groups[name]
            instants = list(group.read_at if reads else group.written_at)
            instants = [self.began_at, *(i for i in instants if i < self.ended_at), self.ended_at]
            longest = max([longest, *(b - a for a, b in itertools.pairwise(instants))])
        return longest

    def _write(self, group: ClientGroup) -> None:
        client = _Client(group, self._token)
        while not self._stopping.is_set():
            name = f"{group.name}-{next(self._numbers)}"
            body = json.dumps(checked_in(self._line, name, self.source)).encode()
            while not self._stopping.is_set():
                status, answer = client.ask("POST", "/v1/facts", body)
                if status in _ACKNOWLEDGED:
                    self.acknowledged[name] = json.loads(answer)["data"]["position"]
                    group.written_at.append(time.monotonic())
                    break
                self._stopping.wait(PAUSE_SECONDS)
            self._stopping.wait(PAUSE_SECONDS)

    def _read(self, group: ClientGroup) -> None:
        client = _Client(group, self._token)
        while not self._stopping.is_set():
            status, _ = client.ask("GET", f"/v1/execution/{self._line}")
            if status == 200:
                group.read_at.append(time.monotonic())
            self._stopping.wait(PAUSE_SECONDS)


class _Client:
    """A client with one connection, which it opens again when it breaks."""

    def __init__(self, group: ClientGroup, token: str) -> None:
        self._group = group
        self._addresses = itertools.cycle([urlsplit(address) for address in group.addresses])
        self._headers = {"authorization": f"Bearer {token}"}
        self._connection: http.client.HTTPConnection | None = None

    def ask(self, method: str, path: str, body: bytes | None = None) -> tuple[int, bytes]:
        """The status and body of the answer; status 0 without an answer."""
        began = time.monotonic()
        try:
            if self._connection is None:
                address = next(self._addresses)
                self._connection = http.client.HTTPConnection(
                    address.hostname or "", address.port, timeout=CLIENT_SECONDS
                )
            headers = self._headers
            if body is not None:
                headers = headers | {"content-type": "application/cloudevents+json"}
            self._connection.request(method, path, body, headers)
            answer = self._connection.getresponse()
            result = answer.status, answer.read()
        except (OSError, http.client.HTTPException):
            if self._connection is not None:
                self._connection.close()
            self._connection = None
            self._group.statuses[0] += 1
            return 0, b""
        self._group.slowest = max(self._group.slowest, time.monotonic() - began)
        self._group.statuses[result[0]] += 1
        return result


def checked_in(line: str, name: str, source: str) -> dict[str, object]:
    """A check-in of an hour."""
    return {
        "specversion": "1.0",
        "id": name,
        "source": source,
        "type": "execution.checked_in",
        "subject": line,
        "data": {"hours": 1},
    }


def activation(line: str, model: str = "capacity") -> dict[str, object]:
    return {
        "specversion": "1.0",
        "id": f"activation-{line}",
        "source": "/rehearsal",
        "type": "service_line.activated",
        "subject": line,
        "data": {
            "organization_id": ORGANIZATION,
            "workspace_id": "WS-26-000001",
            "product_line": "agent_gateway",
            "execution_model": model,
        },
    }
