"""A line's random life over HTTP; ``model`` computes the expected result."""

import random
from datetime import UTC, timedelta, timezone
from typing import Any

from tests.support.edge import Edge
from tests.support.facts import activation, fact
from tests.support.ledger import new_id
from tests.support.model import CAUSES

SECRET = "planted-in-a-payload"

_ZONES = [UTC, timezone(timedelta(hours=5, minutes=30)), timezone(timedelta(hours=-8))]
_BEHIND = [-200, 0, 1, 60, 899, 5_000, 40_000, 90_000, 250_000]
_AHEAD = [0, 0, 1, 60, 400, 1_000, 9_000, 40_000]


class Life:
    """A line about which random facts are reported; the recorded facts are kept in ``accepted``."""

    def __init__(self, edge: Edge, seed: int, token: str | None = None, **tenant: str) -> None:
        self.edge, self.random, self.token = edge, random.Random(seed), token
        self.line = edge.fresh_id()
        self.accepted: list[dict[str, Any]] = []
        self.runs: list[str] = []
        self.open: list[str] = []
        self.naming, self.named = random.Random(seed), 0
        """The dice of names, and the number of the next name."""
        self.names: dict[str, tuple[int, int]] = {}
        """Run → the number of its name, and the attempt."""
        self.failed: list[tuple[int, int]] = []
        """The names whose latest attempt has failed."""
        began = (edge.clock.now - timedelta(days=2)).isoformat()
        edge.accept(activation(self.line, time=began, **tenant), token=token)

    def live(self, batches: int) -> None:
        """Send batches, operator's commands and idle times; the clock moves between them."""
        pick = self.random.choice
        for _ in range(batches):
            self.report(*(self._fact() for _ in range(pick([1, 2, 4, 9]))))
            if self.random.random() < 0.2:
                path = f"/v1/execution/{self.line}/{pick(['pause', 'resume', 'resume', 'resume'])}"
                answer = self.edge.post(path, self.token, json={"reason": "r"})
                assert answer.status_code in (200, 409)
            if self.random.random() < 0.15:
                self._become_idle()
            self.edge.clock.advance(seconds=pick(_AHEAD), microseconds=pick([0, 7]))
        self.edge.clock.advance(seconds=600)

    def _become_idle(self) -> None:
        """End all holds, blockers and runs, so that the line becomes idle."""
        lifted = [fact("execution.unblocked", self.line, {"blocker_id": b}) for b in "abc"]
        lifted.append(fact("service_line.resumed", self.line))
        lifted += [fact("run.cancelled", run) for run in self.open]
        self.report(*(event | {"time": self._time()} for event in lifted))
        self.edge.post(f"/v1/execution/{self.line}/resume", self.token)
        self.edge.clock.advance(seconds=2_000)
        self.edge.run(self.edge.service.sweep())

    def close(self) -> None:
        """Close the line, and report late facts after the close."""
        self.report(fact("service_line.closed", self.line, time=self._time()))
        self.edge.clock.advance(seconds=3_000)
        for _ in range(6):
            self.report(*(self._fact() for _ in range(6)))

    def report(self, *events: dict[str, Any]) -> None:
        """Send a batch. The service may refuse some of its facts; keep the recorded ones."""
        items = self.edge.send_batch(*events, token=self.token).json()["data"]
        for event, item in zip(events, items, strict=True):
            if item["outcome"] == "recorded":
                self.accepted.append(event | {"subject": item["subject"]})
                self._note(event, item["subject"])

    def _note(self, event: dict[str, Any], subject: str) -> None:
        kind, data = event["type"], event.get("data") or {}
        if kind in ("run.requested", "run.started"):
            self.runs.append(subject)
            self.open.append(subject)
            if (name := data.get("external_id")) is not None:
                tried = int(name.rpartition("/")[2]), data.get("attempt", 1)
                self.names[subject] = tried
                self.named = max(self.named, tried[0] + 1)
                self.failed = [each for each in self.failed if each[0] != tried[0]]
        elif kind.startswith("run."):
            self.open = [run for run in self.open if run != subject]
            if kind == "run.failed" and (tried := self.names.pop(subject, None)) is not None:
                self.failed.append(tried)

    def _time(self) -> str:
        at = self.edge.clock.now - timedelta(seconds=self.random.choice(_BEHIND))
        return at.astimezone(self.random.choice(_ZONES)).isoformat()

    def _models(self) -> list[dict[str, Any]]:
        """Tokens of some models."""
        models = self.random.sample(["large", "small", "ö"], self.random.choice([1, 1, 2, 3]))
        names = ("input", "output", "cache_read", "reasoning")
        numbers = [3, 10, self.random.randint(0, 3), self.random.randint(0, 10)]
        return [{"model": model} | dict(zip(names, numbers, strict=True)) for model in models]

    def _names(self) -> dict[str, Any]:
        """Now and then a run's name, which may be a new attempt, and its parent's.

        The parent's is one of the next names, or of the last ones.
        """
        if self.naming.random() < 0.7:
            return {}
        number, attempt = self.named, {}
        if self.failed and self.naming.random() < 0.5:
            number, before = self.naming.choice(self.failed)
            attempt = {"attempt": before + 1}
        parent = f"{self.line}/{number + self.naming.choice([-2, 1, 2, 3])}"
        own = {"external_id": f"{self.line}/{number}", **attempt}
        return own | ({"parent_external_id": parent} if self.naming.random() < 0.7 else {})

    def _fact(self) -> dict[str, Any]:
        pick, line = self.random.choice, self.line
        run = new_id("RUN") if self.random.random() < 0.7 else pick([*self.open, new_id("RUN")])
        chosen = pick(self.open or [run]) if self.random.random() < 0.9 else pick([*self.runs, run])
        begun = {"service_line_id": line, "input": {"word": SECRET}}
        begun |= self._names() if run not in self.names else {}
        blocker = {"blocker_id": pick("abc"), "reason": "because"}
        signal = {"signal": pick(["sla_compliance", "agent_error_rate"]), "status": pick(_LIGHTS)}
        check_ins = [e["id"] for e in self.accepted if e["type"] == "execution.checked_in"]
        hours = {"hours": pick([0, 0.01, 1.25, 7.6, None]), "resource_id": pick(["a", "b", None])}
        tokens = pick([{}, {"tokens_used": pick([0, 5, 1_000])}, {"token_usage": self._models()}])
        used = tokens | {"output": [SECRET]}
        corrected = pick([{"tokens_used": pick([0, 7])}, {"token_usage": self._models()}])
        error = {"error": {"code": SECRET, "message": SECRET}}
        kinds: list[tuple[float, dict[str, Any]]] = [
            (1, fact("service_line.updated", line, {"project_tags": [pick("xyz")]})),
            (2, fact("service_line.paused", line, {"reason": "later"})),
            (8, fact("service_line.resumed", line)),
            (9, fact("execution.checked_in", line, hours)),
            (2, fact("execution.check_in_voided", line, {"fact_id": pick([*check_ins, "none"])})),
            (3, fact("execution.blocked", line, blocker | {"cause": pick(CAUSES)})),
            (7, fact("execution.unblocked", line, blocker)),
            (1, fact("resource.allocated", line, {"id": pick("rs"), "type": "t"})),
            (1, fact("resource.released", line, {"id": pick("rs")})),
            (2, fact("health.signal_reported", line, signal)),
            (3, fact("run.requested", run, begun)),
            (7, fact("run.started", run, begun)),
            (9, fact("run.completed", chosen, used)),
            (4, fact("run.failed", chosen, used | error)),
            (3, fact("run.cancelled", chosen, {"reason": "enough"} | tokens)),
            (4, fact("run.usage_corrected", pick(self.runs or [run]), corrected)),
        ]
        weights = [weight for weight, _ in kinds]
        event = self.random.choices([event for _, event in kinds], weights)[0]
        return event | {"time": self._time()}


_LIGHTS = ["green", "green", "amber", "red"]


def history_of(
    edge: Edge, line: str, limit: int = 100, token: str | None = None
) -> list[dict[str, Any]]:
    """A line's whole history, page by page, once the views have all of the log."""
    rows: list[dict[str, Any]] = []
    headers = {"ledger-min-position": str(edge.log()[0][0])}
    params: dict[str, Any] = {"limit": limit}
    while True:
        path = f"/v1/execution/{line}/history"
        answer = edge.get(path, token, params=params, headers=headers)
        assert answer.status_code == 200, answer.text
        page = answer.json()
        assert page["meta"]["has_more"] <= (len(page["data"]) == limit)
        rows += page["data"]
        if not page["meta"]["has_more"]:
            return rows
        params["cursor"] = page["meta"]["cursor"]
