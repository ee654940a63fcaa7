"""Wrong clocks around a standby: a read node reports them, and uses its database's clock."""

import re
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from datetime import timedelta

import httpx
import pytest

from ledger.app.composition.api import create_reading_api
from ledger.app.composition.database import find_all
from ledger.app.composition.writing import utc_now
from ledger.app.settings import Settings
from tests.support.data_dirs import MASTER_KEY
from tests.support.edge import entered, run_on
from tests.support.embedded import query
from tests.support.facts import activation
from tests.support.served import post
from tests.support.soak import repeated
from tests.support.views import until
from tests.whole.standby.conftest import Cluster

LINE = "LIN-26-700001"


Get = Callable[..., httpx.Response]


@contextmanager
def shifted(cluster: Cluster, hours: int) -> Iterator[Get]:
    """The GETs of a worker of a read node whose clock is that many hours ahead."""
    settings = Settings(master_key=MASTER_KEY, data_dir=cluster.folder / "shifted")
    _, reading = find_all(settings, cluster.standby.url, print)
    app = create_reading_api(settings, reading, lambda: utc_now() + timedelta(hours=hours))

    @asynccontextmanager
    async def serving() -> AsyncIterator[httpx.AsyncClient]:
        headers = {"authorization": f"Bearer {cluster.token}"}
        transport, url = httpx.ASGITransport(app), "http://ledger.test"
        async with (
            app.router.lifespan_context(app),
            httpx.AsyncClient(transport=transport, base_url=url, headers=headers) as client,
        ):
            yield client

    with entered(serving()) as (client, loop):
        yield lambda path, **options: run_on(loop, client.get(path, **options))


def gauge(get: Get, name: str) -> float:
    return float(re.findall(rf"^{name} (\S+)$", get("/metrics").text, re.MULTILINE)[0])


@contextmanager
def replaying_late(cluster: Cluster, delay: str) -> Iterator[None]:
    """Within the block the standby replays each commit that much later."""
    reload_ = "SELECT pg_reload_conf()"
    query(cluster.standby.url, f"ALTER SYSTEM SET recovery_min_apply_delay = '{delay}'")
    query(cluster.standby.url, reload_)
    try:
        yield
    finally:
        query(cluster.standby.url, "ALTER SYSTEM RESET recovery_min_apply_delay")
        query(cluster.standby.url, reload_)
        cluster.standby.catch_up()


@pytest.mark.parametrize("hours", repeated([1, -1]))
def test_a_read_node_with_a_wrong_clock_says_so_and_answers_reads(
    cluster: Cluster, hours: int, caplog: pytest.LogCaptureFixture
) -> None:
    with cluster.client(cluster.node) as writes:
        post(writes, activation(LINE))
        position = writes.get(f"/v1/execution/{LINE}").headers["ledger-position"]
    with shifted(cluster, hours) as get:
        until(lambda: get("/readyz").json().get("clock"), "the wrong clock to be found")
        ready = get("/readyz")
        assert ready.status_code == 503
        assert ready.json() == {"status": "unavailable", "database": "ok", "clock": "skewed"}
        answer = get(f"/v1/execution/{LINE}", headers={"ledger-min-position": position})
        assert answer.status_code == 200, answer.text
        assert gauge(get, "ledger_clock_skew_seconds") == pytest.approx(3600 * hours, abs=60)
        assert gauge(get, "ledger_beat_age_seconds") < 60, "by the clock of the database"
    assert caplog.text.count("s off") == 1


def test_beats_that_come_old_are_behind_by_the_standbys_clock_and_the_reason_is_named(
    cluster: Cluster,
) -> None:
    with shifted(cluster, -1) as get, replaying_late(cluster, "7s"):

        def why() -> str:
            return str(get("/readyz").json().get("why"))

        def is_named() -> bool:
            refused = get("/v1/execution")
            assert (refused.status_code, refused.json()["code"]) == (503, "behind")
            return "the clocks of the standby and the primary differ" in refused.json()["detail"]

        until(lambda: "beats come" in why(), "beats that are old", 20.0)
        assert get("/readyz").json()["clock"] == "skewed"
        until(is_named, "the reason in a refusal", 20.0)
        with cluster.standby.paused():
            until(lambda: "last beat came" in why(), "the end of the beats", 10.0)


def test_a_read_node_with_a_right_clock_shows_no_skew(
    cluster: Cluster, reads: httpx.Client
) -> None:
    until(lambda: reads.get("/readyz").status_code == 200, "the read node")
    assert abs(gauge(reads.get, "ledger_clock_skew_seconds")) < 5
