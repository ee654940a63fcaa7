"""A ledger that an earlier version wrote is taken over by a service, and goes on.

``tests/fixtures/README.md`` says how the ledgers were made. Each has every type of event, fact and
command of its version.
"""

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from ledger.app.composition.database import open_vault, prepare_database
from ledger.engine.log.nodes import node_id_in
from ledger.engine.postgres.embedded import EmbeddedPostgres
from ledger.features.lines.model.execution_events import CheckedIn
from ledger.features.proof.sealing.sealer import Sealer
from ledger.features.proof.sealing.tiles import WIDTH
from ledger.features.proof.sealing.watch import WitnessWatch
from scripts.bench.corpus_request import Answer, Request, digest_of
from tests.support.decision_tables import FOLDED, assert_decision_tables_match_log
from tests.support.facts import activation, fact
from tests.support.rebuilding import (
    NAMES,
    leftover_tables,
    patient_rebuilder,
    rebuild,
    tracking,
    verify_all,
    view,
)
from tests.support.restored import FOLDER, OLD_LEDGERS, OldLedger, answering
from tests.support.sealing import checked, keep_witness
from tests.support.service import serving
from tests.support.soak import repeated
from tests.support.verifier import verifier
from tests.support.views import head, led, query, until
from tests.support.webhooks import events_of

LINE = "LIN-26-900001"
TOPICS = 37
OTHER_VERSION = "search"
"""The view that is taken for one of another version, so that the service builds it anew."""
CHANGED = {"execution", "run", "event", "directory", "webhook"}
"""The views that later versions have changed."""
ADDED = {"watch"}
"""The views that later versions have added, and that answers of then need now."""


class Sealed(NamedTuple):
    """A signed checkpoint, and the number of the events under it."""

    size: int
    note: str


class Continued(NamedTuple):
    """The ledger after new events, and the files that an auditor has of it."""

    conninfo: str
    folder: Path
    """The folder of the last checkpoint outside of the database."""
    before: Sealed
    """The last checkpoint of the earlier version."""
    outcomes: list[str]
    """Of a fact that the earlier version has recorded, and of its void."""
    ask: Callable[[Request], Answer]

    @property
    def positions(self) -> list[int]:
        """The position of each event, in order: in another PostgreSQL, numbers are skipped."""
        every = "SELECT notification_id FROM ledger.ledger_events ORDER BY 1"
        return [position for (position,) in query(self.conninfo, every)]

    def log(self, path: str) -> bytes:
        """The answer of a route of the sealed log."""
        answer = self.ask(Request("admin", f"/v1/log/{path}"))
        assert answer.status == 200, answer.body
        return answer.body


@pytest.fixture(scope="module", params=repeated(OLD_LEDGERS[::-1]), ids=lambda old: old.version)
def old(request: pytest.FixtureRequest) -> OldLedger:
    ledger: OldLedger = request.param
    return ledger


@pytest.fixture(scope="module")
def restored(old: OldLedger, server: EmbeddedPostgres) -> Iterator[str]:
    with old.restored(server.url) as conninfo:
        prepare_database(old.settings, conninfo)
        for name in (*CHANGED, *ADDED):
            rebuild(conninfo, view(name))
        yield conninfo


@pytest.fixture(scope="module")
def different(old: OldLedger, restored: str) -> list[str]:
    """The requests whose answers differ from those of then. Nothing has been recorded since."""
    with answering(old, restored) as ask:
        return [
            f"{request}: {answer.status} {answer.body[:200]!r}"
            for request, digest in old.answers
            if digest_of(request, answer := ask(request)) != digest
        ]


@pytest.fixture(scope="module")
def continued(
    old: OldLedger,
    restored: str,
    different: list[str],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Continued]:
    """A service takes the ledger over, records as many facts as begin a new tile, and seals."""
    del different  # asked before the service records anything
    folder = tmp_path_factory.mktemp("data")
    settings = old.settings.model_copy(update={"data_dir": folder})
    (before,) = query(
        restored, "SELECT size, note FROM ledger.checkpoint ORDER BY size DESC LIMIT 1"
    )
    query(
        restored,
        "UPDATE ledger.projection SET version = version - 1 WHERE name = %s",
        OTHER_VERSION,
    )
    outcomes = asyncio.run(_go_on(old, restored, facts=WIDTH - before[0] % WIDTH))
    keep_witness(restored, settings.witness_folder)
    watch = WitnessWatch(node_id_in(settings.data_dir), settings.witness_folder, patience=0.0)
    sealer = Sealer(led(restored, "sealer"), open_vault(settings), old.clock, watch)
    sealer.run_once()
    sealer.disconnect()
    with answering(old, restored) as ask:
        yield Continued(restored, settings.witness_folder, Sealed(*before), outcomes, ask)


async def _go_on(old: OldLedger, conninfo: str, facts: int) -> list[str]:
    with patient_rebuilder() as gate:
        async with serving(old.settings, conninfo, old.clock) as service:
            outcomes = await service.report(*_of_a_check_in(conninfo))
            check_ins = [fact("execution.checked_in", LINE, {"hours": 1}) for _ in range(facts)]
            await service.accept(activation(LINE), *check_ins)
            gate.set()  # until here the service builds no view
            current = {name: (view(name).version, head(conninfo), False) for name in NAMES}
            await asyncio.to_thread(
                until,
                lambda: {n: (v, p, s) for n, (v, _, p, s) in tracking(conninfo).items()} == current,
                "the views",
            )
            await asyncio.to_thread(until, lambda: not leftover_tables(conninfo), "the clean-up")
            return [item["outcome"] for item in outcomes]


def _of_a_check_in(conninfo: str) -> list[dict[str, Any]]:
    """The fact of the last check-in of then, as it was sent, and its void."""
    event = [event for event in events_of(conninfo) if isinstance(event.body, CheckedIn)][-1]
    assert isinstance(event.body, CheckedIn)
    assert event.fact is not None
    line, source, id = event.originator_id, event.fact.source, event.fact.id
    return [
        fact("execution.checked_in", line, {"hours": event.body.hours}, source=source, id=id),
        fact("execution.check_in_voided", line, {"fact_id": id}, source=source),
    ]


def test_every_kept_ledger_is_tested() -> None:
    assert set(FOLDER.glob("*.dump")) == {old.file for old in OLD_LEDGERS}


def test_every_read_has_its_recorded_answer(old: OldLedger, different: list[str]) -> None:
    assert len(list(old.answers)) > 400
    assert different[:10] == []


def test_the_past_reads_as_it_did(old: OldLedger, continued: Continued) -> None:
    past = [(request, digest) for request, digest in old.answers if "as_of=" in request.path]
    assert len(past) > 20
    for request, digest in past:
        assert digest_of(request, continued.ask(request)) == digest, request


def test_every_event_decodes(continued: Continued) -> None:
    events = events_of(continued.conninfo)
    of_then = events[: continued.before.size]
    assert [event.position for event in of_then] == list(range(1, len(of_then) + 1))
    assert len({event.body.TOPIC for event in of_then}) == TOPICS


def test_a_fact_of_then_is_known_by_its_identity(continued: Continued) -> None:
    assert continued.outcomes == ["duplicate", "recorded"]


def test_decision_tables_equal_the_fold_of_the_log(continued: Continued) -> None:
    expected = {table.name for table in FOLDED} - {"organization_watch"}  # then without watches
    assert assert_decision_tables_match_log(continued.conninfo) == expected


def test_views_equal_a_replay_of_the_log(continued: Continued) -> None:
    generations = {name: made for name, (_, made, *_) in tracking(continued.conninfo).items()}
    rebuilt = {OTHER_VERSION, *CHANGED}
    assert generations == {name: 2 if name in rebuilt else 1 for name in NAMES}
    assert verify_all(continued.conninfo) == []


def test_the_log_verifies(continued: Continued) -> None:
    found, faults = checked(continued.conninfo, continued.folder)
    assert faults == []
    assert (found.events, found.unsealed) == (len(continued.positions), 0)
    assert found.events // WIDTH > continued.before.size // WIDTH


def test_events_of_both_versions_are_proven_offline(continued: Continued) -> None:
    log = continued.log
    key, checkpoint = log("key").decode(), log("checkpoint").decode()
    for position in continued.positions[::11]:
        leaf = log(f"entries/{position}")
        proof = log(f"proof/inclusion?position={position}").decode()
        assert verifier.proves_inclusion(key, checkpoint, leaf, proof), position


def test_a_leaf_that_was_changed_is_not_proven(continued: Continued) -> None:
    log, size = continued.log, continued.before.size
    key, checkpoint = log("key").decode(), log("checkpoint").decode()
    for position in continued.positions[size - 1 : size + 1]:
        proof = log(f"proof/inclusion?position={position}").decode()
        forged = log(f"entries/{position}").replace(b'{"v":2', b'{"v":1')
        assert not verifier.proves_inclusion(key, checkpoint, forged, proof)


def test_the_log_only_grew_over_the_change_of_version(continued: Continued) -> None:
    log, before = continued.log, continued.before
    key, checkpoint = log("key").decode(), log("checkpoint").decode()
    size = len(continued.positions)
    proof = log(f"proof/consistency?from={before.size}&to={size}").decode()
    assert verifier.proves_consistency(key, before.note, checkpoint, proof)
    assert not verifier.proves_consistency(key, checkpoint, before.note, proof)
