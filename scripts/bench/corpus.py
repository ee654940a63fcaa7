"""The answer corpus: every read of a ledger with the tale, sent as each of its readers.

``Corpus`` sends the requests to the version that wrote the ledger, and keeps the answers. Pages are
walked to their end, and later requests follow from earlier answers.
"""

import json
import re
from collections.abc import Iterable, Iterator
from typing import Any
from urllib.parse import quote, urlencode, urlsplit

import tale
from corpus_request import Answer, Request, Send

READERS = ("organization", "workspace", "other", "admin")
REFUSED = ("nobody", "unknown", "revoked", "writer")
INSTANTS = 12  # at which lists of the past are read
EVERY = 12  # every so many events of the long line are read as of; of other lines every event

Json = Any


class Corpus:
    """All requests with their answers, in the order of the requests."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self.told: dict[Request, Answer] = {}

    def ask(self) -> None:
        """Send all requests."""
        self.events = list(self.walk("/v1/events?limit=100", "admin"))
        self.log = sorted(int(entry["id"].split("-")[2]) for entry in self._audited())
        for chapter in (
            self.lists,
            self.lines,
            self.line_instants,
            self.runs,
            self.all_runs,
            self.feeds,
            self.types,
            self.webhooks,
            self.keys,
            self.audit,
            self.proofs,
            self.conditions,
            self.refusals,
        ):
            chapter()

    # Asking.

    def get(
        self, path: str, role: str = "organization", *, method: str = "GET", **more: str
    ) -> Answer:
        """Send a request unless it was sent before; keep and return the answer."""
        until = more.pop("until", "")
        headers = tuple((name.replace("_", "-"), value) for name, value in more.items())
        request = Request(role, path, method, headers, until)
        if request not in self.told:
            self.told[request] = self._send(request)
        return self.told[request]

    def data(self, path: str, role: str = "organization") -> Json:
        """The ``data`` of an answer; an empty list if the request is refused."""
        answer = self.get(path, role)
        return json.loads(answer.body)["data"] if answer.status == 200 else []

    def walk(self, path: str, role: str = "organization") -> Iterator[Json]:
        """The rows of all pages."""
        page = path
        while True:
            answer = self.get(page, role)
            if answer.status != 200:
                return
            document = json.loads(answer.body)
            yield from document["data"]
            if not document["meta"]["has_more"]:
                return
            page = f"{path}{'&' if '?' in path else '?'}cursor={document['meta']['cursor']}"

    def by_each(self, path: str, choices: dict[str, Iterable[object]], role: str) -> None:
        """Send a path with each value of each filter."""
        for name, values in choices.items():
            for value in values:
                self.get(f"{path}{'&' if '?' in path else '?'}{urlencode({name: value})}", role)

    # The chapters.

    def instants(self) -> list[str]:
        """About a dozen instants, from the first event to the last."""
        step = max(1, len(self.events) // INSTANTS)
        chosen = [*self.events[::step], self.events[-1]]
        return [event["recorded_at"] for event in chosen]

    def lists(self) -> None:
        """Lines and their counts by every filter, for every reader, live and in the past."""
        tags = ("PROJ-26-000001", tale.NAMES, "ü", "x,y", "x%2Cy", "none")
        choices: dict[str, Iterable[object]] = {
            "workspace_id": (tale.FIRST, tale.SECOND, tale.THIRD, f"{tale.FIRST},{tale.SECOND}"),
            "state": ("running", "idle", "paused", "blocked", "closed", "idle,closed", "none"),
            "execution_model": {line[3] for line in tale.LINES.values()},
            "product_line": {line[2] for line in tale.LINES.values()},
            "project_tag": tags,
            "blocked_cause": ("approval_gap", "capacity_issue", "policy_violation,none"),
            "health": ("green", "amber,red", "none", "no"),
            "resource_id": ("SCR-1", "POD-1,POD-2"),
            "assignee": ("USR-26-000044", "nobody,x"),
            "unassigned": ("true", "false"),
            "overdue": ("true", "none"),
            "organization_id": (tale.ORGANIZATION, tale.OTHER, "none"),
            "sort": ("state_since", "health_score", "due_at", "none"),
        }
        choices = {name: sorted(map(str, values)) for name, values in choices.items()}
        for path in ("/v1/execution", "/v1/execution/summary", "/v1/execution/export"):
            for role in READERS:
                self.get(path, role)
                self.by_each(path, choices, role)
            for at in self.instants():
                self.get(f"{path}?as_of={at}")
                self.get(f"{path}?as_of={at}&state=running,blocked", "workspace")
                self.get(f"{path}?as_of={at}&project_tag={quote(tale.NAMES)}", "admin")
            self.by_each(f"{path}?as_of={self.events[-1]['recorded_at']}", choices, "admin")
            self.get(f"{path}?state=blocked&workspace_id={tale.FIRST}&product_line=talent")
        for role in READERS:
            list(self.walk("/v1/execution?limit=2", role))
            kinds = ("workspace", "project", "resource", "none")
            self.by_each("/v1/directory", {"type": kinds}, role)
            list(self.walk("/v1/directory?type=resource&limit=1", role))
            self.by_each("/v1/organizations", {"limit": (1, 0), "cursor": ("none",)}, role)
            self.by_each("/v1/execution/export", {"format": ("jsonl", "csv", "none")}, role)
            self.by_each("/v1/search", {"q": ("payments", "000001", "zoë", "", "x")}, role)
        list(self.walk(f"/v1/execution?limit=3&as_of={self.instants()[8]}", "admin"))

    def lines(self) -> None:
        """All reads about every line."""
        for line in tale.LINES:
            path = f"/v1/execution/{line}"
            for role in READERS:
                for part in ("", "/runs", "/timeline", "/usage", "/history?limit=3"):
                    self.get(f"{path}{part}", role)
            list(self.walk(f"{path}/history?limit=100", "admin"))
            list(self.walk(f"{path}/runs?limit=2", "admin"))
            first = self.data(f"{path}", "admin")["started_at"]
            bounds = {"from": first, "to": self.events[-1]["recorded_at"]}
            day = {"from": first[:10], "to": self.events[0]["recorded_at"][:10]}
            for part in ("timeline", "usage", "runs"):
                for chosen in (bounds, day, {"from": bounds["from"]}, {"to": bounds["to"]}):
                    self.get(f"{path}/{part}?{urlencode(chosen)}", "admin")
            choices: dict[str, Iterable[object]] = {
                "status": ("pending", "running", "completed", "failed", "cancelled", "none"),
                "triggered_by": ("user-ü", "api-ü", "none"),
            }
            self.by_each(f"{path}/runs", choices, "admin")

    def line_instants(self) -> None:
        """Every line in the past, at each of its events."""
        for line in tale.LINES:
            path = f"/v1/execution/{line}"
            own = [event for event in self.events if event["service_line_id"] == line]
            for event in own[:: EVERY if line == tale.LONG else 1]:
                self.get(f"{path}?as_of={event['recorded_at']}", "admin")
            for event in own[:: max(1, len(own) // 3)]:
                for part in ("/runs", "/timeline", "/usage", "/history?limit=5"):
                    sign = "&" if "?" in part else "?"
                    self.get(f"{path}{part}{sign}as_of={event['recorded_at']}", "admin")
            self.get(f"{path}?as_of=2026-01-01", "admin")
            self.get(f"{path}/timeline?as_of={own[-1]['recorded_at']}&from={own[0]['occurred_at']}")

    def runs(self) -> None:
        """Every run, live and as of each of its events."""
        named = {e["subject"]["id"] for e in self.events if e["subject"]["type"] == "run"}
        for run in sorted(named):
            for role in READERS:
                self.get(f"/v1/runs/{run}", role)
            for event in self.events:
                if event["subject"]["id"] == run:
                    self.get(f"/v1/runs/{run}?as_of={event['recorded_at']}", "admin")

    def all_runs(self) -> None:
        """The list of all runs and its export, by every filter."""
        choices: dict[str, Iterable[object]] = {
            "status": ("pending", "running", "completed", "failed", "cancelled", "none"),
            "triggered_by": ("user-ü", "api-ü", "none"),
            "service_line_id": (*tale.LINES, "none"),
            "workspace_id": (tale.FIRST, tale.SECOND, tale.THIRD),
            "external_id": ("none",),
            "parent_run_id": ("RUN-26-800000", "none"),
            "from": (self.events[len(self.events) // 2]["occurred_at"],),
            "to": (self.events[0]["occurred_at"][:10],),
        }
        for role in READERS:
            list(self.walk("/v1/runs?limit=2", role))
            self.by_each("/v1/runs", choices, role)
            self.by_each("/v1/runs/export", choices | {"format": ("jsonl", "csv", "none")}, role)
        for at in self.instants():
            self.get(f"/v1/runs?as_of={at}&limit=100", "admin")
            self.get(f"/v1/runs/export?as_of={at}", "admin")
        self.get("/v1/runs", if_none_match="*")

    def feeds(self) -> None:
        """The feed by every filter, each event, and the stream."""
        middle, last = self.events[len(self.events) // 2], self.events[-1]
        types = sorted({event["type"] for event in self.events})
        choices: dict[str, Iterable[object]] = {
            "type": [*types, "run.started,run.failed", "none"],
            "organization_id": (tale.ORGANIZATION, tale.OTHER, "none"),
            "workspace_id": (tale.FIRST, tale.SECOND, tale.THIRD),
            "service_line_id": (*tale.LINES, "LIN-26-999999"),
            "after": (self.events[0]["id"], middle["id"], last["id"], "EVT-26-999999"),
            "from": (middle["recorded_at"], last["recorded_at"][:10]),
            "to": (middle["recorded_at"], self.events[0]["recorded_at"][:10]),
        }
        for role in READERS:
            list(self.walk("/v1/events?limit=60", role))
            self.by_each("/v1/events?limit=100", choices, role)
            self.by_each("/v1/events/export", choices | {"format": ("jsonl", "csv", "none")}, role)
        list(self.walk("/v1/events?limit=7&type=run.started,run.requested"))
        for event in self.events:
            self.get(f"/v1/events/{event['id']}", "admin")
            self.get(f"/v1/events/{event['id']}", "workspace")
        for number in self.log:
            self.get(f"/v1/events/EVT-26-{number:06d}")
        stream = f"/v1/events/stream?after={self.events[0]['id']}"
        self.get(stream, "admin", until=last["id"])
        ours = list(self.walk(f"/v1/events?limit=60&service_line_id={tale.CYCLE}"))
        for more in (f"&service_line_id={tale.CYCLE}", f"&workspace_id={tale.SECOND}"):
            self.get(stream + more, until=ours[-1]["id"])
        of_type = f"/v1/events/stream?organization_id={tale.ORGANIZATION}&type={ours[-1]['type']}"
        self.get(of_type, until=ours[-1]["id"], Last_Event_ID=ours[0]["id"])

    def types(self) -> None:
        """Every type's schema."""
        for kind in self.data("/v1/event-types"):
            self.get(f"/v1/event-types/{kind['type']}", "workspace")

    def webhooks(self) -> None:
        """Endpoints and their deliveries."""
        for role in READERS:
            hooks = list(self.walk("/v1/webhooks?limit=3", role))
            choices: dict[str, Iterable[object]] = {
                "organization_id": (tale.ORGANIZATION, tale.OTHER),
                "workspace_id": (tale.SECOND, tale.THIRD),
            }
            self.by_each("/v1/webhooks", choices, role)
            for hook in hooks:
                path = f"/v1/webhooks/{hook['id']}"
                self.get(path, role)
                list(self.walk(f"{path}/deliveries?limit=100", role))
                for status in ("pending", "delivered", "failed"):
                    list(self.walk(f"{path}/deliveries?limit=50&status={status}", role))

    def keys(self) -> None:
        """Lists of keys, and each key."""
        for role in READERS:
            list(self.walk("/v1/keys?limit=3", role))
            tenant = f"organization_id={tale.ORGANIZATION}&workspace_id={tale.SECOND}"
            self.get(f"/v1/keys?{tenant}", role)
        for key in self.walk("/v1/keys", "admin"):
            for role in READERS:
                self.get(f"/v1/keys/{key['id']}", role)

    def _audited(self) -> Iterator[Json]:
        for organization in (tale.ORGANIZATION, tale.OTHER):
            yield from self.walk(
                f"/v1/audit-logs?organization_id={organization}&limit=100", "admin"
            )

    def audit(self) -> None:
        """The audit log by every filter, and its exports."""
        entries = list(self._audited())
        ours = f"organization_id={tale.ORGANIZATION}"
        middle = entries[len(entries) // 3]
        values = {
            "action": {entry["action"] for entry in entries}
            | {event["type"] for event in self.events}
            | {"execution.pause,run.erase", "no.such_word"},
            "actor_id": {entry["actor"]["id"] for entry in entries},
            "actor_type": {"user", "api_key", "agent", "system"},
            "service_line_id": {tale.LONG, tale.OTHERS, "none"},
            "outcome": {entry["outcome"] for entry in entries} | {"read", "none"},
            "workspace_id": {tale.FIRST, tale.SECOND, tale.THIRD},
            "after": {entries[0]["id"], middle["id"]},
            "from": {middle["recorded_at"], middle["recorded_at"][:10]},
            "to": {middle["recorded_at"]},
        }
        choices = {name: sorted(map(str, found)) for name, found in values.items()}
        self.by_each(f"/v1/audit-logs?{ours}&limit=100", choices, "organization")
        self.by_each(f"/v1/audit-logs/export?{ours}", choices, "organization")
        list(self.walk(f"/v1/audit-logs?{ours}&limit=9&outcome=refused"))
        for role in READERS:
            for query in ("", "?outcome=read", "?limit=100"):
                self.get(f"/v1/audit-logs{query}", role)
            for organization in (tale.ORGANIZATION, tale.OTHER):
                own = f"organization_id={organization}"
                self.get(f"/v1/audit-logs?{own}&limit=100", role)
                for form in ("jsonl", "csv", "none"):
                    self.get(f"/v1/audit-logs/export?{own}&format={form}", role)
        page = json.loads(self.get(f"/v1/audit-logs?{ours}&limit=9").body)
        self.get(f"/v1/audit-logs/export?{ours}&cursor={page['meta']['cursor']}")

    def proofs(self) -> None:
        """Leaf and inclusion proof of every position, and consistency proofs between trees."""
        self.get("/v1/log/key", "workspace")
        note = self.get("/v1/log/checkpoint", "writer").body.decode()
        size = int(note.splitlines()[1])
        for position in range(size + 2):
            self.get(f"/v1/log/entries/{position}", "admin")
            self.get(f"/v1/log/proof/inclusion?position={position}", "admin")
        for position in range(1, size, 17):
            self.get(f"/v1/log/entries/{position}", "workspace")
            self.get(f"/v1/log/proof/inclusion?position={position}&size={size - 3}")
            self.get(f"/v1/log/proof?position={position}")
        sizes = (0, 1, 2, 255, 256, 257, size - 1, size, size + 1)
        for first in sizes:
            for second in sizes:
                self.get(f"/v1/log/proof/consistency?from={first}&to={second}")

    def conditions(self) -> None:
        """Entity tags, HEAD, and a least position that the ledger has reached."""
        for path in (
            f"/v1/execution/{tale.CYCLE}/runs?limit=2",
            "/v1/runs/RUN-26-800000",
            "/v1/runs/RUN-26-800003",
        ):
            tag = self.get(path).headers["etag"]
            for sent in (tag, f"W/{tag}", '"other"', f'"other", {tag}', "*"):
                self.get(path, if_none_match=sent)
        # The tag of a detail differs from that of e6d622b, so only another one can be sent to both.
        self.get(f"/v1/execution/{tale.LONG}", if_none_match='"other"')
        first: dict[str, Request] = {}
        for request, answer in self.told.items():
            if answer.status == 200 and not request.until:
                first.setdefault(kind_of(request.path), request)
        for request in first.values():
            self.get(request.path, request.role, method="HEAD")
            self.get(request.path, request.role, ledger_min_position="1")
        for path in ("/v1/execution/export", "/v1/organizations"):
            self.get(path, "admin", ledger_min_position="1")
        self.get("/healthz", "nobody")

    def refusals(self) -> None:
        """Requests that each reader is refused, also sent by callers that may read nothing."""
        owned = f"/v1/execution/{tale.LONG}", "/v1/runs/RUN-26-800000", "/v1/events"
        ours = f"organization_id={tale.ORGANIZATION}"
        for role in (*REFUSED, *READERS):
            for path in (
                *owned,
                "/v1/execution",
                "/v1/execution/LIN-26-999999",
                "/v1/execution/LIN-26-999999/runs",
                "/v1/execution/LIN-26-999999/history",
                "/v1/execution/LIN-26-999999/timeline",
                "/v1/execution/LIN-26-999999/usage",
                "/v1/runs/RUN-26-999999",
                "/v1/keys",
                "/v1/keys?cursor=none",
                "/v1/keys/KEY-26-999999",
                "/v1/directory?type=resource&cursor=none",
                "/v1/runs?cursor=none",
                "/v1/runs/export?after=none",
                "/v1/events/EVT-26-999999",
                "/v1/event-types/none",
                "/v1/webhooks/WHK-26-999999",
                "/v1/webhooks/WHK-26-999999/deliveries",
                f"/v1/audit-logs?{ours}",
                "/v1/audit-logs",
                "/v1/audit-logs/export",
                "/v1/log/entries/none",
                "/v1/log/entries/999999",
                "/v1/log/proof/inclusion",
                "/v1/log/proof/consistency?from=9&to=1",
                "/v1/execution?cursor=none",
                "/v1/execution?cursor=eyJpZCI6MX0",
                "/v1/execution?limit=0",
                "/v1/execution?limit=101",
                "/v1/execution?as_of=2099-01-01",
                "/v1/execution?as_of=none",
                "/v1/execution/summary?as_of=2099-01-01",
                f"{owned[0]}/timeline?from=2026-02-01&to=2026-01-01",
                f"{owned[0]}/usage?from=2020-01-01&to=2026-01-01",
                f"{owned[0]}/runs?cursor=none",
                f"{owned[0]}/history?cursor=none",
                "/v1/events?cursor=none",
                "/v1/events?after=none",
                "/v1/events/export?after=none",
                "/v1/events/stream?after=none",
                f"/v1/audit-logs?{ours}&cursor=none",
                f"/v1/audit-logs?{ours}&from=none",
                "/v1/nothing",
            ):
                self.get(path, role)


def kind_of(path: str) -> str:
    """A path without ids and query: roughly the template of its route."""
    return re.sub(r"/([A-Z]+-\d+-\d+|\d+)(?=/|$)", "/", urlsplit(path).path)
