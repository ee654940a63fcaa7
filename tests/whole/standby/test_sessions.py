"""Sessions on a read node: it takes them as its standby has them, and notes no use."""

from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.whole.standby.conftest import Cluster


@pytest.fixture
def browser(cluster: Cluster) -> Iterator[httpx.Client]:
    """A browser that has signed in at the node that writes; a port is no part of a cookie's place.

    The standby has the session.
    """
    with httpx.Client(verify=False, timeout=20) as browser:
        answer = browser.post(f"{cluster.node.address}/ui/sign-in", data={"token": cluster.token})
        assert answer.status_code == 303, answer.text
        cluster.standby.catch_up()
        yield browser


def sessions(cluster: Cluster) -> list[dict[str, Any]]:
    with cluster.client(cluster.node) as client:
        answer = client.get("/v1/sessions")
        assert answer.status_code == 200, answer.text
        return list(answer.json()["data"])


def test_a_read_node_accepts_a_session_and_moves_no_last_seen(
    cluster: Cluster, browser: httpx.Client
) -> None:
    before = sessions(cluster)
    assert before
    for _ in range(3):
        assert browser.get(f"{cluster.reader.address}/ui").status_code == 200
    cluster.standby.catch_up()
    assert sessions(cluster) == before


def test_a_session_that_ends_at_the_node_that_writes_ends_on_the_read_node(
    cluster: Cluster, browser: httpx.Client
) -> None:
    assert browser.get(f"{cluster.reader.address}/ui").status_code == 200
    with cluster.client(cluster.node) as client:
        for each in sessions(cluster):
            ended = client.delete(f"/v1/sessions/{each['id']}")
            assert ended.status_code in (200, 204), ended.text
    cluster.standby.catch_up()
    assert browser.get(f"{cluster.reader.address}/ui").status_code == 401


def test_a_read_node_lists_sessions_and_ends_none(cluster: Cluster, browser: httpx.Client) -> None:
    with cluster.client(cluster.reader) as client:
        listed = client.get("/v1/sessions")
        assert listed.status_code == 200, listed.text
        (first, *_) = listed.json()["data"]
        refused = client.delete(f"/v1/sessions/{first['id']}")
    assert (refused.status_code, refused.json()["code"]) == (503, "read_only")
    assert browser.get(f"{cluster.reader.address}/ui").status_code == 200
