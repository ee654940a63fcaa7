"""The product under measurement, running, and a client for the answers that are looked at."""

import contextlib
import http.client
import json
import os
import subprocess
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import limits
import loadgen
from story import ORGANIZATION, batch_of

from ledger.store.embedded import running

LEDGER = str(Path(sys.executable).with_name("ledger"))
HELD = 40  # batches encoded at a time while loading
BATCH_CLIENTS = 4  # two for each worker: one batch is decided while the other's bytes arrive
ONE, MANY = "application/cloudevents+json", "application/cloudevents-batch+json"


class UnmeasuredError(Exception):
    """A row could not be measured; the text says why. The other rows go on."""


@dataclass
class Product:
    """The ledger under measurement, and what its API and its database are reached by."""

    port: int
    key: str
    database_url: str
    env: dict[str, str]  # for commands of the same ledger

    def get(self, path: str) -> bytes:
        """One encoded GET."""
        return loadgen.request("GET", path, authorization=f"Bearer {self.key}")

    def post(self, body: bytes, kind: str = ONE, path: str = "/v1/facts") -> bytes:
        """One encoded POST of facts."""
        key = f"Bearer {self.key}"
        return loadgen.request("POST", path, body, authorization=key, content_type=kind)

    def load(self, batches: Iterable[Sequence[bytes]]) -> None:
        """Post batches from a few clients at once, some at a time: they need not fit in memory."""
        bodies = map(batch_of, batches)
        while posts := [self.post(body, MANY) for body in islice(bodies, HELD)]:
            shares = [share for n in range(BATCH_CLIENTS) if (share := posts[n::BATCH_CLIENTS])]
            result = loadgen.run_load(loadgen.Job(self.port, shares))
            if set(result.statuses) != {200}:
                raise UnmeasuredError(f"batches answered {result.statuses}: {result.refusal}")

    def command(self, *arguments: str, seconds: float = 60) -> str:
        """Run `ledger` on the same data; what it prints."""
        return run_ledger(self.env, *arguments, seconds=seconds)


class Client:
    """A plain client for the few requests whose answers are looked at."""

    def __init__(self, product: Product) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", product.port, timeout=30)
        self._key = {"authorization": f"Bearer {product.key}"}

    def get(self, path: str) -> tuple[int, bytes]:
        """The answer's position and body."""
        return self._ask("GET", path, None, self._key)

    def post(self, body: bytes, kind: str = ONE) -> tuple[int, bytes]:
        """Post facts; the answer's position and body."""
        return self._ask("POST", "/v1/facts", body, {**self._key, "content-type": kind})

    def post_batch(self, facts: Sequence[bytes]) -> int:
        """Post a batch, insist that each fact is recorded; the position of the last."""
        items = json.loads(self.post(batch_of(facts), MANY)[1])["data"]
        for item in items:
            if item["outcome"] != "recorded":
                raise UnmeasuredError(f"a fact of a batch was not recorded: {item}")
        return max(int(item["position"]) for item in items)

    def _ask(
        self, method: str, path: str, body: bytes | None, headers: dict[str, str]
    ) -> tuple[int, bytes]:
        self._connection.request(method, path, body, headers)
        answer = self._connection.getresponse()
        content = answer.read()
        if not 200 <= answer.status < 300:
            text = content[:300].decode(errors="replace")
            raise UnmeasuredError(f"{method} {path} answered {answer.status}: {text}")
        return int(answer.headers["Ledger-Position"]), content


@contextlib.contextmanager
def serve_product(workers: int, folder: Path) -> Iterator[Product]:
    """`ledger serve` on a fresh data directory (or LEDGER_DATABASE_URL), with an API key."""
    data_dir, port = folder / "data", limits.free_port()
    env = {"LEDGER_DATA_DIR": str(data_dir), "LEDGER_WEBHOOK_ALLOW_PRIVATE": "true"}
    command = [LEDGER, "serve", "--port", str(port), "--workers", str(workers)]
    create = ["keys", "create", "--organization", ORGANIZATION, "--name", "bench"]
    create += ["--permission", "read", "write", "service_lines:manage"]
    create += ["--permission", "webhooks:manage", "audit:read"]
    with contextlib.ExitStack() as stack:
        ready = f"http://127.0.0.1:{port}/readyz"
        stack.enter_context(limits.serve(command, ready, folder / "ledger.log", env))
        key = run_ledger(env, *create).strip()
        url = os.environ.get("LEDGER_DATABASE_URL")
        if not url:
            url = stack.enter_context(running(data_dir, purpose="bench", announce=print)).url
        yield Product(port, key, url, env)


def run_ledger(env: dict[str, str], *arguments: str, seconds: float = 60) -> str:
    """What a `ledger` command prints; its last line is the reason when it fails."""
    said = f"ledger {' '.join(arguments[:2])}"
    try:
        done = subprocess.run(
            [LEDGER, *arguments],
            env=os.environ | env,
            capture_output=True,
            text=True,
            timeout=seconds,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise UnmeasuredError(f"{said} was not done after {seconds:,.0f} s") from error
    if done.returncode:
        lines = (done.stderr.strip() or done.stdout.strip() or "it said nothing").splitlines()
        raise UnmeasuredError(f"{said} ended with {done.returncode}: {lines[-1]}")
    return done.stdout
