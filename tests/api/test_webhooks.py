"""Webhook endpoints over HTTP: every field, right and refusal (contract 5 and 7)."""

import json
from collections.abc import Iterator
from typing import Any

import httpx
import psycopg
import pytest

from ledger.bootstrap import Dispatching
from ledger.settings import Settings
from ledger.store.embedded import EmbeddedPostgres
from tests.api.test_bad_bodies import BROKEN, CANARY, HAZARDS, planted
from tests.conftest import MASTER_KEY
from tests.feed.targets import FORBIDDEN_HOSTS
from tests.support.edge import PLAIN, Edge, assert_problem, dumps, edge_of
from tests.support.facts import ORGANIZATION, WORKSPACE, activation, fact
from tests.support.receiver import Answer, Receiver
from tests.support.views import until
from tests.support.webhooks import body_of

URL = "http://127.0.0.1:9/hooks?of=us"
"""Nobody listens there: what is sent is refused at once."""
OTHER_ORGANIZATION, OTHER_WORKSPACE = "ORG-26-000002", "WS-26-000002"
NOBODYS = "WHK-26-999999"
KEYS = {
    "id", "url", "event_types", "organization_id", "workspace_id", "description", "enabled",
    "disabled_reason", "disabled_at", "created_at", "updated_at", "status",
}  # fmt: skip


class Hooks:
    """An edge, and a token that may manage webhooks."""

    def __init__(self, edge: Edge) -> None:
        self.edge = edge
        self.token = edge.token("webhooks:manage", "audit:read")
        self.admin = edge.token("admin", organization_id=None)
        self.narrow = edge.token("webhooks:manage", workspace_id=WORKSPACE)
        self.other = edge.token("webhooks:manage", "audit:read", organization_id=OTHER_ORGANIZATION)

    def call(
        self, method: str, path: str = "", token: str | None = None, **options: Any
    ) -> httpx.Response:
        return self.edge.request(method, "/v1/webhooks" + path, token or self.token, **options)

    def create(self, token: str | None = None, **body: Any) -> dict[str, Any]:
        """A new endpoint as it was answered."""
        body = {"url": URL, "event_types": ["*"]} | body
        answer = self.call("POST", token=token, json=body)
        assert answer.status_code == 201, answer.text
        data: dict[str, Any] = answer.json()["data"]
        return data

    def data(self, path: str, token: str | None = None) -> Any:
        answer = self.call("GET", path, token)
        assert answer.status_code == 200, answer.text
        return answer.json()["data"]

    def audited(self, after: int, organization: str = ORGANIZATION) -> list[dict[str, Any]]:
        """The audit log's entries after a position."""
        path = f"/v1/audit-logs?organization_id={organization}&limit=100&after=AUD-26-{after:06d}"
        entries: list[dict[str, Any]] = self.edge.data(path, self.admin)
        return entries

    def refused(self, after: int, organization: str = ORGANIZATION) -> list[tuple[Any, ...]]:
        """(action, code, resource's id) of the refusals recorded after a position."""
        return [
            (entry["action"], entry["code"], entry["resource"] and entry["resource"]["id"])
            for entry in self.audited(after, organization)
            if entry["outcome"] == "refused"
        ]

    def head(self) -> int:
        """The log's last position."""
        return int(self.edge.select("SELECT max(notification_id) FROM ledger.ledger_events")[0][0])


@pytest.fixture(scope="module")
def hooks(server: EmbeddedPostgres) -> Iterator[Hooks]:
    """A service whose webhooks may go to this machine, with a dispatcher."""
    settings = Settings(
        master_key=MASTER_KEY,
        idle_sweep_seconds=3600,
        webhook_allow_private=True,
        webhook_retry_seconds="0.02,0.02",
    )
    with psycopg.connect(server.url, autocommit=True) as connection:
        connection.execute("CREATE DATABASE edge_hooks TEMPLATE ledger_template")
        try:
            conninfo = server.url.replace("/ledger?", "/edge_hooks?")
            with edge_of(settings, conninfo) as edge:
                # On the service's own clock, which stands: what is due is due at once.
                dispatching = Dispatching(settings, conninfo, edge.clock)
                dispatching.start()
                try:
                    yield Hooks(edge)
                finally:
                    dispatching.stop()
        finally:
            connection.execute("DROP DATABASE edge_hooks WITH (FORCE)")


# Setting up.


def test_an_endpoint_is_answered_whole_with_its_secret_which_is_shown_once(hooks: Hooks) -> None:
    answer = hooks.call(
        "POST",
        json={"url": URL, "event_types": ["execution.blocked", "run.failed"], "description": "é"},
    )
    assert answer.status_code == 201
    data = answer.json()["data"]
    assert int(answer.headers["ledger-position"]) == hooks.head()
    secret = data.pop("secret")
    assert secret.startswith("whsec_")
    assert set(data) == KEYS
    assert data["url"] == URL
    assert data["event_types"] == ["execution.blocked", "run.failed"]
    assert (data["organization_id"], data["workspace_id"]) == (ORGANIZATION, None)
    assert (data["description"], data["enabled"]) == ("é", True)
    assert (data["disabled_reason"], data["disabled_at"], data["status"]) == (None, None, None)
    shown = hooks.data(f"/{data['id']}")
    assert shown == data | {"status": {"sequence": 0, "failing_since": None}}
    assert secret not in hooks.call("GET", f"/{data['id']}").text
    assert hooks.call("GET", f"/{data['id']}/deliveries").json() == {
        "data": [],
        "meta": {"cursor": None, "has_more": False},
    }


@pytest.mark.parametrize(
    ("body", "place"),
    [
        ({}, "/url"),
        ({"url": URL}, "/event_types"),
        ({"url": "", "event_types": ["*"]}, "/url"),
        ({"url": 1, "event_types": ["*"]}, "/url"),
        ({"url": "ftp://x.example/", "event_types": ["*"]}, "/url"),
        ({"url": "https://u:p@x.example/", "event_types": ["*"]}, "/url"),
        ({"url": "https://x.example/" + "a" * 2000, "event_types": ["*"]}, "/url"),
        ({"url": URL, "event_types": []}, "/event_types"),
        ({"url": URL, "event_types": "*"}, "/event_types"),
        ({"url": URL, "event_types": ["run.faild"]}, "/event_types"),
        ({"url": URL, "event_types": ["webhook.test"]}, "/event_types"),
        ({"url": URL, "event_types": ["*", "run.failed"]}, "/event_types"),
        ({"url": URL, "event_types": ["*", "*"]}, "/event_types"),
        ({"url": URL, "event_types": ["run.failed", "run.failed"]}, "/event_types"),
        ({"url": URL, "event_types": ["*"], "description": "x" * 501}, "/description"),
        ({"url": URL, "event_types": ["*"], "enabled": "yes"}, "/enabled"),
        ({"url": URL, "event_types": ["*"], "enabled": None}, "/enabled"),
        ({"url": URL, "event_types": ["*"], "organization_id": "ORG-1"}, "/organization_id"),
        ({"url": URL, "event_types": ["*"], "workspace_id": 5}, "/workspace_id"),
        ({"url": URL, "event_types": ["*"], CANARY: 1}, ""),
    ],
    ids=str,
)
def test_a_wrong_field_is_named_recorded_and_changes_nothing(
    hooks: Hooks, body: dict[str, Any], place: str
) -> None:
    before = hooks.head()
    answer = hooks.call("POST", json=body)
    problem = assert_problem(answer, 422, "invalid_request")
    assert place in [error["pointer"] for error in problem["errors"]]
    assert CANARY not in answer.text
    assert hooks.refused(before) == [("webhook.create", "invalid_request", None)]
    assert hooks.head() == before + 1


@pytest.mark.parametrize("body", BROKEN.values(), ids=BROKEN)
def test_a_body_that_is_no_json_is_refused_and_leaves_no_record(hooks: Hooks, body: bytes) -> None:
    before = hooks.head()
    answer = hooks.call("POST", content=planted(body), headers=PLAIN)
    assert_problem(answer, 400, "invalid_request")
    assert CANARY not in answer.text
    assert hooks.head() == before


@pytest.mark.parametrize("hazard", HAZARDS.values(), ids=HAZARDS)
def test_a_body_with_a_hazard_is_refused_and_recorded(hooks: Hooks, hazard: bytes) -> None:
    if len(hazard) > 64_000:
        pytest.skip("too large for a command")
    before = hooks.head()
    sent = b'{"url": "https://x.example/", "event_types": ["*"], "description": %s}' % hazard
    assert_problem(hooks.call("POST", content=sent, headers=PLAIN), 422, "invalid_request")
    assert hooks.refused(before) == [("webhook.create", "invalid_request", None)]


@pytest.mark.parametrize("named", [{}, {"organization_id": ORGANIZATION}])
@pytest.mark.parametrize("workspace", [{}, {"workspace_id": WORKSPACE}])
def test_a_narrowed_credential_sets_up_endpoints_of_its_workspace(
    hooks: Hooks, named: dict[str, str], workspace: dict[str, str]
) -> None:
    data = hooks.create(hooks.narrow, **named, **workspace)
    assert (data["organization_id"], data["workspace_id"]) == (ORGANIZATION, WORKSPACE)


@pytest.mark.parametrize("wrong", [{}, {"url": "nonsense"}, {"event_types": []}])
@pytest.mark.parametrize(
    "tenant", [{"organization_id": OTHER_ORGANIZATION}, {"workspace_id": OTHER_WORKSPACE}]
)
def test_another_tenant_in_the_body_is_403_before_anything_is_422(
    hooks: Hooks, tenant: dict[str, str], wrong: dict[str, Any]
) -> None:
    before = hooks.head()
    body = {"url": URL, "event_types": ["*"]} | tenant | wrong
    token = hooks.narrow if "workspace_id" in tenant else hooks.token
    assert_problem(hooks.call("POST", token=token, json=body), 403, "forbidden")
    assert hooks.refused(before) == [("webhook.create", "forbidden", None)]
    assert hooks.refused(before, OTHER_ORGANIZATION) == []


def test_an_administrator_has_to_say_whose_it_is(hooks: Hooks) -> None:
    body = {"url": URL, "event_types": ["*"]}
    problem = assert_problem(
        hooks.call("POST", token=hooks.admin, json=body), 422, "invalid_request"
    )
    assert [error["pointer"] for error in problem["errors"]] == ["/organization_id"]
    assert (
        hooks.create(hooks.admin, organization_id=ORGANIZATION)["organization_id"] == ORGANIZATION
    )


@pytest.mark.parametrize("host", ["127.0.0.1", "[::1]", "169.254.169.254", "localhost", "10.0.0.1"])
def test_private_targets_are_refused_unless_they_are_allowed(edge: Edge, host: str) -> None:
    assert host.lower() in FORBIDDEN_HOSTS
    token = edge.token("webhooks:manage")
    body = {"url": f"http://{host}/", "event_types": ["*"]}
    answer = edge.post("/v1/webhooks", token, json=body)
    problem = assert_problem(answer, 422, "invalid_request")
    assert [error["pointer"] for error in problem["errors"]] == ["/url"]
    url = "https://93.184.216.34/hooks"
    assert edge.post("/v1/webhooks", token, json=body | {"url": url}).status_code == 201
    (created,) = edge.data("/v1/webhooks?limit=1", token)
    answer = edge.request(
        "PATCH", f"/v1/webhooks/{created['id']}", token, json={"url": body["url"]}
    )
    assert_problem(answer, 422, "invalid_request")
    assert edge.data(f"/v1/webhooks/{created['id']}", token)["url"] == url


# Changing.


@pytest.mark.parametrize(
    "changes",
    [
        {"url": "https://other.example/"},
        {"event_types": ["run.failed"]},
        {"description": "what it is for"},
        {"description": None},
        {"url": "https://other.example/", "event_types": ["*"], "description": None},
    ],
    ids=str,
)
def test_what_is_named_is_changed_and_nothing_else(hooks: Hooks, changes: dict[str, Any]) -> None:
    created = hooks.create(description="first")
    del created["secret"]
    answer = hooks.call("PATCH", f"/{created['id']}", json=changes)
    assert answer.status_code == 200, answer.text
    changed = answer.json()["data"]
    assert changed == created | changes | {"updated_at": changed["updated_at"]}
    assert changed["updated_at"] > created["updated_at"]
    assert hooks.data(f"/{created['id']}") | {"status": None} == changed


def test_an_endpoint_is_disabled_and_enabled(hooks: Hooks) -> None:
    created = hooks.create()
    changed = hooks.call("PATCH", f"/{created['id']}", json={"enabled": False}).json()["data"]
    assert (changed["enabled"], changed["disabled_reason"]) == (False, "operator")
    assert changed["disabled_at"] == changed["updated_at"]
    changed = hooks.call("PATCH", f"/{created['id']}", json={"enabled": True}).json()["data"]
    assert (changed["enabled"], changed["disabled_reason"]) == (True, None)
    assert changed["disabled_at"] is None
    assert hooks.create(enabled=False)["disabled_reason"] == "operator"


@pytest.mark.parametrize(
    "body",
    [
        {}, {"url": None}, {"event_types": None}, {"enabled": None}, {"url": "x"}, [], None,
        {"organization_id": ORGANIZATION}, {"workspace_id": WORKSPACE}, {"id": NOBODYS},
        {"secret": "whsec_x"}, {"event_types": ["x"]},
    ],
    ids=str,
)  # fmt: skip
def test_a_wrong_change_is_a_422_that_is_recorded(hooks: Hooks, body: Any) -> None:
    created = hooks.create()
    before, shown = hooks.head(), hooks.data(f"/{created['id']}")
    answer = hooks.call("PATCH", f"/{created['id']}", content=dumps(body), headers=PLAIN)
    assert_problem(answer, 422, "invalid_request")
    assert hooks.refused(before) == [("webhook.update", "invalid_request", created["id"])]
    assert hooks.data(f"/{created['id']}") == shown


def test_a_deleted_endpoint_is_unknown_to_everything(hooks: Hooks) -> None:
    created = hooks.create()
    answer = hooks.call("DELETE", f"/{created['id']}")
    assert (answer.status_code, answer.content) == (204, b"")
    assert int(answer.headers["ledger-position"]) == hooks.head()
    assert created["id"] not in [one["id"] for one in hooks.data("?limit=100")]
    for method, path, body in every_route(created["id"]):
        assert_problem(hooks.call(method, path, json=body), 404, "not_found")


# Access.


def every_route(endpoint_id: str) -> list[tuple[str, str, Any]]:
    """Every route about one endpoint, with a body that would do."""
    return [
        ("GET", f"/{endpoint_id}", None),
        ("GET", f"/{endpoint_id}/deliveries", None),
        ("PATCH", f"/{endpoint_id}", {"description": None}),
        ("POST", f"/{endpoint_id}/rotate-secret", {}),
        ("POST", f"/{endpoint_id}/recover", {"since": "2026-04-15T00:00:00Z"}),
        ("POST", f"/{endpoint_id}/test", {}),
        ("DELETE", f"/{endpoint_id}", None),
    ]


ACTIONS = {
    "PATCH": "webhook.update",
    "DELETE": "webhook.delete",
    "rotate-secret": "webhook.rotate_secret",
    "recover": "webhook.recover",
    "test": "webhook.test",
}


def action_of(method: str, path: str) -> str | None:
    return ACTIONS.get(method) or ACTIONS.get(path.rsplit("/", 1)[1])


@pytest.mark.parametrize("endpoint_id", [NOBODYS, "WHK-26-1", "nonsense", "LIN-26-000001"])
def test_what_is_nobodys_is_404_and_each_command_about_it_is_recorded(
    hooks: Hooks, endpoint_id: str
) -> None:
    for method, path, body in every_route(endpoint_id):
        before = hooks.head()
        assert_problem(hooks.call(method, path, json=body), 404, "not_found")
        action = action_of(method, path)
        named = endpoint_id if endpoint_id == NOBODYS else None
        expected = [] if action is None else [(action, "not_found", named)]
        assert hooks.refused(before) == expected


def test_another_tenants_endpoint_does_not_exist(hooks: Hooks) -> None:
    beside = hooks.create(workspace_id=OTHER_WORKSPACE)["id"]
    theirs = hooks.create(hooks.other)["id"]
    whole = hooks.create()["id"]
    for token, endpoint_id in (
        (hooks.token, theirs),
        (hooks.other, beside),
        (hooks.narrow, beside),
        (hooks.narrow, whole),
    ):
        listed = [one["id"] for one in hooks.data("?limit=100", token)]
        assert endpoint_id not in listed
        for method, path, body in every_route(endpoint_id):
            answer = hooks.call(method, path, token, json=body)
            nobodys = hooks.call(method, path.replace(endpoint_id, NOBODYS), token, json=body)
            assert_problem(answer, 404, "not_found")
            assert answer.json()["detail"] == nobodys.json()["detail"]
    for endpoint_id in (beside, theirs, whole):
        assert hooks.data(f"/{endpoint_id}", hooks.admin)["enabled"]


def test_the_right_to_manage_webhooks_is_needed_everywhere(hooks: Hooks) -> None:
    others = hooks.edge.token("read", "write", "service_lines:manage", "audit:read")
    endpoint_id = hooks.create()["id"]
    routes = [("GET", "", None), ("POST", "", {"url": URL, "event_types": ["*"]})]
    for method, path, body in [*every_route(endpoint_id), *routes]:
        before = hooks.head()
        assert_problem(hooks.call(method, path, others, json=body), 403, "forbidden")
        assert_problem(hooks.call(method, path, "elk_nonsense", json=body), 401, "unauthorized")
        if method != "GET":
            ((action, code, _),) = hooks.refused(before)
            assert (action, code) == (
                action_of(method, path or "/") or "webhook.create",
                "forbidden",
            )


def test_unknown_parameters_are_refused(hooks: Hooks) -> None:
    endpoint_id = hooks.create()["id"]
    for method, path, body in every_route(endpoint_id):
        answer = hooks.call(method, path + "?nonsense=1", json=body)
        assert_problem(answer, 422, "invalid_request")


# Lists.


def test_the_list_is_walked_newest_first_and_filtered(hooks: Hooks) -> None:
    made = [hooks.create(workspace_id=f"WS-26-00010{n}")["id"] for n in range(3)]
    everything = hooks.data("?limit=100")
    assert [one["id"] for one in everything][:3] == made[::-1]
    assert all(set(one) == KEYS for one in everything)
    assert all(one["organization_id"] == ORGANIZATION for one in everything)
    walked: list[str] = []
    cursor, has_more = "", True
    while has_more:
        page = hooks.call("GET", "?limit=2" + cursor).json()
        walked += [one["id"] for one in page["data"]]
        cursor, has_more = f"&cursor={page['meta']['cursor']}", page["meta"]["has_more"]
    assert walked == [one["id"] for one in everything]
    (one,) = hooks.data("?workspace_id=WS-26-000101")
    assert one["id"] == made[1]
    assert hooks.data(f"?organization_id={OTHER_ORGANIZATION}") == []
    ours = hooks.data(f"?organization_id={ORGANIZATION}&limit=100", hooks.admin)
    assert ours == everything
    answer = hooks.call("GET", "?workspace_id=WS-26-000101" + cursor)
    assert_problem(answer, 400, "invalid_cursor")
    assert_problem(hooks.call("GET", "?limit=0"), 422, "invalid_request")


# Commands under a key.


@pytest.mark.parametrize("number", range(4))
def test_a_request_that_is_sent_again_under_its_key_is_answered_the_same(
    hooks: Hooks, number: int
) -> None:
    endpoint_id = hooks.create()["id"]
    path, body = [
        ("", {"url": URL, "event_types": ["*"]}),
        (f"/{endpoint_id}/rotate-secret", {}),
        (f"/{endpoint_id}/recover", {"since": "2026-04-15T00:00:00Z"}),
        (f"/{endpoint_id}/test", {}),
    ][number]
    headers = {"idempotency-key": f"key-{number}"}
    first = hooks.call("POST", path, json=body, headers=headers)
    assert first.status_code < 300, first.text
    end = hooks.head()
    hooks.call("PATCH", f"/{endpoint_id}", json={"description": "changed since"})
    again = hooks.call("POST", path, json=body, headers=headers)
    assert (again.status_code, again.json()) == (first.status_code, first.json())
    assert again.headers["idempotency-replayed"] == "true"
    assert again.headers["ledger-position"] == first.headers["ledger-position"]
    assert hooks.head() == end + 1, "the change alone"
    other = hooks.call("POST", path, json=body | {"x": 1}, headers=headers)
    assert_problem(other, 422, "idempotency_key_reused")


@pytest.mark.parametrize("action", ["rotate-secret", "test"])
@pytest.mark.parametrize("options", [{}, {"json": {}}, {"content": b"", "headers": PLAIN}])
def test_where_nothing_is_needed_the_body_may_be_empty(
    hooks: Hooks, action: str, options: dict[str, Any]
) -> None:
    endpoint_id = hooks.create()["id"]
    answer = hooks.call("POST", f"/{endpoint_id}/{action}", **options)
    assert answer.status_code == (200 if action == "rotate-secret" else 202)
    assert_problem(
        hooks.call("POST", f"/{endpoint_id}/{action}", json={"x": 1}), 422, "invalid_request"
    )


def test_a_rotated_secret_is_another_one_shown_once(hooks: Hooks) -> None:
    created = hooks.create()
    answer = hooks.call("POST", f"/{created['id']}/rotate-secret")
    rotated = answer.json()["data"]
    assert set(rotated) == KEYS | {"secret"}
    assert rotated["secret"] != created["secret"]
    for _ in range(8):
        assert hooks.call("POST", f"/{created['id']}/rotate-secret").status_code == 200
    answer = hooks.call("POST", f"/{created['id']}/rotate-secret")
    assert_problem(answer, 409, "invalid_state")


@pytest.mark.parametrize(
    "body", [{}, {"since": None}, {"since": "yesterday"}, {"since": "2026-04-15"}, {"since": 1},
             {"since": "2026-04-15T00:00:00"}, {"since": "2026-04-15T12:00:01Z", "x": 1}],
    ids=str,
)  # fmt: skip
def test_a_wrong_recovery_is_refused(hooks: Hooks, body: Any) -> None:
    endpoint_id = hooks.create()["id"]
    answer = hooks.call("POST", f"/{endpoint_id}/recover", json=body)
    assert_problem(answer, 422, "invalid_request")


def test_neither_the_future_nor_a_disabled_endpoint_is_recovered(hooks: Hooks) -> None:
    endpoint_id = hooks.create()["id"]
    answer = hooks.call("POST", f"/{endpoint_id}/recover", json={"since": "2027-01-01T00:00:00Z"})
    problem = assert_problem(answer, 422, "invalid_request")
    assert [error["pointer"] for error in problem["errors"]] == ["/since"]
    hooks.call("PATCH", f"/{endpoint_id}", json={"enabled": False})
    answer = hooks.call("POST", f"/{endpoint_id}/recover", json={"since": "2026-01-01T00:00:00Z"})
    assert_problem(answer, 409, "invalid_state")


# Deliveries.


def settled(hooks: Hooks, endpoint_id: str, count: int, query: str = "") -> list[dict[str, Any]]:
    """An endpoint's deliveries, once there are so many and none is pending."""
    found: list[list[dict[str, Any]]] = []

    def look() -> bool:
        hooks.edge.clock.advance(seconds=1)
        found[:] = [hooks.data(f"/{endpoint_id}/deliveries?limit=100{query}")]
        return len(found[0]) == count and all(one["status"] != "pending" for one in found[0])

    until(look, "deliveries")
    return found[0]


def test_deliveries_are_shown_newest_first_with_their_attempts(hooks: Hooks) -> None:
    line, reporter = hooks.edge.fresh("capacity"), hooks.edge.token("write")
    answers = iter([Answer(500, b'{"no": "\xff"}'), Answer(204), Answer(200), Answer(200)])
    with Receiver(lambda _: next(answers)) as receiver:
        created = hooks.create(url=receiver.url, event_types=["execution.checked_in"])
        endpoint_id = created["id"]
        for number in range(2):
            (item,) = hooks.edge.accept(
                fact("execution.checked_in", line, {"hours": 1}), token=reporter
            )
            settled(hooks, endpoint_id, number + 1)
        hooks.call("POST", f"/{endpoint_id}/test")
        test, second, first = settled(hooks, endpoint_id, 3)
        for request in receiver.requests:
            json.loads(request.body)
        bodies = [json.loads(request.body) for request in receiver.requests]
    assert [body["sequence"] for body in bodies] == [1, 1, 2, 0]
    assert second["event_id"] == item["event_ids"][0] == bodies[2]["id"]
    assert (second["type"], second["sequence"]) == ("execution.checked_in", 2)
    assert (first["sequence"], first["status"], first["next_attempt_at"]) == (1, "delivered", None)
    assert set(first) == {
        "event_id", "type", "sequence", "status", "attempts", "next_attempt_at"
    }  # fmt: skip
    failed, delivered = first["attempts"]
    assert set(failed) == {"at", "response_status", "latency_ms", "error", "response_body"}
    assert (failed["response_status"], failed["response_body"]) == (500, '{"no": "�"}')
    assert (delivered["response_status"], delivered["error"]) == (204, None)
    assert (test["type"], test["sequence"], test["status"]) == ("webhook.test", 0, "delivered")
    assert hooks.data(f"/{endpoint_id}")["status"] == {"sequence": 2, "failing_since": None}
    assert bodies[3]["type"] == "webhook.test"
    assert bodies[3]["subject"] == {"type": "webhook", "id": endpoint_id}


def test_deliveries_are_walked_and_filtered_by_status(hooks: Hooks) -> None:
    line = hooks.edge.fresh("capacity")

    def answer(request: Any) -> Answer:
        return Answer(500 if json.loads(request.body)["sequence"] % 2 else 200)

    with Receiver(answer) as receiver:
        endpoint_id = hooks.create(url=receiver.url, event_types=["execution.checked_in"])["id"]
        hooks.edge.accept(*(fact("execution.checked_in", line, {"hours": 1}) for _ in range(5)))
        found = settled(hooks, endpoint_id, 5)
    assert [one["sequence"] for one in found] == [5, 4, 3, 2, 1]
    path = f"/{endpoint_id}/deliveries"
    for status in ("failed", "delivered", "failed,delivered", "pending,failed"):
        wanted = [one for one in found if one["status"] in status.split(",")]
        walked: list[dict[str, Any]] = []
        cursor, has_more = "", True
        while has_more:
            page = hooks.call("GET", f"{path}?limit=1&status={status}{cursor}").json()
            walked += page["data"]
            cursor, has_more = f"&cursor={page['meta']['cursor']}", page["meta"]["has_more"]
        assert walked == wanted
    assert [one["sequence"] for one in found if one["status"] == "failed"] == [5, 3, 1]
    assert len(found[0]["attempts"]) == 3
    assert_problem(hooks.call("GET", f"{path}?status=lost"), 422, "invalid_request")
    assert_problem(hooks.call("GET", f"{path}?limit=2{cursor}"), 400, "invalid_cursor")


def test_what_is_not_begun_or_waits_is_shown_as_pending(hooks: Hooks) -> None:
    line = hooks.edge.fresh("capacity")
    with Receiver(lambda _: Answer(action="hang")) as receiver:
        endpoint_id = hooks.create(url=receiver.url, event_types=["execution.checked_in"])["id"]
        hooks.edge.accept(*(fact("execution.checked_in", line, {"hours": 1}) for _ in range(20)))
        receiver.await_count(16)
        found = hooks.data(f"/{endpoint_id}/deliveries")
        assert [one["sequence"] for one in found] == list(range(20, 0, -1))
        assert {(one["status"], tuple(one["attempts"])) for one in found} == {("pending", ())}
        assert [one["next_attempt_at"] for one in found[:4]] == [None] * 4
        assert all(one["next_attempt_at"] for one in found[4:])
        assert hooks.data(f"/{endpoint_id}/deliveries?status=pending") == found
        assert hooks.data(f"/{endpoint_id}/deliveries?status=pending&limit=3") == found[:3]
        assert hooks.data(f"/{endpoint_id}/deliveries?status=failed") == []
        hooks.call("PATCH", f"/{endpoint_id}", json={"enabled": False})
        found = hooks.data(f"/{endpoint_id}/deliveries")
        assert {one["next_attempt_at"] for one in found} == {None}
        hooks.call("DELETE", f"/{endpoint_id}")


def test_each_act_is_in_the_audit_log_and_none_in_the_feed(hooks: Hooks) -> None:
    before = hooks.head()
    endpoint_id = hooks.create()["id"]
    for method, path, body in every_route(endpoint_id):
        assert hooks.call(method, path, json=body).status_code < 300
    entries = hooks.audited(before)
    assert [entry["action"] for entry in entries] == [
        "webhook.create", "webhook.update", "webhook.rotate_secret", "webhook.recover",
        "webhook.test", "webhook.delete",
    ]  # fmt: skip
    assert {entry["resource"]["id"] for entry in entries} == {endpoint_id}
    feed = hooks.edge.data("/v1/events?limit=100&type=webhook.delivery_failed")
    assert [event for event in feed if event["position"] > before] == []


def test_signatures_verify_with_the_secret_that_was_answered(hooks: Hooks) -> None:
    with Receiver() as receiver:
        created = hooks.create(url=receiver.url)
        hooks.edge.accept(activation(hooks.edge.fresh_id()))
        (request,) = receiver.await_count(1)
        # The clock of these tests stands long ago: the package would find it too old.
        with pytest.raises(Exception, match="too old"):
            body_of(request, created["secret"])
        assert body_of(request)["type"] == "execution.started"
