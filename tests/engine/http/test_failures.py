"""Failed authentications are counted and told by network (contract, Access)."""

import asyncio
import re

import pytest

from ledger.app.settings import Settings
from ledger.engine.http.machinery.failures import Failures, network_of
from tests.support.data_dirs import MASTER_KEY
from tests.support.edge import Edge, edge_of

FORM = "application/x-www-form-urlencoded"
LOGGED = "failed authentications in a minute: "


def failures(edge: Edge) -> float:
    found = re.search(
        r"^ledger_authentication_failures_total (\S+)$", edge.get("/metrics").text, re.M
    )
    assert found is not None
    return float(found[1])


def lines(caplog: pytest.LogCaptureFixture) -> list[str]:
    messages = [record.getMessage() for record in caplog.records]
    return [message.removeprefix(LOGGED) for message in messages if message.startswith(LOGGED)]


def test_refused_tokens_are_counted_and_logged_without_the_token(
    conninfo: str, caplog: pytest.LogCaptureFixture
) -> None:
    with edge_of(Settings(master_key=MASTER_KEY), conninfo) as edge:
        before = failures(edge)
        unknown = "elk_" + "A" * 43
        for token in (unknown, "not.a.token", "elk_short"):
            assert edge.get("/v1/execution", token).status_code == 401
        form = {"content": f"token={unknown}", "headers": {"content-type": FORM}}
        assert edge.post("/ui/sign-in", **form).status_code == 401
        assert failures(edge) == before + 4
        # Nobody has tried to be anybody.
        assert edge.get("/v1/execution", headers={"authorization": ""}).status_code == 401
        assert edge.get("/v1/execution").status_code == 200
        assert failures(edge) == before + 4
        assert lines(caplog) == [], "the minute has not ended"
    (line,) = lines(caplog)
    assert line == "4 from 127.0.0.0/24"
    assert unknown not in caplog.text


def test_a_line_names_the_twenty_most_frequent_networks(caplog: pytest.LogCaptureFixture) -> None:
    async def attack() -> None:
        failures = Failures(every_seconds=0.01)
        for number in range(1, 26):
            for _ in range(number):
                failures.note(f"10.0.{number}.{number}")
        while not lines(caplog):
            await asyncio.sleep(0)

    asyncio.run(attack())
    (line,) = lines(caplog)
    *named, rest = line.split(", ")
    assert named == [f"{number} from 10.0.{number}.0/24" for number in range(25, 5, -1)]
    assert rest == "15 from other networks"


@pytest.mark.parametrize(
    ("peer", "network"),
    [
        ("203.0.113.77", "203.0.113.0/24"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("::ffff:203.0.113.77", "203.0.113.0/24"),
        ("fe80::1%eth0", "fe80::/64"),
        ("testclient", "an unknown address"),
        (None, "an unknown address"),
    ],
)
def test_an_address_is_shown_by_its_network(peer: str | None, network: str) -> None:
    assert network_of(peer) == network
