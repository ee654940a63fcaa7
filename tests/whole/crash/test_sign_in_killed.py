"""Sessions on two nodes, by real time: of killed nodes, and of a grant that leaves the file."""

import contextlib
import os
import re
import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from tests.support.databases import execute
from tests.support.nodes import two_nodes
from tests.support.openid import FINANCE, OpenIdProvider, write_grants
from tests.support.receiver import Answer, Request
from tests.support.served import Served
from tests.support.views import until

PUBLIC = "http://127.0.0.1:8000"
AGE = """
UPDATE ledger.session SET checked_at = checked_at - interval '6 minutes',
    asked_at = asked_at - interval '6 minutes'
"""
"""Makes the claims of all sessions older than five minutes."""


@pytest.fixture
def openid() -> Iterator[OpenIdProvider]:
    with OpenIdProvider() as openid:
        yield openid


@pytest.fixture
def nodes(conninfo: str, folder: Path, openid: OpenIdProvider) -> Iterator[tuple[Served, Served]]:
    """Two nodes on one database, which trust the provider."""
    write_grants(folder / "grants.toml", FINANCE)
    settings = openid.settings(folder) | {
        "public_url": PUBLIC,
        "oidc_grants": folder / "grants.toml",
    }
    environment = {f"LEDGER_{name.upper()}": str(value) for name, value in settings.items()}
    with two_nodes(conninfo, folder, **environment) as nodes:
        yield nodes


def sign_in(browser: httpx.Client, node: Served) -> None:
    """Sign in by the provider; the browser keeps the session's cookie."""
    own = {"sec-fetch-site": "same-origin"}
    begun = browser.get(f"{node.address}/ui/oidc/sign-in", headers=own)
    assert begun.status_code == 303, begun.text
    back = httpx.get(begun.headers["location"]).headers["location"]
    done = browser.get(back.replace(PUBLIC, node.address, 1), headers=own)
    assert done.status_code == 200, done.text
    assert re.search(r'http-equiv="refresh"', done.text)


def kill(node: Served) -> None:
    """Kill the node's supervisor and all of its processes at once."""
    for pid in [node.process.pid, *node.processes()]:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def status(browser: httpx.Client, node: Served) -> int:
    """The status of the board; the port is no part of a cookie's place."""
    return browser.get(f"{node.address}/ui").status_code


@pytest.mark.crash
def test_a_session_outlives_the_node_that_answered_the_callback(
    nodes: tuple[Served, Served],
) -> None:
    first, second = nodes
    with httpx.Client(timeout=20, verify=False) as browser:
        sign_in(browser, first)
        kill(first)
        assert status(browser, second) == 200


@pytest.mark.crash
@pytest.mark.parametrize("is_used", [False, True], ids=["before the provider", "after it"])
def test_a_refresh_whose_node_is_killed_leaves_no_session_stuck(
    nodes: tuple[Served, Served], conninfo: str, openid: OpenIdProvider, is_used: bool
) -> None:
    """A token that the provider has replaced meanwhile may end the session, in words."""
    first, second = nodes
    arrived = threading.Event()

    def held(request: Request) -> Answer:
        if is_used:
            openid._token(request)
        arrived.set()
        return Answer(action="hang")

    with httpx.Client(timeout=30, verify=False) as browser, ThreadPoolExecutor(1) as other:
        sign_in(browser, first)
        execute(conninfo, AGE)
        openid.answers["token"] = held
        with httpx.Client(timeout=30, verify=False, cookies=browser.cookies) as apart:
            request = other.submit(status, apart, first)
            assert arrived.wait(15), "no refresh"
            kill(first)
            assert isinstance(request.exception(20), httpx.TransportError)
        openid.answers.clear()
        execute(conninfo, AGE)
        answers = [status(browser, second) for _ in range(3)]
        assert set(answers) <= {200, 401}, answers
        until(lambda: openid.count("refresh_token") >= 1 + is_used, "another refresh", 40.0)
        if not is_used:
            assert status(browser, second) == 200
        else:
            # The provider has heard an old token: the session ends, and a new one begins.
            assert status(browser, second) == 401
            sign_in(browser, second)
        assert status(browser, second) == 200


@pytest.mark.crash
def test_a_group_that_leaves_the_file_is_refused_on_both_nodes_within_six_seconds(
    nodes: tuple[Served, Served], folder: Path
) -> None:
    """Each node has a session of its own: the end of one session alone would reach both nodes."""
    with contextlib.ExitStack() as stack:
        browsers = [stack.enter_context(httpx.Client(timeout=20, verify=False)) for _ in nodes]
        for browser, node in zip(browsers, nodes, strict=True):
            sign_in(browser, node)

        def statuses() -> list[int]:
            return [status(*pair) for pair in zip(browsers, nodes, strict=True)]

        assert statuses() == [200, 200], "both nodes have just looked at the file"
        began = time.monotonic()
        write_grants(folder / "grants.toml", FINANCE | {"value": "another group"})
        until(lambda: statuses() == [401, 401], "both refusals", 6.0)
        assert time.monotonic() - began < 6.0
