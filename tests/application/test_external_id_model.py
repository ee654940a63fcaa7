"""Random facts about runs by RUN id and by external id, judged by a model that shares no code."""

import random
from dataclasses import dataclass, field
from typing import Any

import pytest

from ledger.intake.principal import Principal
from tests.support.decision_tables import assert_decision_tables_match_log
from tests.support.facts import WORKSPACE, activation, fact
from tests.support.ledger import NARROW, REPORTER, STRANGER, Ledger, new_id
from tests.support.log_checker import check
from tests.support.soak import repeated

BY = [REPORTER, REPORTER, NARROW, STRANGER]
SOURCES = ["/one", "/two"]
BEGUN = ("run.requested", "run.started")
RECORDED = None
GONE, LINE_NEEDED = (404, "not_found"), (422, "invalid_request")
STATE, TAKEN = (409, "invalid_state"), (409, "id_taken")

Verdict = tuple[int, str] | None
Tenant = tuple[str | None, str | None]


@dataclass
class ModelRun:
    line: str
    status: str
    parent: str | None
    name: tuple[str | None, str, str] | None = None


@dataclass
class Model:
    """The runs that were recorded, and the verdict about the next fact."""

    lines: dict[str, Tenant]
    runs: dict[str, ModelRun] = field(default_factory=dict)
    names: dict[tuple[str | None, str, str], str] = field(default_factory=dict)

    def sees(self, by: Principal, run: str | None) -> bool:
        return run in self.runs and self.reads(by, self.runs[run].line)

    def reads(self, by: Principal, line: str) -> bool:
        organization, workspace = self.lines[line]
        own = by.organization_id == organization
        return own and by.workspace_id in (None, workspace)

    def judge(self, event: dict[str, Any], by: Principal) -> Verdict:
        type, data, subject = event["type"], event["data"], event.get("subject")
        line, parent = data.get("service_line_id"), data.get("parent_run_id")
        key = self.key(event, by)
        named = self.names.get(key) if key is not None else None
        run = subject if subject is not None else named
        run = run if self.sees(by, run) else None
        unseen = named is not None and not self.sees(by, named)
        if type in BEGUN:
            hidden = unseen or (subject in self.runs and run is None)
            if line is not None and not self.reads(by, line):
                return GONE
            if line is None and run is None and not hidden:
                return LINE_NEEDED
        else:
            hidden = False
            if run is None or (key is not None and (named is None or unseen)):
                return GONE
        if parent is not None and not self.sees(by, parent):
            return GONE
        if hidden:
            return TAKEN
        return None if self.fits(type, line, run, key, named) else STATE

    def fits(
        self, type: str, line: str | None, run: str | None, key: Any, named: str | None
    ) -> bool:
        if run is None:
            return named is None
        known = self.runs[run]
        if key is not None and named != run and (named is not None or known.name is not None):
            return False
        if type == "run.requested":
            return False
        if type == "run.started":
            return known.status == "pending" and line in (None, known.line)
        if type == "run.completed":
            return known.status == "running"
        return known.status in ("pending", "running")

    def key(self, event: dict[str, Any], by: Principal) -> tuple[str | None, str, str] | None:
        name = event["data"].get("external_id")
        return None if name is None else (by.organization_id, event["source"], name)

    def record(self, event: dict[str, Any], by: Principal, run_id: str) -> None:
        type, data, key = event["type"], event["data"], self.key(event, by)
        status = {"run.requested": "pending", "run.started": "running"}.get(type, type[4:])
        run = self.runs.setdefault(run_id, ModelRun(data.get("service_line_id", ""), status, None))
        run.status = status
        run.parent = data.get("parent_run_id") or run.parent
        if type in BEGUN and key is not None:
            run.name, self.names[key] = key, run_id


def random_fact(chance: random.Random, model: Model, names: list[str]) -> dict[str, Any]:
    pick = chance.choice
    type = pick([*BEGUN, *BEGUN, "run.completed", "run.failed", "run.cancelled"])
    known = [*model.runs][-12:]
    data: dict[str, Any] = {}
    if chance.random() < 0.6:
        data["external_id"] = pick(names)
    subject = pick([None, None, pick(known or [None]), new_id("RUN")])
    if type in BEGUN:
        if type == "run.requested" or chance.random() < 0.6:
            data["service_line_id"] = pick([*model.lines])
        if chance.random() < 0.2:
            data["parent_run_id"] = pick([*known, new_id("RUN")])
    elif subject is None and "external_id" not in data:
        data["external_id"] = pick(names)
    return fact(type, subject, data, source=pick(SOURCES))


@pytest.mark.parametrize("seed", repeated(range(4), 2))
def test_each_fact_about_a_run_has_the_outcome_that_the_contract_says(
    own_ledger: Ledger, seed: int
) -> None:
    chance, lines = random.Random(seed), dict[str, Tenant]()
    for organization, workspace in (
        (REPORTER.organization_id, WORKSPACE),
        (NARROW.organization_id, NARROW.workspace_id),
        (STRANGER.organization_id, WORKSPACE),
    ):
        line = new_id("LIN")
        lines[line] = organization, workspace
        begin = activation(line, organization_id=organization, workspace_id=workspace)
        own_ledger.accept(
            begin, by=STRANGER if organization != REPORTER.organization_id else REPORTER
        )
    model, names, verdicts = Model(lines), [f"build {n}" for n in range(9)], list[Verdict]()
    for _ in range(120):
        by = chance.choice(BY)
        batch = [random_fact(chance, model, names) for _ in range(chance.choice([1, 1, 4]))]
        for event, item in zip(batch, own_ledger.report(*batch, by=by), strict=True):
            verdict = model.judge(event, by)
            assert item.refusal == (verdict or (None, None)), (event, by.id)
            verdicts.append(verdict)
            if verdict is RECORDED:
                assert item.subject is not None
                model.record(event, by, item.subject)
    # The run is useful only if each outcome is common.
    for verdict in (RECORDED, GONE, LINE_NEEDED, STATE, TAKEN):
        assert verdicts.count(verdict) > 2, verdict
    for run_id, run in model.runs.items():
        shown = own_ledger.shown_run(run_id)
        name = run.name[2] if run.name is not None else None
        assert (shown["status"], shown["external_id"]) == (run.status, name)
        assert shown["parent_run_id"] == run.parent
    assert check(own_ledger.conninfo).findings == []
    assert_decision_tables_match_log(own_ledger.conninfo)
