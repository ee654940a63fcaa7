"""A standby that lags gives no stale answer, and none that later changes."""

import random
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

import httpx
import psycopg
import pytest

from ledger.engine.postgres.pool.scope import FOR_EVERYONE
from ledger.engine.postgres.session import options_of
from ledger.engine.values.values import format_id, format_instant
from ledger.engine.views.statements import position_of
from tests.support.facts import activation, fact
from tests.support.served import post
from tests.support.views import until
from tests.whole.standby.conftest import Cluster

LINE = "LIN-26-600001"
SEED = 29
LONG_AGO = datetime(2020, 1, 1, tzinfo=UTC)


def behind(answer: httpx.Response) -> None:
    assert (answer.status_code, answer.json()["code"]) == (503, "behind"), answer.text
    assert answer.headers["retry-after"] == "1"


def now() -> str:
    return format_instant(datetime.now(UTC))


def event_id(position: int) -> str:
    return format_id("EVT", datetime.now(UTC).year, position)


def check_in(client: httpx.Client, note: str) -> int:
    """Record a check-in of the line; return its position."""
    written = post(client, fact("execution.checked_in", LINE, {"note": note}))
    assert written.status_code == 201, written.text
    return int(written.headers["ledger-position"])


@pytest.fixture(scope="module", autouse=True)
def line(cluster: Cluster) -> None:
    with cluster.client(cluster.node) as client:
        assert post(client, activation(LINE)).status_code == 201


@pytest.fixture(autouse=True)
def ready(cluster: Cluster, reads: httpx.Client) -> None:
    until(lambda: reads.get("/readyz").status_code == 200, "the read node")


def test_a_position_that_is_not_replicated_is_waited_for_then_behind(
    cluster: Cluster, writes: httpx.Client, reads: httpx.Client
) -> None:
    with cluster.standby.paused():
        position = check_in(writes, "paused")
        began = time.monotonic()
        behind(reads.get(f"/v1/execution/{LINE}", headers={"ledger-min-position": str(position)}))
        assert time.monotonic() - began > 1.5
        # Without a position the read is answered, from what is there.
        answer = reads.get(f"/v1/execution/{LINE}")
        assert answer.status_code == 200
        assert int(answer.headers["ledger-position"]) < position
    answer = reads.get(f"/v1/execution/{LINE}", headers={"ledger-min-position": str(position)})
    assert int(answer.headers["ledger-position"]) >= position


def test_an_instant_is_answered_once_a_later_event_or_beat_is_there(
    cluster: Cluster, writes: httpx.Client, reads: httpx.Client
) -> None:
    check_in(writes, "known")
    before = now()
    unchanged = reads.get(f"/v1/execution/{LINE}?as_of={before}")
    assert unchanged.status_code == 200, "the next beat comes within a second"
    with cluster.standby.paused():
        after = now()
        check_in(writes, "not replicated")
        behind(reads.get(f"/v1/execution/{LINE}?as_of={now()}"))
        behind(reads.get(f"/v1/execution/{LINE}?as_of={after}"))
        assert reads.get(f"/v1/execution/{LINE}?as_of={before}").content == unchanged.content
    answer = reads.get(f"/v1/execution/{LINE}?as_of={after}")
    assert answer.status_code == 200
    assert answer.content == writes.get(f"/v1/execution/{LINE}?as_of={after}").content
    later = datetime.now(UTC) + timedelta(hours=1)
    assert reads.get(f"/v1/execution/{LINE}?as_of={format_instant(later)}").status_code == 422


def test_without_a_beat_for_five_seconds_every_read_is_behind(
    cluster: Cluster, reads: httpx.Client
) -> None:
    paths = [
        f"/v1/execution/{LINE}",
        "/v1/execution?as_of=2026-01-01",
        "/v1/events",
        "/v1/events/stream",
        "/v1/log/checkpoint",
        "/v1/nothing",
    ]
    with cluster.standby.paused():
        paused_at = time.monotonic()
        until(lambda: reads.get("/readyz").status_code == 503, "the end of patience", 30.0)
        assert time.monotonic() - paused_at > 3
        assert reads.get("/readyz").json()["status"] == "behind"
        for path in paths:
            behind(reads.get(path))
        page = reads.get("/ui")
        assert (page.status_code, "more than five seconds behind" in page.text) == (503, True)
        assert reads.post("/v1/facts").json()["code"] == "read_only"
        assert reads.get("/healthz").status_code == 200
        assert reads.get("/ui/static/page.css").status_code == 200
    until(lambda: reads.get("/readyz").status_code == 200, "the read node")
    assert reads.get(f"/v1/execution/{LINE}").status_code == 200


def test_a_standby_answers_no_instant_as_settled_that_it_does_not_know(
    cluster: Cluster, writes: httpx.Client
) -> None:
    """Appends in flight may have been awaited on the primary, by another connection."""
    check_in(writes, "settled")
    options = options_of(cluster.standby.url, FOR_EVERYONE)
    with psycopg.connect(cluster.standby.url, options=options) as connection:
        for at, is_found in ((datetime.now(UTC) + timedelta(seconds=30), False), (LONG_AGO, True)):
            values = {"as_of": at, "settled": True}
            ((position,),) = connection.execute(position_of(True, "execution"), values).fetchall()
            assert (position is not None) == is_found


class PastAnswer(NamedTuple):
    """An answer as of the past, to be requested again."""

    path: str
    content: bytes


@contextmanager
def lagging(cluster: Cluster) -> Iterator[None]:
    """Within the block the standby pauses again and again, for up to two seconds."""
    ended, dice = threading.Event(), random.Random(SEED)

    def pause() -> None:
        while not ended.wait(dice.uniform(0, 0.4)):
            with cluster.standby.paused():
                ended.wait(dice.choice([0.05, 0.3, 1.0, 2.0]))

    thread = threading.Thread(target=pause)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def read_beside_writes(cluster: Cluster, minimums: int, instants: int) -> None:
    """Read from a lagging standby during writes. No answer may be stale, or change later."""
    counts, waits, wrong = {"at least": 0, "as of": 0}, [0], list[str]()
    answers, written = list[PastAnswer](), [1]
    done, lock, begun = threading.Event(), threading.Lock(), datetime.now(UTC)

    def write() -> None:
        with cluster.client(cluster.node) as client:
            number = 0
            while not done.wait(0.005):
                number += 1
                written[0] = check_in(client, f"walk {number}")

    def claim(kind: str, most: int) -> bool:
        with lock:
            counts[kind] += 1
            return counts[kind] <= most

    def is_answered(answer: httpx.Response) -> bool:
        if answer.status_code == 503:
            assert answer.json()["code"] == "behind", answer.text
        else:
            assert answer.status_code == 200, answer.text
        with lock:
            waits[0] += answer.elapsed.total_seconds() > 0.2
        return answer.status_code == 200

    def read_at_least() -> None:
        with cluster.client(cluster.reader) as client:
            while claim("at least", minimums):
                position = written[0]
                path = f"/v1/events?after={event_id(position - 1)}&limit=1"
                if position % 2:
                    path = f"/v1/execution/{LINE}"
                answer = client.get(path, headers={"ledger-min-position": str(position)})
                if is_answered(answer):
                    reached = int(answer.headers["ledger-position"])
                    events = answer.json()["data"]
                    if reached < position or events == []:
                        wrong.append(f"{reached} for {position}: {path}")

    def read_as_of(number: int) -> None:
        dice = random.Random(SEED + number)
        with cluster.client(cluster.reader) as client:
            while claim("as of", instants):
                ago = timedelta(seconds=dice.choice([0, 0.02, 0.5, 1.5]))
                at = max(begun, datetime.now(UTC) - ago)
                path = dice.choice([f"/v1/execution/{LINE}", "/v1/execution/summary"])
                if dice.random() < 0.3:
                    path = f"/v1/execution/{LINE}/usage?from=2026-01-01&to=2027-01-01&"
                path += f"{'' if path.endswith('&') else '?'}as_of={format_instant(at)}"
                answer = client.get(path)
                if is_answered(answer):
                    answers.append(PastAnswer(path, answer.content))

    with lagging(cluster):
        writer = threading.Thread(target=write)
        readers = [threading.Thread(target=read_at_least) for _ in range(6)]
        readers += [threading.Thread(target=read_as_of, args=(n,)) for n in range(6)]
        writer.start()
        for thread in readers:
            thread.start()
        for thread in readers:
            thread.join()
        done.set()
        writer.join()
    cluster.standby.catch_up()
    assert wrong == []
    assert len(answers) > instants / 10
    assert waits[0] > 5, "the standby hardly lagged"
    with cluster.client(cluster.reader) as reader, cluster.client(cluster.node) as node:
        until(lambda: reader.get("/readyz").status_code == 200, "the read node")
        for path, content in answers:
            assert node.get(path).content == content, path
            assert reader.get(path).content == content, path


def test_no_answer_of_a_lagging_standby_is_stale_or_changes(cluster: Cluster) -> None:
    read_beside_writes(cluster, 150, 40)


@pytest.mark.soak
def test_of_ten_thousand_answers_of_a_lagging_standby_none_is_stale_or_changes(
    cluster: Cluster,
) -> None:
    read_beside_writes(cluster, 10_000, 2_000)
