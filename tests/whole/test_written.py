"""The rehearsal types what the operator's pages say: no block of commands escapes it."""

import re

import pytest

from scripts.rehearse.pages import commands
from tests.support.documents import ROOT

PAGES = ("runbook.md", "high-availability.md", "operating.md")
CARRIED_OUT = (ROOT / "scripts/rehearse/written.py").read_text()

ELSEWHERE = {
    "Start and stop": "every test of a service starts one",
    "Mail": "tests/whole/test_mail_settings.py and tests/webhooks/test_mail.py",
    "The login of reads": "tests/engine/log/test_schema_rights.py",
    "Restore": "tests/app/cli/test_backup.py, as root and as another user",
    "Failures, rehearsed": "the rehearsal itself",
}
"""Headings whose commands others carry out."""


def headings(page: str) -> dict[str, int]:
    """The number of blocks that no test of the pages runs, by the heading above them."""
    found: dict[str, int] = {}
    heading = ""
    for line in (ROOT / "docs" / page).read_text().splitlines():
        if line.startswith("#"):
            heading = line.lstrip("# ")
        elif line == "```console sketch":
            found[heading] = found.get(heading, 0) + 1
    return found


@pytest.mark.parametrize("page", PAGES)
def test_each_heading_with_commands_is_carried_out_or_named_with_the_test_that_does(
    page: str,
) -> None:
    found = headings(page)
    assert found
    assert [h for h in found if f'"{h}"' not in CARRIED_OUT and h not in ELSEWHERE] == []


def test_lines_behind_a_prompt_are_typed_with_all_that_goes_on_with_them() -> None:
    script = commands("runbook.md", "LedgerAppendsFailing").splitlines()
    assert script[0].endswith("<<'END'")
    assert script[-1] == "END"
    assert "FROM pg_stat_activity" in " ".join(script)


def test_outputs_are_not_typed_and_an_ellipsis_is_a_password() -> None:
    assert "ok" not in commands("operating.md", "Watch").split()
    assert re.search(r"^ledger_password=rehearsed ", commands(PAGES[1], "The database"))


def test_words_that_differ_are_replaced_and_a_word_that_is_missing_is_an_error() -> None:
    moved = commands("operating.md", "Go back to an instant", old="17", instant="2027-01-01")
    assert "postgresql@17-main" in moved
    assert "'2027-01-01'" in moved
    with pytest.raises(ValueError, match="does not say"):
        commands("operating.md", "Watch", endpoint="WHK-27-000001")


@pytest.mark.parametrize(("heading", "number"), [("No such heading", 0), ("First look", 9)])
def test_a_block_that_is_missing_is_an_error(heading: str, number: int) -> None:
    with pytest.raises(ValueError, match=r"^runbook\.md has no "):
        commands("runbook.md", heading, number)
