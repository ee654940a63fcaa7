"""Positions and entity tags: minimum positions and unchanged answers (contract, Reading)."""

import pytest

from ledger.engine.reads import positions
from tests.support.edge import Edge, assert_problem
from tests.support.facts import fact
from tests.support.visitor import visitor


def paths(edge: Edge) -> list[str]:
    """The paths of a line, of a run and of the line's runs."""
    line = edge.fresh()
    (begun,) = edge.accept(fact("run.started", None, {"service_line_id": line}))
    return [f"/v1/execution/{line}", f"/v1/runs/{begun['subject']}", f"/v1/execution/{line}/runs"]


@pytest.mark.parametrize("form", ["%s", "W/%s", '"other", %s', '"other" ,W/%s', "*", " %s "])
def test_a_matching_etag_is_a_304_with_headers_and_without_a_body(edge: Edge, form: str) -> None:
    for path in paths(edge):
        first = edge.get(path)
        tag = first.headers["etag"]
        assert tag.startswith('"')
        assert tag.endswith('"')
        again = edge.get(path, headers={"if-none-match": form.replace("%s", tag)})
        assert (again.status_code, again.content) == (304, b"")
        assert again.headers["etag"] == tag
        assert again.headers["ledger-position"] == first.headers["ledger-position"]
        assert again.headers["x-request-id"]


@pytest.mark.parametrize("sent", ['"other"', "", "W/", "%s-unquoted", '""', ",", "\xff"])
def test_another_entity_tag_gets_the_full_answer(edge: Edge, sent: str) -> None:
    for path in paths(edge):
        value = sent.replace("%s", edge.get(path).headers["etag"].strip('"'))
        headers = [(b"if-none-match", value.encode("latin-1"))]
        assert edge.get(path, headers=headers).status_code == 200


def test_several_if_none_match_headers_are_one_list(edge: Edge) -> None:
    path = paths(edge)[0]
    tag = edge.get(path).headers["etag"]
    headers = [("if-none-match", '"other"'), ("if-none-match", tag)]
    assert edge.get(path, headers=headers).status_code == 304


def test_a_change_changes_the_entity_tag(edge: Edge) -> None:
    line_path, run_path, runs_path = paths(edge)
    run = run_path.rsplit("/", 1)[-1]
    before = [edge.get(path).headers["etag"] for path in (line_path, run_path, runs_path)]
    edge.accept(fact("run.completed", run))
    after = [edge.get(path).headers["etag"] for path in (line_path, run_path, runs_path)]
    assert all(old != new for old, new in zip(before, after, strict=True))


def test_an_entity_tag_does_not_bypass_the_check_of_the_tenant(edge: Edge) -> None:
    stranger = edge.token("read", organization_id="ORG-26-000009")
    for path in paths(edge):
        answer = edge.get(path, stranger, headers={"if-none-match": "*"})
        assert_problem(answer, 404, "not_found")


# Positions.


def reads(edge: Edge) -> list[str]:
    return [*paths(edge), "/v1/execution", "/v1/execution/summary"]


def test_a_read_after_a_write_shows_the_write(edge: Edge) -> None:
    line = edge.fresh()
    for number in range(20):
        tags = [f"PROJ-{number}"]
        answer = edge.send(fact("service_line.updated", line, {"project_tags": tags}))
        position = int(answer.headers["ledger-position"])
        assert answer.json()["data"]["position"] == position
        line_answer = edge.get(f"/v1/execution/{line}")
        assert line_answer.json()["data"]["project_tags"] == tags
        assert int(line_answer.headers["ledger-position"]) >= position


def test_a_batch_carries_the_position_of_its_last_event(edge: Edge) -> None:
    line = edge.fresh()
    good, bad = fact("execution.checked_in", line), fact("run.completed", "RUN-26-999999")
    answer = edge.send_batch(good, fact("execution.checked_in", line), bad)
    positions = [item["position"] for item in answer.json()["data"]]
    assert answer.headers["ledger-position"] == str(positions[1])


def test_a_read_with_a_reached_minimum_position_is_answered(edge: Edge) -> None:
    for path in reads(edge):
        reached = edge.log()[0][0]
        for position in (0, 1, reached):
            answer = edge.get(path, headers={"ledger-min-position": str(position)})
            assert answer.status_code == 200
            assert int(answer.headers["ledger-position"]) >= position


def test_a_minimum_position_that_is_not_reached_in_time_is_a_503(
    edge: Edge, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert positions.WAIT_SECONDS == 2
    monkeypatch.setattr(positions, "WAIT_SECONDS", 0.1)
    answer = edge.get(paths(edge)[0], headers={"ledger-min-position": "1000000"})
    assert_problem(answer, 503, "behind")
    assert int(answer.headers["retry-after"]) >= 1


@pytest.mark.parametrize("sent", ["", "abc", "-1", "1.5", "9" * 19, "9" * 5000, "1e3", "0x10"])
def test_a_minimum_position_that_is_no_number_is_a_422(edge: Edge, sent: str) -> None:
    for path in reads(edge):
        answer = edge.get(path, headers={"ledger-min-position": sent})
        assert_problem(answer, 422, "invalid_request")


def test_a_fault_in_the_query_comes_before_a_fault_in_the_minimum_position(edge: Edge) -> None:
    answer = edge.get("/v1/execution?limit=0", headers={"ledger-min-position": "abc"})
    problem = assert_problem(answer, 422, "invalid_request")
    assert [error["pointer"] for error in problem["errors"]] == ["/limit"]


def test_neither_commands_nor_pages_know_a_minimum_position(edge: Edge) -> None:
    headers = {"ledger-min-position": "abc"}
    path, token = f"/v1/execution/{edge.fresh()}/pause", edge.token("service_lines:manage")
    answer = edge.post(path, token, json={"reason": "x"}, headers=headers)
    assert answer.status_code == 200, answer.text
    page = visitor(edge, "read").request("GET", "/ui/runs", headers=headers)
    assert page.status == 200
    described = edge.get("/openapi.json").json()["paths"]["/v1/execution/{line_id}/pause"]["post"]
    assert "Ledger-Min-Position" not in str(described["parameters"])
