"""A ledger that commit 57058cd wrote opens, verifies and answers as it did then.

``tests/fixtures/README.md`` says how the ledger was made. The ledger has every type of event, fact
and command of that commit.
"""

import base64
import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ledger.domain.execution_events import CheckInVoided
from ledger.postgres.embedded import EmbeddedPostgres
from scripts.bench.corpus_request import Answer, Request, digest_of
from tests.support.decision_tables import FOLDED, assert_decision_tables_match_log
from tests.support.rebuilding import leftover_tables, verify_all
from tests.support.restored import OldLedger, answering
from tests.support.sealing import checked
from tests.support.verifier import verifier
from tests.support.views import query
from tests.support.webhooks import events_of

OLD_LEDGER = OldLedger("57058cd")
TOPICS = 32

Ask = Callable[[Request], Answer]


@pytest.fixture(scope="module")
def restored(server: EmbeddedPostgres) -> Iterator[str]:
    with OLD_LEDGER.restored(server.url) as conninfo:
        yield conninfo


@pytest.fixture(scope="module")
def ask(restored: str) -> Iterator[Ask]:
    with answering(OLD_LEDGER, restored) as ask:
        yield ask


def is_tag_alone(request: Request) -> bool:
    """Whether the answer has the tag of a line or run but no body, and nothing can be left out."""
    has_no_body = request.method == "HEAD" or ("if-none-match", "*") in request.headers
    return request.path.startswith(("/v1/execution/", "/v1/runs/")) and has_no_body


def is_for_pending(request: Request) -> bool:
    """Whether the request is for pending deliveries, of which some are retrying now."""
    return "/deliveries?" in request.path and "pending" in request.path


def is_of_no_organization(request: Request) -> bool:
    """Whether an administrator asks for the audit log of no organization, which was refused."""
    path, _, query = request.path.partition("?")
    is_audit = path in ("/v1/audit-logs", "/v1/audit-logs/export")
    return is_audit and request.role == "admin" and "organization_id" not in query


def test_every_event_decodes(restored: str) -> None:
    events = events_of(restored)
    assert len({event.body.TOPIC for event in events}) == TOPICS
    assert [event.position for event in events] == list(range(1, len(events) + 1))


def test_decision_tables_equal_the_fold_of_the_log(restored: str) -> None:
    # No key could be rotated then.
    expected = {table.name for table in FOLDED} - {"former_secret"}
    assert assert_decision_tables_match_log(restored) == expected


def test_the_seal_verifies(restored: str, tmp_path: Path) -> None:
    found, faults = checked(restored, tmp_path)
    assert faults == []
    assert (found.events, found.unsealed) == (len(events_of(restored)), 0)


def test_views_equal_a_replay_of_the_log(restored: str) -> None:
    assert query(restored, "SELECT name FROM ledger.projection WHERE stopped_at IS NOT NULL") == []
    assert verify_all(restored) == []


def test_no_table_of_an_earlier_version_of_a_view_is_left(restored: str) -> None:
    assert leftover_tables(restored) == []
    assert query(restored, "SELECT to_regclass('ledger.run_version')") == [(None,)]


def test_the_inclusion_of_each_event_can_be_proved(ask: Ask) -> None:
    def log(path: str) -> bytes:
        answer = ask(Request("admin", f"/v1/log/{path}"))
        assert answer.status == 200, answer.body
        return answer.body

    size, root = verifier.open_checkpoint(log("checkpoint").decode(), log("key").decode())
    assert size >= TOPICS
    for position in range(1, size + 1):
        proof = json.loads(log(f"proof/inclusion?position={position}&size={size}"))
        hashes = [base64.b64decode(one) for one in proof["hashes"]]
        leaf = log(f"entries/{position}")
        assert verifier.root_with_leaf(leaf, proof["leaf_index"], size, hashes) == root, position


def test_each_event_names_its_fact_and_voids_stay_as_they_were_recorded(
    ask: Ask, restored: str
) -> None:
    lines = ask(Request("admin", "/v1/events/export")).body.splitlines()
    told = {event["position"]: event for event in map(json.loads, lines)}
    assert len(told) > 100
    voids = 0
    for event in (e for e in events_of(restored) if e.position in told):
        fact = event.fact and {"source": event.fact.source, "id": event.fact.id}
        assert told[event.position]["fact"] == fact
        if isinstance(event.body, CheckInVoided):
            voids += 1
            assert told[event.position]["causation_id"] is None
    assert voids >= 2
    assert {event["fact"] is None for event in told.values()} == {True, False}


def test_every_read_has_its_recorded_answer(ask: Ask) -> None:
    answers = [
        pair
        for pair in OLD_LEDGER.answers
        if not any(
            is_new(pair[0]) for is_new in (is_tag_alone, is_for_pending, is_of_no_organization)
        )
    ]
    assert len(answers) > 3_000
    different = [
        f"{request}: {answer.status} {answer.body[:200]!r}"
        for request, digest in answers
        if not digest_of(request, answer := ask(request)).startswith(digest)
    ]
    assert different[:10] == []
