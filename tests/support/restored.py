"""A ledger that an earlier version wrote (``tests/fixtures``), restored and served by this one."""

import asyncio
import json
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from ledger.app.composition.api import create_api
from ledger.app.settings import Settings
from ledger.engine.postgres.embedded.programs import find_programs
from ledger.features.runs.read_notes import ReadNotes
from scripts.bench.corpus_request import Answer, Request, headers_of
from tests.support.databases import empty
from tests.support.service import Clock

FOLDER = Path(__file__).parents[1] / "fixtures"


@dataclass(frozen=True)
class OldLedger:
    """The fixtures of the ledger that one version wrote: a dump, keys, and answers."""

    version: str

    @property
    def file(self) -> Path:
        """The dump."""
        return FOLDER / f"ledger-{self.version}.dump"

    @cached_property
    def _about(self) -> Any:
        return json.loads((FOLDER / f"answers-{self.version}.json").read_text())

    @property
    def settings(self) -> Settings:
        """Settings with the ledger's master key."""
        return Settings(master_key=self._about["master_key"], idle_sweep_seconds=3600)

    @property
    def keys(self) -> dict[str, str]:
        """The readers' keys, by role."""
        return dict(self._about["keys"])

    @property
    def clock(self) -> Clock:
        """A clock at the instant of the stored answers, which depend on the day and the week."""
        return Clock(datetime.fromisoformat(self._about["asked_at"]))

    @property
    def answers(self) -> Iterator[tuple[Request, str]]:
        """Every request with the digest of its answer."""
        for digest, role, path in self._about["answers"]:
            yield Request(role, path), digest

    @contextmanager
    def restored(self, server: str) -> Iterator[str]:
        """Restore the ledger as its version left it, as a database of a server; the address.

        Its rights name a role of the cluster in which it was written: a start makes them anew.
        """
        program = find_programs(None) / "bin" / "pg_restore"
        options = ("--exit-on-error", "--no-owner", "--no-privileges")
        with empty(server, f"written_by_{self.version.replace('.', '_')}") as conninfo:
            subprocess.run([program, *options, f"--dbname={conninfo}", self.file], check=True)
            yield conninfo


OLD_LEDGERS = (OldLedger("e6d622b"), OldLedger("0.1.0"))


@contextmanager
def answering(ledger: OldLedger, conninfo: str) -> Iterator[Callable[[Request], Answer]]:
    """Today's API on a restored ledger, without background loops: nothing is recorded."""
    app = create_api(ledger.settings, conninfo, ledger.clock)
    with asyncio.Runner() as runner:
        lifespan = app.router.lifespan_context(app)
        runner.run(lifespan.__aenter__())
        app.state.services.of(ReadNotes).stop()
        # Health tells the last position that was heard of, and a slow start hears late.
        runner.run(app.state.services.positions.wait(1))
        try:
            yield lambda request: runner.run(_ask(app, request, ledger.keys))
        finally:
            runner.run(lifespan.__aexit__(None, None, None))


async def _ask(app: Any, request: Request, keys: dict[str, str]) -> Answer:
    """Call the application as the HTTP server does; an HTTP client would take most of the time."""
    path, _, parameters = request.path.partition("?")
    headers = {"host": "ledger.test", **headers_of(request, keys)}
    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": request.method,
        "scheme": "http",
        "path": unquote(path),
        "raw_path": path.encode(),
        "query_string": parameters.encode(),
        "headers": [(name.encode(), value.encode()) for name, value in headers.items()],
        "server": ("ledger.test", 80),
        "client": ("127.0.0.1", 1),
    }
    received = iter([{"type": "http.request", "body": b"", "more_body": False}])
    sent: list[Any] = []

    async def receive() -> Any:
        for message in received:
            return message
        return await asyncio.Future()  # the client stays

    async def send(message: Any) -> None:
        sent.append(message)

    await app(scope, receive, send)
    start, *parts = sent
    return Answer(
        start["status"],
        {name.decode().lower(): value.decode() for name, value in start["headers"]},
        b"".join(part.get("body", b"") for part in parts),
    )
