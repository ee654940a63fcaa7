"""The things that people manage, a row each: what the tests of all of them differ in."""

import functools
import itertools
from collections.abc import Sequence
from functools import cached_property
from typing import Any, NamedTuple

import httpx

from tests.facts.test_bad_bodies import CANARY
from tests.support.edge import Edge
from tests.support.watches import BLOCKED

LATER = "2026-05-15T12:00:00Z"
SIBLING = "WS-26-000002"
ELSEWHERE = "ORG-26-000002"
ABSENT = object()
"""Stands for a required field that a body lacks."""

_numbers = itertools.count(910_001)


class Act(NamedTuple):
    """A command about a thing, with a body that is right."""

    method: str
    path: str
    """Behind that of the thing."""
    body: Any
    action: str
    """The action of the audit log."""
    status: int = 200
    wrong: tuple[tuple[str, tuple[Any, ...]], ...] = ()
    """Places in the body with wrong values of their fields."""


class Thing(NamedTuple):
    """A kind of managed things."""

    path: str
    prefix: str
    """Of its ids."""
    rights: tuple[str, ...]
    """The permissions of those who manage the thing; the one for managing is last."""
    creates: str
    """The action of the audit log."""
    body: dict[str, Any]
    """The fields that a new thing needs."""
    more: dict[str, Any]
    """Further fields of a new thing."""
    defaults: dict[str, Any]
    """Fields of a new thing that the body does not name."""
    row: str
    """The keys of a row of the list, in their order."""
    acts: tuple[Act, ...]
    """The commands about a thing, the one that ends it last."""
    ended: tuple[int, str]
    """How each act is refused after the end."""
    wrong: dict[str, list[Any]]
    """A place in the body of a new thing → wrong values of its field."""
    together: list[tuple[dict[str, Any], str]]
    """Fields that are wrong together, and the place of the fault."""
    changes: Sequence[dict[str, Any]] = ()
    """Right changes, each of a thing that the former ones have changed."""
    no_changes: Sequence[Any] = ()
    """Wrong bodies of a change, besides the wrong values."""
    reads: tuple[str, ...] = ("",)
    """The paths of reads behind that of a thing."""
    answer: str | None = None
    """The keys of the answer to a creation, if it is not the row."""
    secret: str | None = None
    """The last key of answers with a secret."""
    most: int | None = None
    """How many of them an organization may have."""

    @property
    def nobodys(self) -> str:
        return f"{self.prefix}-26-999999"

    @property
    def answered(self) -> list[str]:
        """The keys of the answer to a creation."""
        return f"{self.answer or self.row} {self.secret or ''}".split()

    @property
    def all_acts(self) -> list[Act]:
        return [Act("POST", "", self.body, self.creates, 201), *self.acts]

    @property
    def update(self) -> Act | None:
        return next((act for act in self.acts if act.method == "PATCH"), None)


URL = "https://93.184.216.34/hooks"
HOOK = {"url": URL, "event_types": ["*"]}
_LONG = "https://x.example/" + "a" * 2000
_MANY_WATCHES = [f"WCH-26-{number:06d}" for number in range(1, 52)]

KEYS = Thing(
    "keys",
    "KEY",
    ("read", "write", "audit:read", "keys:manage"),
    "key.create",
    {"permissions": ["read"]},
    {"name": "é", "permissions": ["write", "read"], "expires_at": LATER},
    {"revoked_at": None, "last_used_at": None},
    "id name organization_id workspace_id permissions created_at created_by expires_at"
    " last_used_at revoked_at prefix",
    (
        Act("PATCH", "", {"name": "changed"}, "key.update"),
        Act("POST", "/rotate", {}, "key.rotate", 200,
            (("/grace_seconds", (-1, 604_801, 1.5, "60", None)), ("/x", (1,)))),
        Act("DELETE", "", None, "key.revoke", 204),
    ),
    (409, "invalid_state"),
    {
        "/permissions": [ABSENT, [], "read", ["read", "read"]],
        "/permissions/0": [["reed"]],
        "/name": ["", "x" * 201],
        "/expires_at": ["tomorrow", "2026-04-15T12:00:00Z", "2100-01-01T00:00:00Z", 5],
        "/organization_id": ["ORG-1"],
        "/workspace_id": [5],
        "/secret": ["elk_"],
    },
    [],
    changes=[{"name": "after"}, {"expires_at": LATER}, {"name": None}, {"expires_at": None}],
    no_changes=[{"permissions": ["write"]}, {"expires_at": "2026-04-15T11:00:00Z"}],
    secret="key",
)  # fmt: skip
WEBHOOKS = Thing(
    "webhooks",
    "WHK",
    ("audit:read", "webhooks:manage"),
    "webhook.create",
    HOOK,
    {"event_types": ["execution.blocked", "run.failed"], "description": "é"},
    {"enabled": True, "disabled_reason": None, "disabled_at": None, "format": "standard"},
    "id format url routing_key event_types watch_ids min_severity details organization_id"
    " workspace_id description enabled disabled_reason disabled_at created_at updated_at status",
    (
        Act("PATCH", "", {"description": None}, "webhook.update"),
        Act("POST", "/rotate-secret", {}, "webhook.rotate_secret", 200, (("/x", (1,)),)),
        Act("POST", "/recover", {"since": "2026-04-15T00:00:00Z"}, "webhook.recover", 202,
            (("/since", (ABSENT, None, "yesterday", "2026-04-31", 1, "2026-04-15T00:00:00",
                         "2027-01-01T00:00:00Z")), ("/x", (1,)))),
        Act("POST", "/test", {}, "webhook.test", 202, (("/x", (1,)),)),
        Act("DELETE", "", None, "webhook.delete", 204),
    ),
    (404, "not_found"),
    {
        "/url": [ABSENT, "", 1, "ftp://x.example/", "https://u:p@x.example/", _LONG],
        "/event_types": [ABSENT, [], "*", ["run.faild"], ["webhook.test"], ["*", "run.failed"],
                         ["*", "*"], ["run.failed", "run.failed"], ["alert.*"]],
        "/description": ["x" * 501],
        "/enabled": ["yes", None],
        "/format": ["teams", None],
        "/watch_ids": [[], _MANY_WATCHES, _MANY_WATCHES[:1] * 2, "WCH-26-000001"],
        "/watch_ids/0": [["LIN-26-000001"]],
        "/min_severity": ["red", None],
        "/details": [None, "no"],
        "/organization_id": ["ORG-1"],
        "/workspace_id": [5],
    },
    [({f"{CANARY} x": 1}, "")],
    changes=[
        {"url": "https://93.184.216.35/"},
        {"event_types": ["run.failed"]},
        {"description": "what it is for"},
        {"description": None},
        {"url": URL, "event_types": ["*"], "description": None},
    ],
    no_changes=[{"url": None}, {"event_types": None}, {"id": "WHK-26-999999"}, {"secret": "s"},
                {"format": "standard"}],
    reads=("", "/deliveries"),
    secret="secret",
    most=100,
)  # fmt: skip
BERLIN = {"time_zone": "Europe/Berlin", "days": ["mon", "fri"], "from": "09:00", "to": "17:30"}
BLOCKER = {"kind": "blocker_open"}
_FAILING = {"kind": "runs_failing", "count": 3}
_OVER = {"kind": "usage_over", "measure": "hours", "period": "week", "limit": 40}
_SILENT = {"kind": "source_silent", "sources": ["/timesheets"]}
_QUIET = {"kind": "no_activity"}
_MANY = [f"LIN-26-{n:06d}" for n in range(101)]
WATCHES = Thing(
    "watches",
    "WCH",
    ("read", "audit:read", "watches:manage"),
    "watch.create",
    {"name": "Blocked", "condition": BLOCKED, "for_seconds": 0},
    {"name": "Stuck", "for_seconds": 7200},
    {"severity": "warning", "hours": None, "keep_seconds": 0, "remind_seconds": 0, "lines": {},
     "enabled": True, "condition": BLOCKED},
    "id name organization_id workspace_id condition for_seconds severity hours keep_seconds"
    " remind_seconds lines enabled created_at updated_at looking open_alerts overflow endpoints",
    (
        Act("PATCH", "", {"name": "changed"}, "watch.update"),
        Act("DELETE", "", None, "watch.delete", 204),
    ),
    (404, "not_found"),
    {
        "/name": [ABSENT, "", "n" * 201, None, "a\nb"],
        "/for_seconds": [ABSENT, -1, 31_536_001, 1.5, "60", True],
        "/severity": ["fatal", None],
        "/remind_seconds": [299, 2_592_001],
        "/enabled": [1],
        "/organization_id": ["here"],
        "/workspace_id": ["there"],
        "/nonsense": [1],
        "/condition": [ABSENT, None],
        "/condition/kind": [{}, {"kind": CANARY}],
        "/condition/more": [{"kind": "past_due", "more": 1}],
        "/condition/states": [
            {"kind": "in_state"},
            *({"kind": "in_state", "states": states} for states in
              ([], ["running", "idle"], ["paused", "paused"], ["running", "paused", "blocked"])),
        ],
        "/condition/states/0": [{"kind": "in_state", "states": ["closed"]}],
        "/condition/causes": [BLOCKER | {"causes": None}],
        "/condition/causes/0": [BLOCKER | {"causes": ["boredom"]}],
        "/condition/statuses": [{"kind": "run_open", "statuses": []}],
        "/condition/statuses/0": [{"kind": "run_open", "statuses": ["completed"]}],
        "/condition/count": [_FAILING | {"count": 0}, _FAILING | {"count": 21}],
        "/condition/status": [{"kind": "health", "status": "green"}],
        "/condition/sources": [_SILENT | {"sources": []}],
        "/condition/limit": [_OVER | {"limit": 0}],
        "/condition/period": [_OVER | {"period": "year"}],
        "/hours/time_zone": [BERLIN | {"time_zone": "Berlin"}],
        "/hours/days": [{}, BERLIN | {"days": []}, BERLIN | {"days": ["mon", "mon"]}],
        "/hours/days/0": [BERLIN | {"days": ["monday"]}],
        "/hours/from": [BERLIN | {"from": "9:00"}, BERLIN | {"from": "24:00"}],
        "/hours/to": [BERLIN | {"to": "24:30"}, BERLIN | {"to": "09:00"}],
        "/hours/more": [BERLIN | {"more": 1}],
        "/lines": [None],
        "/lines/state": [{"state": ["running"]}],
        "/lines/project_tag": [{"project_tag": "a"}],
        "/lines/project_tag/0": [{"project_tag": [""]}],
        "/lines/execution_model/0": [{"execution_model": ["nonsense"]}],
        "/lines/service_line_id": [{"service_line_id": _MANY}],
    },
    [
        ({"keep_seconds": 86_401, "condition": BLOCKER}, "/keep_seconds"),
        ({"keep_seconds": 1, "condition": {"kind": "past_due"}}, "/keep_seconds"),
        ({"keep_seconds": 1, "condition": {"kind": "run_open", "statuses": ["running"]}},
         "/keep_seconds"),
        ({"keep_seconds": 1, "condition": _QUIET, "for_seconds": 300}, "/keep_seconds"),
        ({"keep_seconds": 60, "condition": _SILENT, "for_seconds": 300}, "/keep_seconds"),
        ({"keep_seconds": 60, "condition": _OVER}, "/keep_seconds"),
        ({"condition": _QUIET, "for_seconds": 299}, "/for_seconds"),
        ({"condition": _SILENT, "for_seconds": 299}, "/for_seconds"),
        ({"condition": _SILENT, "for_seconds": 300, "lines": {"project_tag": ["a"]}}, "/lines"),
    ],
    changes=[
        {"name": "New", "hours": BERLIN, "severity": "critical"},
        {"hours": None},
        {"for_seconds": 60},
    ],
    most=50,
)  # fmt: skip
STATEMENTS = Thing(
    "statements",
    "STM",
    ("read", "audit:read", "statements:issue"),
    "statement.issue",
    {"from": "2026-04-01", "to": "2026-04-15"},
    {"note": "March", "reference": "PO 3"},
    {"time_zone": "UTC", "from": "2026-04-01T00:00:00Z", "to": "2026-04-15T00:00:00Z",
     "replaces": None, "replaced_by": None, "withdrawn_at": None},
    "id organization_id workspace_id from to time_zone as_of note reference issued_at issued_by"
    " position document_sha256 replaces total replaced_by withdrawn_at",
    (Act("POST", "/withdraw", {"reason": "A mistake"}, "statement.withdraw", 200,
         (("/reason", (ABSENT, "", "x" * 501)), ("/x", (1,)))),),
    (409, "invalid_state"),
    {
        "/to": ["2026-03-31", "2026-04-01", "2026-04-16"],
        "/from": ["2025-01-01", None],
        "/time_zone": ["Europe/Atlantis"],
        "/note": ["x" * 501, "a\x07b"],
        "/reference": ["x" * 201, "a\nb"],
        "/by_resource": ["yes"],
        "/replaces": ["WHK-26-000001"],
        "/name": ["x"],
    },
    [],
    reads=("", "/export", "/changes", "/bundle"),
    answer="id document_sha256 position as_of total",
)  # fmt: skip

THINGS = (KEYS, WEBHOOKS, WATCHES, STATEMENTS)


@functools.cache
def administrator(edge: Edge) -> str:
    """An administrator's token, the same one for all tests."""
    return edge.token("admin", organization_id=None)


def lasting(view: dict[str, Any]) -> dict[str, Any]:
    """The fields that are equal in the list and in other answers. An endpoint has one more."""
    return {name: value for name, value in view.items() if name != "status"}


class Site:
    """An organization of a test's own, and who manages one kind of things there."""

    def __init__(self, edge: Edge, thing: Thing) -> None:
        self.edge, self.thing = edge, thing
        number = next(_numbers)
        self.organization, self.workspace = f"ORG-26-{number}", f"WS-26-{number}"
        self.token, self.admin = self.new_token(*thing.rights), administrator(edge)

    @cached_property
    def narrow(self) -> str:
        """A token of the workspace."""
        return self.new_token(*self.thing.rights, workspace_id=self.workspace)

    def new_token(self, *permissions: str, **tenant: str | None) -> str:
        return self.edge.token(*permissions, **{"organization_id": self.organization} | tenant)

    def call(
        self, method: str, path: str = "", token: str | None = None, **options: Any
    ) -> httpx.Response:
        address = f"/v1/{self.thing.path}{path}"
        return self.edge.request(method, address, token or self.token, **options)

    def send(self, token: str | None = None, **body: Any) -> httpx.Response:
        """Create a thing; a field is left out if it is ABSENT."""
        sent = {k: v for k, v in (self.thing.body | body).items() if v is not ABSENT}
        return self.call("POST", token=token, json=sent)

    def make(self, token: str | None = None, **body: Any) -> dict[str, Any]:
        """A new thing, as the list shows it."""
        answer = self.send(token, **body)
        assert answer.status_code == 201, answer.text
        return self.row(answer.json()["data"]["id"], token)

    def act(self, act: Act, thing_id: str, token: str | None = None, **more: Any) -> httpx.Response:
        """Send a command about a thing; ``more`` may have another body."""
        return self.call(act.method, f"/{thing_id}{act.path}", token, **{"json": act.body} | more)

    def rows(self, token: str | None = None, **params: Any) -> list[dict[str, Any]]:
        answer = self.call("GET", token=token, params={"limit": 100} | params)
        assert answer.status_code == 200, answer.text
        rows: list[dict[str, Any]] = answer.json()["data"]
        return rows

    def ids(self, token: str | None = None, **params: Any) -> list[str]:
        return [row["id"] for row in self.rows(token, **params)]

    def row(self, thing_id: str, token: str | None = None) -> dict[str, Any]:
        (row,) = (row for row in self.rows(token) if row["id"] == thing_id)
        return lasting(row)

    def head(self) -> int:
        """The last position of the log."""
        return int(self.edge.at_end["ledger-min-position"])

    def entries(self, after: int, organization: str | None = None) -> list[tuple[Any, ...]]:
        """(action, code, resource's id) of the audit log's entries after a position."""
        path = f"/v1/audit-logs?organization_id={organization or self.organization}&limit=100"
        path += f"&after=AUD-26-{after:06d}"
        entries = self.edge.data(path, self.admin, headers=self.edge.at_end)
        return [
            (entry["action"], entry["code"], entry["resource"] and entry["resource"]["id"])
            for entry in entries
            if entry["action"] != "key.create" or entry["actor"]["type"] == "api_key"
        ]
