"""``oidc-provider`` as a process of its own: a strict provider with logout by the back channel."""

import contextlib
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx

from tests.support.served import free_port
from tests.support.views import until

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "build/oidc/node_modules/oidc-provider/lib/index.js"
PROGRAM = Path(__file__).with_name("oidc_provider.mjs")
CLIENT, SECRET = "ledger-of-a-strict-provider", "a secret of the strict provider"


class StrictProvider:
    """A running provider, and the browser's cookies there."""

    def __init__(self, port: int) -> None:
        self.issuer = f"http://localhost:{port}"
        self.http = httpx.Client(base_url=self.issuer, verify=False)

    def person(self, sub: str, **claims: Any) -> None:
        """Sign this person in at the next visit; the claims hold at each refresh too."""
        assert self.http.post("/person", json={"sub": sub, **claims}).status_code == 204

    def visit(self, address: str, until_at: str) -> str:
        """Follow redirects at the provider until one leads to an address that begins so."""
        for _ in range(8):
            answer = self.http.get(address)
            assert answer.status_code in (302, 303), answer.text
            address = answer.headers["location"]
            if address.startswith(until_at):
                return address
        raise AssertionError(f"no way back: {address}")


@contextlib.contextmanager
def running_strict_provider(ledger: str, log: Path) -> Iterator[StrictProvider]:
    port = free_port()
    environment = os.environ | {
        "OIDC_PACKAGE": str(PACKAGE),
        "OIDC_PORT": str(port),
        "OIDC_LEDGER": ledger,
        "OIDC_CLIENT": CLIENT,
        "OIDC_SECRET": SECRET,
    }
    with log.open("wb") as output:
        process = subprocess.Popen(
            ["node", str(PROGRAM)], stdout=output, stderr=output, env=environment
        )
    try:
        until(
            lambda: process.poll() is not None or b"ready" in log.read_bytes(), "the provider", 30.0
        )
        assert process.poll() is None, log.read_text()
        provider = StrictProvider(port)
        with provider.http:
            yield provider
    finally:
        process.terminate()
        process.wait(10)
