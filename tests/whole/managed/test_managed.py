"""Rules for all things that people manage: each is set up, changed, ended, audited and listed."""

from typing import Any

import httpx
import pytest

from ledger.app.features import routers
from ledger.engine.http.lean import ManagedRouter
from ledger.engine.values.values import parse_instant
from tests.facts.test_bad_bodies import CANARY
from tests.support.edge import PLAIN, Edge, assert_problem
from tests.whole.managed.things import (
    ABSENT,
    ELSEWHERE,
    KEYS,
    SIBLING,
    STATEMENTS,
    THINGS,
    WEBHOOKS,
    Act,
    Site,
    Thing,
    lasting,
)


def named(value: Any) -> str:
    return value.path if isinstance(value, Thing) else str(value)


@pytest.fixture(params=THINGS, ids=named)
def site(edge: Edge, request: pytest.FixtureRequest) -> Site:
    return Site(edge, request.param)


def of(*things: Thing) -> pytest.MarkDecorator:
    """The test of these things alone."""
    return pytest.mark.parametrize("site", things, indirect=True, ids=named)


CHANGED = [thing for thing in THINGS if thing.update]


def test_every_managed_router_has_a_row() -> None:
    found = {each.prefix for each in routers() if isinstance(each, ManagedRouter)}
    # Nobody sets up an alert or a session: tests/watches and tests/sign_in have their tests.
    assert found - {f"/v1/{thing.path}" for thing in THINGS} == {"/v1/alerts", "/v1/sessions"}


# Setting up.


def test_a_new_thing_is_answered_listed_and_shown_with_its_secret_given_once(site: Site) -> None:
    thing = site.thing
    answer = site.send(**thing.more)
    assert answer.status_code == 201, answer.text
    assert int(answer.headers["ledger-position"]) == site.head()
    data = answer.json()["data"]
    assert [*data] == thing.answered
    secret = data.pop(thing.secret) if thing.secret else None
    assert (answer.headers["cache-control"] == "no-store") == bool(secret)
    row = site.rows()[0]
    assert [*row] == thing.row.split()
    assert row | lasting(data) == row
    expected = {"organization_id": site.organization, "workspace_id": None} | thing.defaults
    assert row | expected | thing.more == row
    for path in (f"/{data['id']}", ""):
        view = site.call("GET", path)
        assert view.headers["cache-control"].startswith("private, no-cache")
        assert secret is None or secret not in view.text
        if path and thing is not STATEMENTS:
            assert lasting(view.json()["data"]) == lasting(row)


@pytest.mark.parametrize(
    ("site", "pointer", "wrong"),
    [
        *((t, pointer, [{pointer.split("/")[1]: v} for v in t.wrong[pointer]])
          for t in THINGS for pointer in t.wrong),
        *((t, pointer, [body]) for t in THINGS for body, pointer in t.together),
    ],
    indirect=["site"],
    ids=lambda value: "" if isinstance(value, list) else named(value),
)  # fmt: skip
def test_a_wrong_field_is_named_recorded_and_changes_nothing(
    site: Site, pointer: str, wrong: list[dict[str, Any]]
) -> None:
    update, made = site.thing.update, None if site.thing is STATEMENTS else site.make()
    before, recorded = site.head(), list[Any]()
    for body in wrong:
        answer = site.send(**body)
        problem = assert_problem(answer, 422, "invalid_request")
        assert pointer in [error["pointer"] for error in problem["errors"]]
        assert CANARY not in answer.text
        recorded.append((site.thing.creates, "invalid_request", None))
        sent = {name: value for name, value in body.items() if value is not ABSENT}
        if update and made and sent and not {"organization_id", "workspace_id"} & {*sent}:
            answer = site.act(update, made["id"], json=sent)
            problem = assert_problem(answer, 422, "invalid_request")
            # A field that nobody changes is unknown as a whole.
            assert any(pointer.startswith(error["pointer"]) for error in problem["errors"])
            recorded.append((update.action, "invalid_request", made["id"]))
    assert site.entries(before) == recorded
    assert site.head() == before + len(recorded)
    assert made is None or site.row(made["id"]) == made


def test_a_credential_of_a_workspace_sets_up_things_of_that(site: Site) -> None:
    own = {"organization_id": site.organization, "workspace_id": site.workspace}
    for names in ((), ("organization_id",), ("workspace_id",), (*own,)):
        row = site.make(site.narrow, **{name: own[name] for name in names})
        assert row | own == row


def test_another_tenant_in_a_body_is_a_403_before_any_422(site: Site) -> None:
    for token, tenant in (
        (site.token, {"organization_id": ELSEWHERE}),
        (site.narrow, {"organization_id": ELSEWHERE}),
        (site.narrow, {"workspace_id": SIBLING}),
        (site.narrow, {"workspace_id": None}),
    ):
        before = site.head()
        for wrong in ({}, {"nonsense": 1}, dict.fromkeys(site.thing.body)):
            assert_problem(site.send(token, **tenant, **wrong), 403, "forbidden")
        assert site.entries(before) == [(site.thing.creates, "forbidden", None)] * 3
        assert site.entries(before, ELSEWHERE) == []


def test_an_administrator_names_the_organization(site: Site) -> None:
    problem = assert_problem(site.send(site.admin), 422, "invalid_request")
    assert problem["errors"] == [{"pointer": "/organization_id", "detail": "is required"}]
    named = {"organization_id": site.organization}
    answer = site.send(site.admin, **named, workspace_id=site.workspace)
    assert answer.status_code == 201, answer.text
    for token in (site.token, site.narrow, site.admin):
        assert answer.json()["data"]["id"] in site.ids(token, **named)


@of(*(thing for thing in THINGS if thing.most))
def test_an_organization_has_at_most_so_many_until_one_is_removed(site: Site) -> None:
    made = [site.send().json()["data"]["id"] for _ in range(site.thing.most or 0)]
    before = site.head()
    problem = assert_problem(site.send(), 409, "invalid_state")
    assert str(site.thing.most) in problem["detail"]
    assert site.entries(before) == [(site.thing.creates, "invalid_state", None)]
    assert_problem(site.send(nonsense=1), 422, "invalid_request")
    assert site.act(site.thing.acts[-1], made[7]).status_code == 204
    site.make()
    assert_problem(site.send(), 409, "invalid_state")


# Changing.


@of(*CHANGED)
def test_a_change_changes_the_fields_that_it_names_and_nothing_else(site: Site) -> None:
    made = site.make(**site.thing.more)
    update = site.thing.update
    assert update is not None
    for change in site.thing.changes:
        answer = site.act(update, made["id"], json=change)
        assert answer.status_code == 200, answer.text
        changed = lasting(answer.json()["data"])
        for name in {"updated_at"} & {*made}:
            assert parse_instant(changed[name]) > parse_instant(made[name])
            made[name] = changed[name]
        assert changed == made | change
        made = site.row(made["id"])
        assert made == changed
        assert answer.headers["cache-control"] == "private, no-cache"


@of(KEYS, WEBHOOKS)
def test_a_change_that_names_another_tenant_is_a_403_before_any_422(site: Site) -> None:
    own, narrow, update = site.make()["id"], site.make(site.narrow)["id"], site.thing.acts[0]
    for token, made, tenant in (
        (site.token, own, {"organization_id": ELSEWHERE}),
        (site.narrow, narrow, {"workspace_id": SIBLING}),
        (site.narrow, narrow, {"workspace_id": None}),
    ):
        before = site.head()
        for wrong in ({}, {"nonsense": 1}):
            answer = site.act(update, made, token, json=tenant | wrong)
            assert_problem(answer, 403, "forbidden")
        assert site.entries(before) == [(update.action, "forbidden", made)] * 2


@of(*CHANGED)
def test_a_change_names_a_field_and_neither_organization_nor_workspace(site: Site) -> None:
    made, update = site.make(), site.thing.update
    assert update is not None
    tenants = ({"organization_id": site.organization}, {"workspace_id": None})
    before, bodies = site.head(), ({}, [], None, *tenants, *site.thing.no_changes)
    for body in bodies:
        answer = site.act(update, made["id"], json=body, headers=PLAIN)
        problem = assert_problem(answer, 422, "invalid_request")
        if body in tenants:
            pointer = f"/{next(iter(body))}"
            assert problem["errors"] == [{"pointer": pointer, "detail": "is not known"}]
    entry = (update.action, "invalid_request", made["id"])
    assert site.entries(before) == [entry] * len(bodies)
    assert site.row(made["id"]) == made


# Every command.


def test_each_command_is_carried_out_and_audited_until_the_end_of_the_thing(site: Site) -> None:
    before, acts = site.head(), site.thing.acts
    made = site.make()["id"]
    for act in acts:
        answer = site.act(act, made)
        assert answer.status_code == act.status, answer.text
        assert int(answer.headers["ledger-position"]) == site.head()
        assert act.status != 204 or answer.content == b""
    actions = [act.action for act in site.thing.all_acts]
    assert site.entries(before) == [(action, None, made) for action in actions]
    feed = site.edge.data(f"/v1/events?limit=100&after=EVT-26-{before:06d}", site.admin)
    subjects = {event["subject"]["id"] for event in feed}
    assert (made in subjects) == (site.thing is STATEMENTS), "the others are no part of the record"
    before, (status, code) = site.head(), site.thing.ended
    for act in acts:
        assert_problem(site.act(act, made), status, code)
    assert site.entries(before) == [(act.action, code, made) for act in acts]
    assert (made in site.ids()) == (status != 404)
    for path in site.thing.reads:
        assert (site.call("GET", f"/{made}{path}").status_code == 404) == (status == 404)


def test_a_wrong_field_of_a_command_about_a_thing_is_named_and_recorded(site: Site) -> None:
    made, before, recorded = site.make()["id"], site.head(), list[Any]()
    for act in site.thing.acts:
        for pointer, values in act.wrong:
            for value in values:
                body = act.body | ({pointer[1:]: value} if value is not ABSENT else {})
                if value is ABSENT:
                    del body[pointer[1:]]
                problem = assert_problem(site.act(act, made, json=body), 422, "invalid_request")
                assert [error["pointer"] for error in problem["errors"]] == [pointer]
                recorded.append((act.action, "invalid_request", made))
    assert site.entries(before) == recorded


@of(KEYS, WEBHOOKS)
def test_a_command_that_needs_no_field_accepts_an_empty_body(site: Site) -> None:
    made = site.make()["id"]
    for act in site.thing.acts:
        for options in ({}, {"json": {}}, {"content": b"", "headers": PLAIN}):
            if act.body == {}:
                answer = site.call(act.method, f"/{made}{act.path}", **options)
                assert answer.status_code == act.status, answer.text


def test_an_unknown_thing_is_a_404_before_any_422_and_each_command_is_recorded(site: Site) -> None:
    nobodys = site.thing.nobodys
    for thing_id in (nobodys, f"{site.thing.prefix}-26-1", "nonsense", "LIN-26-000001"):
        before, recorded = site.head(), list[Any]()
        for path in site.thing.reads:
            assert_problem(site.call("GET", f"/{thing_id}{path}"), 404, "not_found")
        for act in site.thing.acts:
            for body in filter(None, (act.body, {"nonsense": 1})):
                answer = site.act(act, thing_id, json=body)
                assert_problem(answer, 404, "not_found")
                recorded.append(
                    (act.action, "not_found", thing_id if thing_id == nobodys else None)
                )
        assert site.entries(before) == recorded


def test_without_the_permission_each_command_is_a_403_before_any_other_refusal(site: Site) -> None:
    made, managing = site.make()["id"], site.thing.rights[-1]
    others = site.new_token(*({"read", "write", "service_lines:manage"} - {managing}))
    for thing_id in (made, site.thing.nobodys):
        before, recorded = site.head(), list[Any]()
        for act in site.thing.all_acts:
            path = "" if act.status == 201 else f"/{thing_id}{act.path}"
            for body in (act.body, {"nonsense": 1}):
                answer = site.call(act.method, path, others, json=body)
                assert_problem(answer, 403, "forbidden")
                recorded.append((act.action, "forbidden"))
            answer = site.call(act.method, path, "elk_nonsense", json=act.body)
            assert_problem(answer, 401, "unauthorized")
        assert [entry[:2] for entry in site.entries(before)] == recorded


def test_a_command_that_is_sent_again_under_its_key_is_replayed(site: Site) -> None:
    for number, act in enumerate(site.thing.all_acts):
        if act.body is None:
            continue
        made = site.make()["id"]
        path = "" if act.status == 201 else f"/{made}{act.path}"

        def send(body: Any) -> httpx.Response:
            headers = {"idempotency-key": f"key-{number}"}  # noqa: B023
            return site.call(act.method, path, json=body, headers=headers)  # noqa: B023

        first = send(act.body)
        assert first.status_code == act.status, first.text
        if update := site.thing.update:
            assert site.act(update, made, json=site.thing.changes[0]).status_code == 200
        before = site.head()
        again = send(act.body)
        assert (again.status_code, again.json()) == (first.status_code, first.json())
        assert again.headers["idempotency-replayed"] == "true"
        assert "idempotency-replayed" not in first.headers
        for name in ("ledger-position", "cache-control"):
            assert again.headers[name] == first.headers[name]
        assert site.head() == before
        assert_problem(send(act.body | {"x": 1}), 422, "idempotency_key_reused")


# Tenants.


def test_a_thing_of_another_tenant_is_answered_like_an_unknown_one(site: Site) -> None:
    neighbour = Site(site.edge, site.thing)
    theirs = neighbour.make()
    of_all, in_workspace = site.make(), site.make(workspace_id=SIBLING)
    for token, thing in (
        (site.token, theirs),
        (neighbour.token, in_workspace),
        (site.narrow, in_workspace),
        (site.narrow, of_all),
    ):
        assert thing["id"] not in site.ids(token)
        reads = [Act("GET", path, None, "") for path in site.thing.reads]
        for act in (*reads, *site.thing.acts):
            answer, unknown = (
                site.act(act, thing_id, token) for thing_id in (thing["id"], site.thing.nobodys)
            )
            assert_problem(answer, 404, "not_found")
            assert answer.json()["detail"] == unknown.json()["detail"]
    assert [site.row(each["id"]) for each in (of_all, in_workspace)] == [of_all, in_workspace]
    assert neighbour.row(theirs["id"]) == theirs


# Lists.


def test_the_list_is_walked_newest_first_and_filtered(site: Site) -> None:
    made = [site.make(workspace_id=f"WS-26-00010{n % 2}")["id"] for n in range(5)]
    everything = site.ids()
    assert everything[:5] == made[::-1]
    walked, params = list[str](), dict[str, Any](limit=2)
    while True:
        page = site.call("GET", params=params).json()
        walked += [row["id"] for row in page["data"]]
        params["cursor"] = page["meta"]["cursor"]
        if not page["meta"]["has_more"]:
            break
    assert walked == everything
    assert site.rows(**params) == []
    assert site.ids(workspace_id="WS-26-000101") == [made[3], made[1]]
    assert site.ids(site.narrow, workspace_id="WS-26-000101") == []
    assert site.ids(site.admin, organization_id=site.organization)[-5:] == everything[-5:]
    assert site.ids(organization_id=site.organization)[-5:] == everything[-5:]
    assert site.ids(organization_id=ELSEWHERE) == []
    for more in ({"workspace_id": "WS-26-000101"}, {"organization_id": site.organization}):
        answer = site.call("GET", params=params | more)
        assert_problem(answer, 400, "invalid_cursor")
    assert_problem(site.call("GET", "?cursor=nonsense"), 400, "invalid_cursor")
    for wrong in ("limit=0", "limit=101", "as_of=2026-04-15", "nonsense=1"):
        assert_problem(site.call("GET", f"?{wrong}"), 422, "invalid_request")


def test_a_cursor_of_another_list_is_refused(site: Site) -> None:
    for _ in range(2):
        site.make()
    cursor = site.call("GET", "?limit=1").json()["meta"]["cursor"]
    for other in THINGS:
        if other is not site.thing:
            stranger = Site(site.edge, other)
            answer = stranger.call("GET", params={"cursor": cursor})
            assert_problem(answer, 400, "invalid_cursor")
