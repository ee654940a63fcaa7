"""Names next to ids: of lines, workspaces and projects, and who should clear a blocker by when."""

from typing import Any

import pytest

from tests.support.boards import details, row
from tests.support.databases import execute
from tests.support.edge import Edge
from tests.support.facts import ORGANIZATION, fact
from tests.support.keys_api import OTHER_ORGANIZATION, Keys
from tests.support.visitor import visitor
from tests.support.webhook_api import Hooks

WORKSPACE, PROJECT = "WS-26-000900", "PROJ-26-000900"


def named_line(edge: Edge, **more: Any) -> str:
    for identifier, name in ((WORKSPACE, "Halden <Bank>"), (PROJECT, "Checkout")):
        edge.accept(fact("directory.named", identifier, {"name": name}))
    tenant = {"workspace_id": WORKSPACE, "project_tags": [PROJECT, "unnamed"]}
    return edge.fresh(**tenant | {"name": "Payments <pod>"} | more)


def test_the_board_the_forms_and_the_runs_of_a_line_say_its_name(edge: Edge) -> None:
    line, unnamed = named_line(edge), named_line(edge, name=None)
    (run,) = edge.accept(fact("run.started", None, {"service_line_id": line}))
    guest = visitor(edge, "read", "service_lines:manage")
    board, page = guest.get(f"/ui?workspace_id={WORKSPACE}"), guest.get(f"/ui/lines/{line}")
    assert row(guest.get("/ui"), line).startswith(
        f"Payments <pod> {line.split('-')[-1]} Halden <Bank> "
    )
    more = details(board, line)
    assert f"Line {line} · agent gateway · agent runtime" in more
    assert f"Workspace Halden <Bank> {WORKSPACE}" in more
    assert f"Projects Checkout {PROJECT} unnamed" in more
    assert page.words("dialog.manage h2") == [
        "Pause Payments <pod>", "Resume Payments <pod>", "Change the pause of Payments <pod>",
    ]  # fmt: skip
    assert page.words(".way") == ["Board / Payments <pod>"]
    assert guest.get(f"/ui/lines/{line}/runs").words("h1") == [f"Runs of Payments <pod> {line}"]
    assert f"Payments <pod> {line}" in guest.get(f"/ui/runs/{run['subject']}").words(".facts")[0]
    # A line without a name is called by its id.
    assert row(board, unnamed).startswith(f"{unnamed} 0 runs today")
    assert guest.get(f"/ui/lines/{unnamed}").words("h1") == [unnamed]


def test_the_page_of_a_line_shows_its_name_of_then_and_the_other_names_of_now(edge: Edge) -> None:
    line = named_line(edge)
    edge.clock.advance(hours=1)
    then = edge.clock().isoformat().replace("+00:00", "Z")
    edge.clock.advance(hours=1)
    edge.accept(
        fact("service_line.updated", line, {"name": "Core pod"}),
        fact("directory.named", WORKSPACE, {"name": "Halden AG"}),
    )
    now, past = (visitor(edge).get(f"/ui/lines/{line}{q}") for q in ("", f"?as_of={then}"))
    assert now.words("h1") == [f"Core pod {line}"]
    assert past.words("h1") == [f"Payments <pod> {line}"]
    admin = visitor(edge, "admin", organization_id=None).get(f"/ui/lines/{line}")
    for page in (now, past, admin):
        assert f"Halden AG {WORKSPACE}" in page.words(".marks")[0]
        assert f"Checkout {PROJECT}" in page.words(".marks")[0]


def test_a_blocker_says_who_should_act_by_when(edge: Edge) -> None:
    line = named_line(edge)
    blocker = {"blocker_id": "B-1", "cause": "approval_gap"}
    edge.accept(fact("execution.blocked", line, blocker))
    page = visitor(edge).get(f"/ui/lines/{line}")
    assert page.words(".assigned") == ["To act: nobody is assigned"]
    edge.accept(fact("execution.unblocked", line, {"blocker_id": "B-1"}))
    blocker["assignee"] = "USR-26-000044"
    due = {"due_at": "2026-05-30T18:00:00Z"}
    edge.accept(fact("execution.blocked", line, blocker | due))
    text = "assigned to USR-26-000044 , due 2026-05-30 18:00:00"
    board, page = f"/ui?workspace_id={WORKSPACE}", f"/ui/lines/{line}"
    assert text in details(visitor(edge).get(board), line)
    on_page = "To act: USR-26-000044 , by 2026-05-30 18:00:00"
    assert visitor(edge).get(page).words(".assigned") == [on_page]
    assert "Reported by test KEY-" in visitor(edge).get(page).words(".why li")[0]
    edge.clock.advance(days=90)
    late = text.replace("due", "overdue since")
    assert late in details(visitor(edge).get(board), line)
    assert f"{on_page} overdue for " in visitor(edge).get(page).words(".assigned")[0]


def test_a_blocker_says_which_person_reported_it_and_by_which_key(edge: Edge) -> None:
    line = named_line(edge)
    by = {"actortype": "user", "actorid": "USR-26-000109"}
    for blocker in ("B-1", "B-2"):
        edge.accept(
            fact("execution.blocked", line, {"blocker_id": blocker, "cause": "approval_gap"}, **by)
        )
        edge.clock.advance(seconds=1)
        then = edge.clock().isoformat().replace("+00:00", "Z")
        edge.clock.advance(seconds=1)
    edge.accept(fact("execution.unblocked", line, {"blocker_id": "B-2"}))
    edge.accept(fact("execution.blocked", line, {"blocker_id": "B-2", "cause": "approval_gap"}))
    person = "Reported by USR-26-000109 via test KEY-26-"
    now, past = (visitor(edge).get(f"/ui/lines/{line}{q}") for q in ("", f"?as_of={then}"))
    assert [person in text for text in past.words(".why li")] == [True, True]
    first, second = now.words(".why li")
    assert person in first
    assert "Reported by test KEY-26-" in second


def test_a_workspace_sees_the_id_alone_of_a_key_of_the_organization(edge: Edge) -> None:
    line = named_line(edge)
    edge.accept(fact("service_line.paused", line, {"reason": "Office move"}))
    (text,) = visitor(edge, workspace_id=WORKSPACE).get(f"/ui/lines/{line}").words(".why li")
    assert "by KEY-26-" in text
    (text,) = visitor(edge).get(f"/ui/lines/{line}").words(".why li")
    assert "by test KEY-26-" in text


def test_usage_names_the_resources_that_are_allocated(edge: Edge) -> None:
    line = named_line(edge, model="capacity")
    engineer = {"id": "SCR-1", "type": "talent", "name": "Ada"}
    edge.accept(fact("resource.allocated", line, engineer))
    for resource in ("SCR-1", "SCR-2"):
        edge.accept(fact("execution.checked_in", line, {"hours": 2, "resource_id": resource}))
    page = visitor(edge).get(f"/ui/lines/{line}")
    assert page.words("dt.part") == ["Ada SCR-1", "SCR-2"]


@pytest.mark.parametrize("permissions", [("read", "audit:read"), ("audit:read",)], ids=str)
def test_events_and_audit_call_their_subjects_by_name_for_who_may_read(
    edge: Edge, permissions: tuple[str, ...]
) -> None:
    line = named_line(edge)
    (run,) = edge.accept(fact("run.started", None, {"service_line_id": line}))
    guest = visitor(edge, *permissions)
    is_reader = "read" in permissions
    called = f"Payments <pod> {line}" if is_reader else line
    entries = guest.get(f"/ui/audit?service_line_id={line}")
    assert f"{called} service line" in entries.words(".about")[1]
    assert entries.words("h1") == ["Audit of Payments <pod>" if is_reader else "Audit of a line"]
    named = guest.get("/ui/audit?action=directory.named").words(".about")
    assert any(f"Checkout {PROJECT}" in text for text in named) is is_reader
    if is_reader:
        events = guest.get(f"/ui/events?service_line_id={line}")
        assert events.words(".about") == [f"{run['subject']} of {called}", called]
        assert f"Line {called}" in events.words(".chosen")[0]
        event = guest.get(f"/ui/events/{run['event_ids'][0]}").words("dd")
        assert called in event
        assert f"Halden <Bank> {WORKSPACE}" in event


def test_the_audit_log_calls_a_key_by_its_name(edge: Edge) -> None:
    key = Keys(edge).create(name="nightly jobs")
    for path in ("/ui/keys", f"/ui/keys/{key.id}"):
        assert "by test KEY-26-" in visitor(edge, "keys:manage").get(path).words("main")[0]
    page = visitor(edge, "audit:read").get("/ui/audit?action=key.create")
    assert any(text.startswith("nightly jobs KEY-26-") for text in page.words(".about"))


def test_the_event_of_a_name_leads_to_the_lines_that_bear_the_id(edge: Edge) -> None:
    (item,) = edge.accept(fact("directory.named", PROJECT, {"name": "Checkout"}))
    page = visitor(edge).get(f"/ui/events/{item['event_ids'][0]}")
    assert [link["href"] for link in page.all(".facts a")][-1] == f"/ui?project_tag={PROJECT}"
    assert "Checkout" in page.words(".lead")[0]


def test_the_scope_of_keys_and_endpoints_has_the_workspaces_name(edge: Edge) -> None:
    named_line(edge)
    guest = visitor(edge, "read", "webhooks:manage", "keys:manage")
    key = Keys(edge).create(name="dashboard", workspace_id=WORKSPACE).id
    endpoint = Hooks(edge).create(url="https://93.184.216.34/", workspace_id=WORKSPACE)["id"]
    for kind, made in (("keys", key), ("webhooks", endpoint)):
        (scope,) = guest.get(f"/ui/{kind}").words(f"#{made}")
        assert f"Halden <Bank> {WORKSPACE} of {ORGANIZATION}" in scope
        assert f"Halden <Bank> {WORKSPACE}" in " ".join(guest.get(f"/ui/{kind}/{made}").words("dd"))


def test_an_administrator_sees_a_scopes_name_of_the_scopes_own_organization(edge: Edge) -> None:
    """Organizations number their workspaces themselves, so that two may have the same id."""
    named_line(edge)
    keys, hooks = Keys(edge), Hooks(edge)
    key = keys.create(keys.other, name="theirs", workspace_id=WORKSPACE).id
    url = "https://93.184.216.34/"
    endpoint = hooks.create(hooks.other, url=url, workspace_id=WORKSPACE)["id"]
    guest = visitor(edge, "admin", organization_id=None)

    def scopes() -> list[str]:
        pages = guest.get(f"/ui/keys/{key}"), guest.get(f"/ui/webhooks/{endpoint}")
        return [text for page in pages for text in page.words("dd") if WORKSPACE in text]

    assert scopes() == [f"{WORKSPACE} of {OTHER_ORGANIZATION}"] * 2
    theirs = edge.token("write", organization_id=OTHER_ORGANIZATION)
    edge.accept(fact("directory.named", WORKSPACE, {"name": "Orchard"}), token=theirs)
    assert scopes() == [f"Orchard {WORKSPACE} of {OTHER_ORGANIZATION}"] * 2


def test_a_credential_that_may_not_read_sees_no_names_of_keys(edge: Edge) -> None:
    named_line(edge)
    key = Keys(edge).create(name="dashboard", workspace_id=WORKSPACE)
    (scope,) = visitor(edge, "keys:manage").get("/ui/keys").words(f"#{key.id}")
    assert WORKSPACE in scope
    assert "Halden" not in scope


def test_the_board_and_the_keys_show_ids_while_the_directory_is_being_built(edge: Edge) -> None:
    line = named_line(edge)
    key = Keys(edge).create(workspace_id=WORKSPACE).id
    execute(edge.conninfo, "ALTER VIEW ledger.directory_name RENAME TO hidden")
    page = visitor(edge).get(f"/ui?workspace_id={WORKSPACE}")
    assert row(page, line).startswith(f"Payments <pod> {line.split('-')[-1]}")
    assert f"Workspace {WORKSPACE}" in details(page, line)
    assert "Halden" not in row(page, line) + details(page, line)
    (scope,) = visitor(edge, "read", "keys:manage").get("/ui/keys").words(f"#{key}")
    assert WORKSPACE in scope
    assert "Halden" not in scope
