"""Usage across lines under attack: parameters, cursors, tenants, load (contract, Reading)."""

import asyncio
import base64
import json
from datetime import UTC, datetime
from typing import Any

import pytest

from ledger.app.composition.api import create_api
from ledger.app.settings import Settings
from ledger.engine.reads.as_of import AsOf
from ledger.engine.values.principal import ANY, Tenant
from ledger.engine.values.values import micros_of, sort_key
from ledger.features.usage.model.usage import Grouping, LineInScope
from ledger.features.usage.reads.usage import Summing, UsageScope
from tests.support.edge import Edge, assert_problem
from tests.support.facts import ORGANIZATION, WORKSPACE, fact
from tests.support.rebuilding import rebuild, view
from tests.support.soak import repeated
from tests.support.webhook_api import OTHER_ORGANIZATION, OTHER_WORKSPACE

USAGE = "/v1/usage"
SPRING = {"from": "2026-04-01", "to": "2026-07-01"}
GROUPINGS = (
    "workspace", "service_line", "product_line", "project", "resource", "model", "month", "day",
    "service_line,model", "project,day",
)  # fmt: skip


def line_with_usage(edge: Edge, **more: Any) -> str:
    """A line with a check-in, a run and a model of its own."""
    line = edge.fresh(name="ours", project_tags=["tag"], **more)
    token = more.get("token")
    begun = fact("run.started", None, {"service_line_id": line})
    (run, _) = edge.accept(
        begun, fact("execution.checked_in", line, {"hours": 1, "resource_id": "ada"}), token=token
    )
    models = {"token_usage": [{"model": "m", "input": 3}]}
    edge.accept(fact("run.completed", run["subject"], models), token=token)
    return line


@pytest.fixture(scope="module")
def lines(edge: Edge) -> list[str]:
    """Four lines, the only ones of their organization until a test adds more."""
    found = [line_with_usage(edge) for _ in range(4)]
    edge.clock.advance(seconds=1)
    return found


def page(edge: Edge, token: str | None = None, **params: Any) -> dict[str, Any]:
    answer = edge.get(USAGE, token, params={n.rstrip("_"): v for n, v in params.items()})
    assert answer.status_code == 200, answer.text
    document: dict[str, Any] = answer.json()
    return document


def usage_of(edge: Edge, token: str | None = None, **params: Any) -> dict[str, Any]:
    data: dict[str, Any] = page(edge, token, **params)["data"]
    return data


# Parameters.


@pytest.mark.parametrize(
    ("query", "pointer"),
    [
        *((f"group_by={words}", "/group_by") for words in (
            "", "x", "service_line,", "Service_line", "+day", "day%0A", "day,day", "month,day",
            "day,workspace", "month,model", "workspace,project,day", "model,product_line",
            "execution_model,model", "model,resource", "resource,model",
        )),
        ("group_by=day&group_by=day", ""),
        ("group_by=workspace&group_by=day", ""),
        *((f"group_by={words}&resource_id=a", "/resource_id") for words in ("model", "model,day")),
        *((f"time_zone={zone}", "/time_zone") for zone in (
            "", "Mars/Phobos", "europe/berlin", "../UTC", "Factory", "posixrules", "A" * 65,
            "%C3%84", "UTC%0A",
        )),
        ("time_zone=UTC&time_zone=UTC", ""),
        *((f"from={date}", "/from") for date in (
            "", "2026-02-30", "2026-04-31", "2026-13-01", "2026-4-1", "0001-01-01", "2100-01-01",
            "2026-04-15T12:00:00", "now", "-1", "2026-04-15%00",
        ) if "%00" not in date),
        ("from=2026-05-01&to=2026-04-01", "/to"),
        ("from=2026-01-01&to=2027-02-06", "/from"),
        ("from=2026-01-01T23:00:00Z&to=2027-02-05T00:00:00.000001Z", "/from"),
        ("from=2026-01-01T00:00:00Z&to=2027-02-05T00:00:00Z&time_zone=Asia/Kolkata", "/from"),
        *((f"as_of={at}", "/as_of") for at in ("", "2026-04-31", "2026-05-01", "2099-12-31")),
        *((f"limit={limit}", "/limit") for limit in (
            "", "0", "1001", "5.0", "-1", "%2B5", "1_0", "1e2", "9" * 30, "%D9%A5",
        )),
        *((f"{name}=", f"/{name}") for name in (
            "organization_id", "workspace_id", "service_line_id", "project_tag", "resource_id",
        )),
        ("organization_id=" + "x" * 201, "/organization_id"),
        ("execution_model=x", "/execution_model"),
        ("product_line=agent_gateway,", "/product_line"),
        ("service_line_id=" + "x," * 1_000, "/service_line_id"),
        ("resource_id=" + "x" * 2_001, "/resource_id"),
        ("workspace_id=%00", ""),
        ("cursor=%00", ""),
        ("nonsense=1", "/nonsense"),
        ("state=running", "/state"),
        ("format=csv", "/format"),
    ],
)  # fmt: skip
def test_a_wrong_parameter_is_named(edge: Edge, lines: list[str], query: str, pointer: str) -> None:
    problem = assert_problem(edge.get(f"{USAGE}?{query}"), 422, "invalid_request")
    assert [error["pointer"] for error in problem["errors"]] == [pointer]


def test_a_period_may_touch_four_hundred_dates_of_the_zone(edge: Edge, lines: list[str]) -> None:
    assert usage_of(edge, from_="2026-01-01", to="2027-02-05")["total"]["lines"] == 4
    assert usage_of(edge, from_="2026-01-01", to="2027-02-05", time_zone="Asia/Kolkata")["rows"]


@pytest.mark.parametrize(
    "params",
    [
        {"service_line_id": ",".join(f"LIN-26-9{n:05d}" for n in range(1_000))},
        {"project_tag": ",".join(f"t{n}" for n in range(1_000))},
        {"resource_id": ",".join(f"r{n}" for n in range(1_000))},
        {"workspace_id": "\x1b[2J,\u202e,\u0085"},
        {"project_tag": "'; DROP TABLE ledger.run; --,{},NULL,%s,%(end)s"},
        {"resource_id": b"\xff\xed\xa0\x80"},
        {"workspace_id": ","},
        {"service_line_id": "nonsense,LIN-26-" + "9" * 1_900},
        {"organization_id": OTHER_ORGANIZATION},
        {"organization_id": "*"},
        {"to": "1900-01-01"},
        {"from": "2099-12-31"},
        {"from": "2099-12-31", "to": "2099-12-31", "time_zone": "Pacific/Kiritimati"},
        {"as_of": "1900-01-01"},
    ],
    ids=lambda params: "-".join(params),
)
def test_a_question_without_a_match_is_answered_by_zeros(
    edge: Edge, lines: list[str], params: dict[str, Any]
) -> None:
    data = usage_of(edge, **params)
    assert data["rows"] == []
    total = data["total"]
    assert (total["lines"], total["hours"], total["check_ins"]) == (0, 0, 0)
    if "resource_id" not in params:
        assert total["tokens_used"] == 0
        assert {*total["runs"].values(), *total["seconds_by_state"].values()} == {0}


def test_an_organization_without_lines_has_usage_without_rows(edge: Edge) -> None:
    token = edge.token("read", organization_id="ORG-26-000077")
    for words in GROUPINGS:
        document = page(edge, token, group_by=words)
        assert document["meta"] == {"cursor": None, "has_more": False}
        assert (document["data"]["rows"], document["data"]["total"]["lines"]) == ([], 0)


# Cursors.


def opened(cursor: str) -> dict[str, Any]:
    inside: dict[str, Any] = json.loads(base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)))
    return inside


def closed(inside: Any) -> str:
    return base64.urlsafe_b64encode(json.dumps(inside).encode()).rstrip(b"=").decode()


HUGE = 10**30
WRONG_KEYS: tuple[Any, ...] = (None, [], {}, "x", 1, [1], [True], [[]], [{}], [1.5], ["a"] * 3)


@pytest.mark.parametrize("words", GROUPINGS)
def test_a_forged_cursor_is_refused(edge: Edge, lines: list[str], words: str) -> None:
    first = page(edge, group_by=words, limit=1)["meta"]["cursor"]
    inside, many = opened(first), len(words.split(","))
    forged: list[dict[str, Any]] = [
        *({"position": value} for value in (None, True, -1, 1.5, "1", [1], 2**63, HUGE)),
        {"position": inside["position"] + 1_000},
        *({"clock": value} for value in (None, False, -1, 0, 1.5, "1", HUGE, -HUGE, 2**63)),
        {"clock": inside["clock"] + 1},  # in the future
        {"clock": inside["clock"] - 10**9},  # before the position's instant
        {"position": 0, "clock": inside["clock"] + 1},
        *({"keys": keys} for keys in WRONG_KEYS),
        *({"keys": [value] * many} for value in (1, True, [], {}, 0.5)),
        {"keys": [*inside["keys"], "more"]},
        {"f": "0" * 12},
        {"f": None},
    ]
    if words.split(",")[0] in ("workspace", "service_line"):
        wrong = (None, "x", "LIN-26-x", "A-B-C", "", "LIN-1-" + "9" * 5_000)
        forged += [{"keys": [value, *inside["keys"][1:]]} for value in wrong]
    cursors = [closed(inside | part) for part in forged]
    cursors += [closed({n: v for n, v in inside.items() if n != name}) for name in inside]
    cursors += ["", "x", "ä", first[:-1], first + "A", closed([]), closed(1), closed("x")]
    cursors.append(base64.urlsafe_b64encode(b"[" * 20_000).decode())
    for cursor in cursors:
        answer = edge.get(USAGE, params={"group_by": words, "cursor": cursor})
        assert_problem(answer, 400, "invalid_cursor")


@pytest.mark.parametrize("words", repeated(sorted(GROUPINGS, key=len), 4))
def test_facts_recorded_between_two_pages_do_not_show(edge: Edge, words: str) -> None:
    workspace = f"WS-26-71{GROUPINGS.index(words):04d}"
    ours = [line_with_usage(edge, workspace_id=workspace) for _ in range(3)]
    edge.accept(fact("service_line.updated", ours[0], {"project_tags": ["b", "c", "a"]}))
    edge.clock.advance(seconds=1)
    parameters = {"group_by": words, "workspace_id": workspace, "from": "2026-04-01"}
    whole = page(edge, **parameters, limit=1_000)
    first = page(edge, **parameters, limit=1)
    edge.accept(
        fact("execution.checked_in", ours[2], {"hours": 9, "resource_id": "zoe"}),
        fact("service_line.updated", ours[1], {"project_tags": ["z"], "name": "new"}),
        fact("service_line.paused", ours[2]),
    )
    line_with_usage(edge, workspace_id=workspace)
    edge.clock.advance(days=3)
    app = create_api(Settings(master_key="0f" * 32), edge.conninfo, edge.clock)
    rows, cursor, workers = first["data"]["rows"], first["meta"]["cursor"], [edge]
    with edge.second_worker(app) as second:
        workers.append(second)
        while cursor is not None:
            workers.reverse()
            following = page(workers[0], **parameters, limit=1, cursor=cursor)
            assert following["data"]["total"] is None
            rows += following["data"]["rows"]
            more = following["meta"]["has_more"]
            cursor = following["meta"]["cursor"] if more else None
    assert rows == whole["data"]["rows"]
    assert first["data"]["total"] == whole["data"]["total"]
    assert (first["data"]["from"], first["data"]["to"]) == (
        whole["data"]["from"], whole["data"]["to"],
    )  # fmt: skip


def test_pages_go_on_over_a_rebuild_of_the_views(edge: Edge, lines: list[str]) -> None:
    parameters = SPRING | {"group_by": "service_line,resource", "service_line_id": ",".join(lines)}
    whole = usage_of(edge, **parameters, limit=1_000)["rows"]
    cursor = page(edge, **parameters, limit=1)["meta"]["cursor"]
    edge.accept(fact("execution.checked_in", lines[3], {"hours": 5}))
    for name in ("execution", "run"):
        rebuild(edge.conninfo, view(name))
    assert usage_of(edge, **parameters, limit=1_000, cursor=cursor)["rows"] == whole[1:]


def test_a_cursor_of_a_position_that_the_views_have_not_reached_is_behind(edge: Edge) -> None:
    line = line_with_usage(edge)
    parameters = SPRING | {"service_line_id": line}
    cursor = opened(page(edge, **parameters)["meta"]["cursor"])
    with edge.frozen_views():
        (item,) = edge.accept(fact("execution.checked_in", line))
        edge.clock.advance(seconds=1)
        cursor |= {"position": item["position"], "clock": micros_of(edge.clock.now)}
        params = parameters | {"cursor": closed(cursor)}
        assert_problem(edge.get(USAGE, params=params), 503, "behind")
    assert usage_of(edge, **params)["rows"] == []


# Tenants.


def test_an_administrator_names_the_organization(edge: Edge, lines: list[str]) -> None:
    admin = edge.token("admin", organization_id=None)
    problem = assert_problem(edge.get(USAGE, admin), 422, "invalid_request")
    assert [error["pointer"] for error in problem["errors"]] == ["/organization_id"]
    edge.clock.advance(seconds=1)
    for words in GROUPINGS:
        parameters = SPRING | {"group_by": words, "limit": "1000"}
        own = usage_of(edge, **parameters)
        assert usage_of(edge, admin, **parameters, organization_id=ORGANIZATION) == own
        assert own["rows"]


def test_the_statements_of_slices_read_nothing_of_a_line_of_another_tenant(
    edge: Edge, lines: list[str]
) -> None:
    key = sort_key(lines[0])
    line = LineInScope(key, lines[0], WORKSPACE, "agent_runtime", "agent_gateway", ["tag"])
    services, now = edge.service.app.state.services, edge.clock.now
    ((position,),) = edge.select("SELECT min(position) FROM ledger.projection")
    as_of = AsOf(position, now)
    start, end = datetime(2026, 4, 1, tzinfo=UTC), datetime(2026, 5, 1, tzinfo=UTC)
    months = [("2026-04", start, end)]
    for tenant, has in (
        (Tenant(ORGANIZATION, ANY), True), (Tenant(ORGANIZATION, WORKSPACE), True),
        (Tenant(ORGANIZATION, OTHER_WORKSPACE), False), (Tenant(OTHER_ORGANIZATION, ANY), False),
        (Tenant(OTHER_ORGANIZATION, WORKSPACE), False), (Tenant("", ""), False),
    ):  # fmt: skip
        summing = Summing(services.pool.fetch, UsageScope(tenant, {}), as_of, start, end)
        assert bool(edge.run(summing.of_lines([line]))) == has
        assert bool(edge.run(summing.names(lines[:1]))) == has

        async def scoped(summing: Summing = summing) -> list[Any]:
            return [part async for part in summing.lines(start)]

        assert bool(edge.run(scoped())) == has
        for words in (("resource",), ("model",), ("month",)):
            found = summing.grouped([line], Grouping(words), months)  # type: ignore[arg-type]
            assert bool(edge.run(found)) == has


# Turns.


def test_sixteen_answers_of_an_organization_wait_and_a_further_one_is_refused(
    edge: Edge, lines: list[str]
) -> None:
    heavy, http = edge.service.app.state.services.heavy, edge.service.http
    other = {"authorization": f"Bearer {edge.token('read', organization_id=OTHER_ORGANIZATION)}"}
    admins = {"authorization": f"Bearer {edge.token('admin', organization_id=None)}"}

    async def waiting(number: int) -> None:
        while heavy._locks[ORGANIZATION][1] != number + 1:
            await asyncio.sleep(0)

    async def crowd() -> None:
        async with heavy.slot(ORGANIZATION):
            tasks = [asyncio.create_task(http.get(USAGE)) for _ in range(16)]
            await waiting(16)
            refused = await http.get(USAGE)
            assert_problem(refused, 429, "rate_limited")
            assert refused.headers["retry-after"]
            assert (await http.get(USAGE, headers=other)).status_code == 200
            named = {"organization_id": ORGANIZATION}
            assert (await http.get(USAGE, headers=admins, params=named)).status_code == 200
            # A client that leaves gives its place to another one.
            tasks.pop(3).cancel()
            await waiting(15)
            tasks.append(asyncio.create_task(http.get(USAGE)))
            await waiting(16)
            assert not any(task.done() for task in tasks)
        answers = await asyncio.gather(*tasks)
        assert {answer.status_code for answer in answers} == {200}
        assert heavy._locks == {}

    edge.run(crowd())


def test_the_past_usage_of_a_line_over_many_dates_takes_the_same_slots(
    edge: Edge, lines: list[str]
) -> None:
    """Sixteen such reads of a key once made the details of others sixteen times as slow."""
    heavy, http = edge.service.app.state.services.heavy, edge.service.http
    then, path = f"{edge.clock.now:%Y-%m-%dT%H:%M:%SZ}", f"/v1/execution/{lines[0]}/usage"
    month = {"from": "2026-03-01", "to": "2026-04-01"}
    longer = {"from": "2026-03-01", "to": "2026-04-01T00:00:01Z"}

    async def crowd() -> None:
        async with heavy.slot(ORGANIZATION):
            tasks = [
                asyncio.create_task(http.get(address, params=params))
                for address, params in [(USAGE, {}), (path, longer | {"as_of": then})] * 8
            ]
            async with asyncio.timeout(30):
                while heavy._locks[ORGANIZATION][1] != 17:
                    await asyncio.sleep(0)
            refused = await http.get(path, params=longer | {"as_of": then})
            assert_problem(refused, 429, "rate_limited")
            assert refused.headers["retry-after"]
            # A month of the past, and a year of now, are read at once.
            for params in (month | {"as_of": then}, longer):
                assert (await http.get(path, params=params)).status_code == 200
            assert not any(task.done() for task in tasks)
        answers = await asyncio.gather(*tasks)
        assert {answer.status_code for answer in answers} == {200}
        assert heavy._locks == {}

    edge.run(crowd())


def test_the_slot_of_an_answer_that_is_broken_off_is_passed_on(
    edge: Edge, lines: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    heavy, http = edge.service.app.state.services.heavy, edge.service.http
    running = 0

    async def no_rows(*_: Any) -> Any:
        nonlocal running
        running += 1
        await asyncio.Event().wait()

    async def broken_off() -> None:
        with monkeypatch.context() as patch:
            patch.setattr("ledger.features.usage.reads.usage.Summing._rows", no_rows)
            tasks = [asyncio.create_task(http.get(USAGE)) for _ in range(3)]
            for number in range(1, 4):
                while running < number:
                    await asyncio.sleep(0)
                assert running == number
                tasks[number - 1].cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        assert heavy._locks == {}
        assert (await http.get(USAGE)).status_code == 200

    edge.run(broken_off())


# The work of lines.


def test_work_after_the_time_of_a_late_closing_counts(edge: Edge) -> None:
    line = edge.fresh(time="2026-04-01T00:00:00Z")
    (run, _) = edge.accept(
        fact("run.started", None, {"service_line_id": line}, time="2026-04-12T00:00:00Z"),
        fact("execution.checked_in", line, {"hours": 2}, time="2026-04-12T00:00:00Z"),
    )
    tokens = fact("run.completed", run["subject"], {"tokens_used": 5}, time="2026-04-13T00:00:00Z")
    edge.accept(tokens)
    edge.accept(fact("service_line.closed", line, time="2026-04-05T00:00:00Z"))
    day = {"service_line_id": line, "from": "2026-04-12", "to": "2026-04-13"}
    assert usage_of(edge, **day)["total"]["hours"] == 2
    day = {"service_line_id": line, "from": "2026-04-13", "to": "2026-04-14"}
    assert usage_of(edge, **day)["total"]["tokens_used"] == 5
    day = {"service_line_id": line, "from": "2026-04-14", "to": "2026-04-15"}
    assert usage_of(edge, **day)["rows"] == []


@pytest.mark.parametrize("words", ["day", "model", "model,day", "service_line", "service_line,day"])
def test_a_model_without_tokens_makes_no_row(edge: Edge, words: str) -> None:
    line = edge.fresh(time="2026-03-01T00:00:00Z")
    start = fact("run.started", None, {"service_line_id": line}, time="2026-03-01T10:00:00Z")
    (run,) = edge.accept(start)
    edge.accept(fact("service_line.closed", line, time="2026-03-02T00:00:00Z"))
    ended = {"token_usage": [{"model": "m"}]}
    edge.accept(fact("run.completed", run["subject"], ended, time="2026-03-02T00:00:00Z"))
    params = {"service_line_id": line, "from": "2026-03-02", "to": "2026-03-03"}
    data = usage_of(edge, **params, group_by=words)
    assert (data["rows"], data["total"]["lines"]) == ([], 0)
