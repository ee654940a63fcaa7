"""Random facts about runs by id and by name, judged by a model that shares no code."""

import random
from dataclasses import dataclass, field
from typing import Any

import pytest

from ledger.engine.values.principal import Principal
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
STATE, ID_TAKEN = (409, "invalid_state"), (409, "id_taken")

Verdict = tuple[int, str] | None
Tenant = tuple[str | None, str | None]


Name = tuple[str | None, str, str]
"""Organization, source and external id."""


@dataclass
class ModelRun:
    line: str
    status: str
    parent: str | None
    name: Name | None = None
    attempt: int = 1
    retry_of: str | None = None
    awaits: Name | None = None


@dataclass
class Model:
    """The runs that were recorded, and the verdict about the next fact."""

    lines: dict[str, Tenant]
    runs: dict[str, ModelRun] = field(default_factory=dict)
    names: dict[Name, list[str]] = field(default_factory=dict)
    """The attempts of each name."""
    awaiting: dict[Name, list[tuple[str, str | None]]] = field(default_factory=dict)
    """The runs that await a parent of a name, each with the workspace that its reporter sees."""

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
        named = self.named(key, data.get("attempt"), subject)
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
            return ID_TAKEN
        if not self.fits(type, line, run, key, named):
            return STATE
        present = self.runs[run] if run is not None else ModelRun("", "", None)
        attempt = data.get("attempt")
        if attempt not in (None, present.attempt) and (key is None or present.name is not None):
            return STATE
        if type in BEGUN and key is not None and present.name is None and attempt not in (None, 1):
            tried = self.names.get(key, [])[attempt - 2 :]
            if not tried:
                return STATE
            if not self.sees(by, tried[0]):
                return ID_TAKEN
            if not self.has_ended(tried[0]):
                return STATE
        parents = self.parents(event, by)
        own = parents is not None and parents == key
        own = own or (present.name is None and key is not None and present.awaits == key)
        own = own or (run is not None and run in (self.latest(parents), parent))
        return STATE if own else None

    def named(self, key: Name | None, attempt: int | None, subject: str | None) -> str | None:
        tried = self.names.get(key, []) if key is not None else []
        if attempt is not None:
            return tried[attempt - 1] if attempt <= len(tried) else None
        return subject if subject in tried else self.latest(key)

    def latest(self, name: Name | None) -> str | None:
        tried = self.names.get(name, []) if name is not None else []
        return tried[-1] if tried else None

    def has_ended(self, run: str) -> bool:
        return self.runs[run].status in ("failed", "cancelled")

    def parents(self, event: dict[str, Any], by: Principal) -> Name | None:
        name = event["data"].get("parent_external_id")
        return None if name is None else (by.organization_id, event["source"], name)

    def fits(
        self, type: str, line: str | None, run: str | None, key: Any, named: str | None
    ) -> bool:
        if run is None:
            return named is None
        present = self.runs[run]
        if key is not None and named != run and (named is not None or present.name is not None):
            return False
        if type == "run.requested":
            return False
        if type == "run.started":
            return present.status == "pending" and line in (None, present.line)
        if type == "run.completed":
            return present.status == "running"
        return present.status in ("pending", "running")

    def key(self, event: dict[str, Any], by: Principal) -> Name | None:
        name = event["data"].get("external_id")
        return None if name is None else (by.organization_id, event["source"], name)

    def record(self, event: dict[str, Any], by: Principal, run_id: str) -> None:
        type, data, key = event["type"], event["data"], self.key(event, by)
        status = {"run.requested": "pending", "run.started": "running"}.get(type, type[4:])
        run = self.runs.setdefault(run_id, ModelRun(data.get("service_line_id", ""), status, None))
        run.status = status
        self.set_parent(run_id, data.get("parent_run_id"))
        parents = self.parents(event, by)
        if parents is not None:
            found, before = self.latest(parents), run.awaits
            run.awaits = None
            if found is not None:
                self.set_parent(run_id, found if self.sees(by, found) else None)
            elif run.parent is None:
                run.awaits = parents
                if parents != before:
                    self.awaiting.setdefault(parents, []).append((run_id, by.workspace_id))
        if type in BEGUN and key is not None and run.name is None:
            tried = self.names.setdefault(key, [])
            run.retry_of = tried[-1] if tried else None
            tried.append(run_id)
            run.name, run.attempt = key, len(tried)
            if run.attempt == 1:
                self.give(run_id, key)

    def give(self, parent: str, name: Name) -> None:
        """Give the parent to the runs that await this name."""
        for run_id, workspace in self.awaiting.pop(name, []):
            run, own = self.runs[run_id], self.lines[self.runs[parent].line][1]
            is_free = run.parent is None and run.awaits == name
            if is_free and workspace in (None, own):
                self.set_parent(run_id, parent)

    def set_parent(self, run_id: str, parent: str | None) -> None:
        """Give the run a parent, unless this one lies below it."""
        above = parent
        while above is not None and above != run_id:
            above = self.runs[above].parent
        if parent is not None and above is None:
            self.runs[run_id].parent = parent


def random_fact(chance: random.Random, model: Model, names: list[str]) -> dict[str, Any]:
    pick = chance.choice
    type = pick([*BEGUN, *BEGUN, "run.completed", "run.failed", "run.cancelled"])
    latest = [*model.runs][-12:]
    data: dict[str, Any] = {}
    if chance.random() < 0.6:
        data["external_id"] = pick(names)
    if chance.random() < 0.25:
        data["attempt"] = pick([1, 2, 2, 3])
    subject = pick([None, None, pick(latest or [None]), new_id("RUN")])
    if type in BEGUN:
        if type == "run.requested" or chance.random() < 0.6:
            data["service_line_id"] = pick([*model.lines])
        if chance.random() < 0.2:
            data["parent_run_id"] = pick([*latest, new_id("RUN")])
        elif chance.random() < 0.4:
            data["parent_external_id"] = pick(names)
    elif subject is None and "external_id" not in data:
        data["external_id"] = pick(names)
    source = pick(SOURCES)
    ended = [name for name, tried in model.names.items() if model.has_ended(tried[-1])]
    if type in BEGUN and ended and chance.random() < 0.3:
        _, source, data["external_id"] = name = pick(ended)
        data["attempt"] = len(model.names[name]) + 1
        data["service_line_id"] = model.runs[model.names[name][-1]].line
        subject = None
    elif type in BEGUN and model.awaiting and chance.random() < 0.2:
        _, source, data["external_id"] = pick([*model.awaiting])
        data["service_line_id"] = pick([*model.lines])
        data.pop("attempt", None)
        subject = None
    return fact(type, subject, data, source=source)


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
    model, names, verdicts = Model(lines), [f"build {n}" for n in range(24)], list[Verdict]()
    for step in range(120):
        by, some = chance.choice(BY), names[step // 8 : step // 8 + 9]
        batch = [random_fact(chance, model, some) for _ in range(chance.choice([1, 1, 4]))]
        for event, item in zip(batch, own_ledger.report(*batch, by=by), strict=True):
            verdict = model.judge(event, by)
            assert item.refusal == (verdict or (None, None)), (event, by.id)
            verdicts.append(verdict)
            if verdict is RECORDED:
                assert item.subject is not None
                model.record(event, by, item.subject)
    # The run is useful only if each outcome is common, and names are retried and awaited.
    topics = [event["topic"] for event in own_ledger.events()]
    assert topics.count("run.parent_given/1") > 0
    assert sum(run.attempt > 1 for run in model.runs.values()) > 0
    for verdict in (RECORDED, GONE, LINE_NEEDED, STATE, ID_TAKEN):
        assert verdicts.count(verdict) > 0, verdict
    for run_id, run in model.runs.items():
        view = own_ledger.run_view(run_id)
        name = run.name[2] if run.name is not None else None
        assert (view["status"], view["external_id"]) == (run.status, name)
        assert view["parent_run_id"] == run.parent
        assert (view["attempt"], view["retry_of"]) == (run.attempt, run.retry_of)
    assert check(own_ledger.conninfo).findings == []
    assert_decision_tables_match_log(own_ledger.conninfo)
