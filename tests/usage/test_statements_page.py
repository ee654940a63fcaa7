"""The pages of statements: issued, listed, compared with now, withdrawn, replaced."""

import itertools
import json
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.support.edge import Edge
from tests.support.facts import activation, fact
from tests.support.sealing import seal
from tests.support.statements import alter
from tests.support.verifier import verifier
from tests.support.visitor import Visited, Visitor, visitor

PATH, NEW = "/ui/statements", "/ui/statements/new"
APRIL = {"first_day": "2026-04-01", "last_day": "2026-04-14"}
RIGHTS = ("read", "write", "statements:issue")

_organizations = itertools.count(600_001)


class Tenant(NamedTuple):
    """An organization with a line in each of two workspaces, and a visitor from finance."""

    edge: Edge
    organization: str
    guest: Visitor
    token: str
    lines: tuple[str, str]
    workspaces: tuple[str, str]

    def check_in(self, hours: float, line: int = 0, day: str = "2026-04-10") -> str:
        data = {"hours": hours, "resource_id": "ada", "note": "Timesheet"}
        event = fact("execution.checked_in", self.lines[line], data, time=f"{day}T10:00:00Z")
        (item,) = self.edge.accept(event, token=self.token)
        return str(item["event_ids"][0])

    def issue(self, **fields: str) -> Visited:
        """Fill in the form as a person does: scope and period first, then the rest."""
        choice = {name: fields.pop(name) for name in list(fields) if name in CHOICE}
        address = f"{NEW}?" + "&".join(f"{name}={value}" for name, value in choice.items())
        page = self.guest.get(address)
        assert page.status == 200, page.text
        return self.guest.submit(page, PATH, **fields)

    def issued(self, **fields: str) -> str:
        answer = self.issue(**(APRIL | fields))
        assert answer.status == 303, answer.text
        path = answer.location.partition("?")[0]
        assert answer.location == f"{path}?done=issue"
        return path

    def listed(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.edge.data("/v1/statements", self.token)
        return found


CHOICE = {"organization_id", "workspace_id", "first_day", "last_day", "time_zone", "replaces"}


@pytest.fixture
def tenant(edge: Edge) -> Tenant:
    number = next(_organizations)
    organization = f"ORG-26-{number}"
    token = edge.token(*RIGHTS, organization_id=organization)
    workspaces, lines = (f"WS-26-{number}", f"WS-26-{number + 5000}"), []
    for workspace in workspaces:
        lines.append(edge.fresh_id())
        tenant = {"organization_id": organization, "workspace_id": workspace}
        begun = activation(
            lines[-1], **tenant, time="2026-04-01T00:00:00Z", name=f"Team {workspace}"
        )
        edge.accept(begun, token=token)
    named = {"name": "Halden", "organization_id": organization}
    edge.accept(fact("directory.named", workspaces[0], named), token=token)
    found = Tenant(
        edge, organization, Visitor(edge, token), token, (lines[0], lines[1]), workspaces
    )
    found.check_in(2.5)
    found.check_in(1, 1)
    return found


# Ways in.


def test_the_newest_statement_in_force_is_an_instant_to_compare_with(tenant: Tenant) -> None:
    changed = "/ui/compare?then=2026-04-14&time_zone=UTC"
    assert "since the statement" not in tenant.guest.get(changed).text
    tenant.issued()
    tenant.edge.clock.advance(seconds=60)
    tenant.check_in(4)
    march = tenant.issued(first_day="2026-03-01", last_day="2026-03-31")
    newest = tenant.guest.get(march)
    withdrawn = tenant.guest.submit(newest, f"{march}/withdraw", reason="A mistake")
    assert withdrawn.status == 303
    (way,) = [
        link
        for link in tenant.guest.get(changed).all('a[href^="/ui/compare?"]')
        if "since the statement of" in link.get_text()
    ]
    assert way.get_text() == "since the statement of 2026-04-01 to 2026-04-14"
    page = tenant.guest.get(str(way["href"]))
    assert page.status == 200
    assert "+4" in page.text


def test_a_month_that_is_over_leads_to_the_form_of_its_statement(tenant: Tenant) -> None:
    month = f"/ui/usage?workspace_id={tenant.workspaces[0]}&time_zone=UTC&from=2026-03-01"
    over = tenant.guest.get(f"{month}&to=2026-04-01")
    (way,) = [link["href"] for link in over.all('a[href^="/ui/statements/new"]')]
    fields = tenant.guest.get(way).form(NEW)
    assert (fields["first_day"], fields["last_day"]) == ("2026-03-01", "2026-03-31")
    assert fields["workspace_id"] == tenant.workspaces[0]
    ways = 'a[href^="/ui/statements/new"]'
    assert tenant.guest.get(f"{month}&to=2026-05-01").all(ways) == []
    assert tenant.guest.get(f"{month}&to=2026-04-01&execution_model=capacity").all(ways) == []


# Issuing.


def test_the_form_shows_last_month_in_the_persons_time_zone(tenant: Tenant) -> None:
    tenant.guest.http.cookies.set("ledger_zone", "Europe%2FBerlin", domain="ledger.test")
    fields = tenant.guest.get(NEW).form(NEW)
    assert (fields["first_day"], fields["last_day"]) == ("2026-03-01", "2026-03-31")
    assert (fields["time_zone"], fields["workspace_id"]) == ("Europe/Berlin", "")


def test_the_form_tells_totals_and_lines_that_are_not_green_before(tenant: Tenant) -> None:
    signal = {"signal": "sla_compliance", "status": "red", "value": 1, "evidence": "late"}
    red = fact("health.signal_reported", tenant.lines[1], signal)
    tenant.edge.accept(red, token=tenant.token)
    page = tenant.guest.get(f"{NEW}?first_day=2026-04-01&last_day=2026-04-14")
    assert page.words("#signed h2") == ["Statement for 2026-04-01 to 2026-04-14, days of UTC"]
    assert page.words("#signed dl.tiles dd") == ["3.5", "0", "0", "2", "2"]
    assert "1 of 2 lines is not green: check before you invoice." in page.text
    (looked,) = page.words(".looked li")
    assert f"Team {tenant.workspaces[1]} amber 69 · running · 1 h" in looked
    of_workspace = tenant.guest.get(
        f"{NEW}?first_day=2026-04-01&last_day=2026-04-14&workspace_id={tenant.workspaces[0]}"
    )
    assert of_workspace.words("#signed dl.tiles dd") == ["2.5", "0", "0", "1", "1"]
    assert "not green" not in of_workspace.text
    chosen = of_workspace.one("select[name=workspace_id] option[selected]")
    assert chosen.get_text() == f"Halden · {tenant.workspaces[0]}"


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"last_day": "2026-04-15"}, "Last day: must be a day that is over."),
        ({"last_day": "2026-03-31"}, "Last day: must not be before the first day."),
        ({"first_day": "2025-01-01"}, "From: the range has more than 400 days"),
        ({"first_day": "tomorrow"}, "First day: must be a date, such as 2026-11-30."),
        ({"time_zone": "Europe/Atlantis"}, "Time zone: must be an IANA time zone"),
    ],
)
def test_a_period_that_is_wrong_is_shown_at_the_form_and_issues_nothing(
    tenant: Tenant, fields: dict[str, str], text: str
) -> None:
    answer = tenant.issue(**(APRIL | fields), note="Kept")
    assert answer.status == 422
    assert text in answer.text
    assert answer.form(PATH)["note"] == "Kept"
    assert tenant.listed() == []


def test_an_issued_statement_has_its_scope_and_names_resources(tenant: Tenant) -> None:
    path = tenant.issued(by_resource="on")
    (statement,) = tenant.listed()
    assert (statement["workspace_id"], statement["total"]["hours"]) == (None, 3.5)
    assert (statement["from"], statement["to"]) == ("2026-04-01T00:00:00Z", "2026-04-15T00:00:00Z")
    page = tenant.guest.get(f"{path}?done=issue")
    assert page.words(".done") == ["Statement issued."]
    assert "People and resources" in page.text
    assert any("ada" in row for row in page.words("table.stated td"))


def test_the_days_are_those_of_the_chosen_time_zone(tenant: Tenant) -> None:
    tenant.issued(time_zone="Europe/Berlin", workspace_id=tenant.workspaces[0])
    (statement,) = tenant.listed()
    assert (statement["from"], statement["to"]) == ("2026-03-31T22:00:00Z", "2026-04-14T22:00:00Z")
    assert statement["workspace_id"] == tenant.workspaces[0]


def test_a_statement_is_issued_by_readers_and_shown_in_its_tenant(tenant: Tenant) -> None:
    path = tenant.issued()
    for rights in ("read", "statements:issue"):
        guest = visitor(tenant.edge, rights, organization_id=tenant.organization)
        assert guest.get(NEW).status == 403
    stranger = visitor(tenant.edge, *RIGHTS, organization_id="ORG-26-000002")
    for address in (f"{path}/export", f"{path}/bundle", f"{NEW}?replaces={path[15:]}"):
        assert stranger.get(address).status == 404, address


def test_an_administrator_names_the_organization_first(tenant: Tenant) -> None:
    admin = visitor(tenant.edge, "admin", organization_id=None)
    assert "Organization: is required of an administrator." in admin.get(NEW).text
    scope = f"organization_id={tenant.organization}&first_day=2026-04-01&last_day=2026-04-14"
    assert admin.get(f"{NEW}?{scope}").words("#signed dl.tiles dd")[0] == "3.5"


# The list and a statement.


def test_the_list_tells_period_scope_total_status_and_by_whom(tenant: Tenant) -> None:
    tenant.issued(workspace_id=tenant.workspaces[0], reference="INV-2")
    (row,) = tenant.guest.get(PATH).words("table.statements tbody tr")
    (statement,) = tenant.listed()
    for part in ("2026-04-01 to 2026-04-14", "UTC · INV-2", "Halden", "2.5", "in force",
                 statement["id"], statement["issued_by"]["id"]):  # fmt: skip
        assert part in row, part
    march = {"first_day": "2026-03-01", "last_day": "2026-03-31"}
    tenant.issued(**march)
    assert "March 2026" in tenant.guest.get(PATH).words("table.statements tbody tr")[0]
    nowhere = tenant.guest.get(f"{PATH}?workspace_id=WS-26-1")
    assert "No statements match these filters" in nowhere.text


def test_an_empty_list_says_what_a_statement_is(edge: Edge) -> None:
    guest = visitor(edge, "read", organization_id="ORG-26-777001")
    page = guest.get(PATH)
    assert "No statements yet" in page.text
    assert "POST /v1/statements" in page.text


def test_changes_since_tell_then_and_now_with_the_very_events(tenant: Tenant) -> None:
    path = tenant.issued()
    quiet = tenant.guest.get(path)
    assert "Nothing changed" in quiet.text
    events = [tenant.check_in(hours) for hours in (4, 0.1, 0.2, 1, 1, 1, 1)]
    page = tenant.guest.get(path)
    assert "The numbers of 1 line have changed since." in page.text
    total, of_line = page.words(".differences")
    assert total == "Hours 3.5 → to 11.8 +8.3 Check-ins 2 → to 9 +7"
    assert of_line == "Hours 2.5 → to 10.8 +8.3 Check-ins 1 → to 8 +7"
    linked = [str(a["href"]) for a in page.all("article a[href^='/ui/events/']")]
    assert linked == [f"/ui/events/{event}" for event in events]
    assert page.words("article .said")[0] == "Timesheet · 4 h · ada"
    assert page.words("article summary") == ["2 more events"]
    # The statement itself stays as it was.
    assert page.words("#h-total ~ dl.tiles dd")[0] == "3.5"
    assert page.words("tfoot td.number")[0] == "3.5"


def test_a_statement_shows_its_lines_under_their_names_of_now(tenant: Tenant) -> None:
    path = tenant.issued()
    renamed = fact("service_line.updated", tenant.lines[0], {"name": "Renamed"})
    tenant.edge.accept(renamed, token=tenant.token)
    first, second = tenant.guest.get(path).words("table.stated tbody tr")
    assert first.startswith(f"Renamed {tenant.lines[0]} 2.5 1 0 0 running 14 d")
    assert second.startswith(f"Team {tenant.workspaces[1]} {tenant.lines[1]} 1 1 0 0")


def test_the_csv_is_the_apis(tenant: Tenant) -> None:
    path = tenant.issued()
    mine = tenant.guest.get(f"{path}/export").answer
    theirs = tenant.edge.get(f"/v1/statements/{path[15:]}/export", tenant.token)
    assert (mine.content, mine.headers["content-type"]) == (
        theirs.content, theirs.headers["content-type"],
    )  # fmt: skip
    assert mine.headers["cache-control"] == "no-store"


def test_a_sealed_statement_has_a_bundle_that_the_shown_command_proves(
    tenant: Tenant, tmp_path: Path
) -> None:
    path = tenant.issued(reference="INV-9")
    assert "Not sealed yet" in tenant.guest.get(path).text
    seal(tenant.edge.conninfo, tmp_path)
    page = tenant.guest.get(path)
    command = next(word for word in page.words("#seal code") if word.startswith("python"))
    name = command.split()[3]
    assert page.one("a[download$='.bundle.json']")["download"] == name
    answer = tenant.guest.get(f"{path}/bundle").answer
    assert answer.headers["content-disposition"] == f'attachment; filename="{name}"'
    key = json.loads(answer.content)["key"]
    _, document = verifier.open_statement(answer.text, key)
    assert (document["reference"], document["total"]["hours"]) == ("INV-9", 3.5)
    assert page.words("code.hash") == [tenant.listed()[0]["document_sha256"]]


def test_a_document_that_was_altered_is_shown_nowhere_and_reported_as_another(
    tenant: Tenant, tmp_path: Path
) -> None:
    """The page once showed an altered number above the word "Sealed"."""
    path = tenant.issued()
    sound = tenant.issued(workspace_id=tenant.workspaces[0])
    seal(tenant.edge.conninfo, tmp_path)
    assert "3.5" in tenant.guest.get(path).text
    (sha256,) = [row["document_sha256"] for row in tenant.listed() if row["id"] == path[15:]]
    alter(tenant.edge, f"""UPDATE ledger.statement_document SET document = convert_to(
        replace(convert_from(document, 'UTF8'), '"hours":3.5', '"hours":7531.5'), 'UTF8')
        WHERE encode(document_sha256, 'hex') = '{sha256}'""")  # fmt: skip
    for address in ("", "/export", "/bundle"):
        page = tenant.guest.get(f"{path}{address}")
        assert page.status == 503
        assert page.words(".refusal h1") == ["The document was altered"]
        assert page.words(".refusal p")[0] == "This document is not the one that was issued."
        assert "7,531.5" not in page.text
        assert "3.5" not in page.text
    first, second = tenant.guest.get(PATH).all("table.statements tbody tr")
    assert (first["id"], second["id"]) == (sound[15:], path[15:])
    assert [cell.get_text() for cell in first.select("td.number")] == ["2.5", "0", "0"]
    assert second.select("td.number") == []
    assert "This document is not the one that was issued." in second.get_text()
    assert tenant.guest.get(f"{NEW}?replaces={path[15:]}").status == 503
    assert tenant.guest.get("/ui/compare?then=2026-04-14&time_zone=UTC").status == 200


# Withdrawing and replacing.


def test_a_statement_is_withdrawn_with_a_reason(tenant: Tenant) -> None:
    path = tenant.issued()
    page = tenant.guest.get(path)
    refused = tenant.guest.submit(page, f"{path}/withdraw", reason="  ")
    assert refused.status == 422
    assert "Reason: is required." in refused.text
    tenant.guest.submit(refused, f"{path}/withdraw", reason="A timesheet was missing")
    answer = tenant.guest.get(path)
    assert "A timesheet was missing" in answer.words("#view > .refused")[0]
    assert answer.all(f"form[action='{path}/withdraw'], a[href*=replaces]") == []
    assert "withdrawn since" in tenant.guest.get(PATH).words("table.statements tbody tr")[0]
    again = page.form(f"{path}/withdraw") | {"reason": "Again", "request_key": "another"}
    late = tenant.guest.post(f"{path}/withdraw", again)
    assert late.status == 409
    assert "The statement is already withdrawn." in late.text


def test_a_statement_is_replaced_by_the_same_form_filled_in(tenant: Tenant) -> None:
    path = tenant.issued(
        reference="INV-5", note="As agreed", by_resource="on", time_zone="Europe/Berlin",
        workspace_id=tenant.workspaces[0],
    )  # fmt: skip
    tenant.check_in(4)
    link = str(tenant.guest.get(path).one("a[href*=replaces]")["href"])
    form = tenant.guest.get(link)
    fields = form.form(PATH)
    assert {name: fields[name] for name in (*APRIL, "time_zone", "reference", "note")} == APRIL | {
        "time_zone": "Europe/Berlin", "reference": "INV-5", "note": "As agreed",
    }  # fmt: skip
    assert fields["by_resource"] == "on"
    assert form.words("#signed dl.tiles dd")[0] == "6.5"
    done = tenant.guest.submit(form, PATH)
    assert done.status == 303
    second, first = tenant.listed()
    assert (second["replaces"], first["replaced_by"]) == (first["id"], second["id"])
    assert second["workspace_id"] == tenant.workspaces[0]
    assert f"Replaced by {second['id']}" in tenant.guest.get(path).text
    assert first["id"] in tenant.guest.get(done.location).text
    late = tenant.guest.post(PATH, fields | {"request_key": "another"})
    assert late.status == 409
    assert "already replaced" in late.text


# Ways to a statement.


def test_ids_events_and_the_audit_log_lead_to_a_statement(tenant: Tenant) -> None:
    path = tenant.issued()
    statement_id = path.rpartition("/")[2]
    assert tenant.guest.get(f"/ui/search?q={statement_id.lower()}").location == path
    auditor = visitor(tenant.edge, "read", "audit:read", organization_id=tenant.organization)
    for address in ("/ui/events?type=statement.issued", "/ui/audit?action=statement.issue"):
        page = auditor.get(address)
        assert [str(a["href"]) for a in page.all(".about a")] == [path], address
    event = str(tenant.guest.get(path).one("#seal p a.id")["href"])
    assert path in [str(a["href"]) for a in tenant.guest.get(event).all("dl.facts a")]
