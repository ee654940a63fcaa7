"""The search finds what a search by hand through the lists of the API finds."""

import random
import re
import unicodedata
from collections.abc import Iterator
from typing import NamedTuple

from tests.support.edge import Edge
from tests.support.facts import ORGANIZATION, activation, fact

SYLLABLES = ("pay", "Pay", "core", "Éclair", "ece", "a", "Bank", "PAYOUT", "straße", "2026", "北京")
BETWEEN = (" ", " ", "-", "/", "_", ", ")
OTHER_ORGANIZATION = "ORG-26-000777"
WORKSPACES = ("WS-26-000901", "WS-26-000902")
PROJECTS = ("PROJ-26-000901", "PROJ-26-000902", "pay-tag", "q")
RESOURCES = ("SCR-901", "SCR-902", "agent-pay", "z")


class Entry(NamedTuple):
    """Anything that can be found."""

    type: str
    id: str
    name: str | None
    line: str | None


def some_name(dice: random.Random) -> str:
    parts = dice.choices(SYLLABLES, k=dice.randint(1, 3))
    return "".join(part + dice.choice(BETWEEN) for part in parts)


def tell(edge: Edge, dice: random.Random, number: int, token: str, organization: str) -> None:
    """A line with what it bears, and changes of it."""
    line = f"LIN-{dice.choice('2345')}6-{number:06d}"
    resources = [
        {"type": "t", "id": each, "name": dice.choice([None, some_name(dice)])}
        for each in dice.sample(RESOURCES, 2)
    ]
    model = dice.choice(["capacity", "agent_runtime"])
    name = dice.choice([None, some_name(dice)])
    facts = [
        activation(
            line,
            model,
            name=name,
            organization_id=organization,
            workspace_id=dice.choice(WORKSPACES),
            project_tags=dice.sample(PROJECTS, 2),
            resources=resources,
        )
    ]
    if model == "agent_runtime":
        external_id = dice.choice([None, f"{some_name(dice)}{number}"])
        run = {"service_line_id": line, "external_id": external_id}
        facts.append(fact(dice.choice(["run.requested", "run.started"]), f"RUN-26-{number}", run))
    for blocker in dice.sample(["B-903", "pay-b", "SCR-901"], dice.randint(0, 3)):
        reason = dice.choice([None, some_name(dice)])
        data = {"blocker_id": blocker, "cause": "approval_gap", "reason": reason}
        facts.append(fact("execution.blocked", line, data))
        if dice.random() < 0.3:
            facts.append(fact("execution.unblocked", line, {"blocker_id": blocker}))
    if dice.random() < 0.5:
        renamed = {"name": some_name(dice), "project_tags": dice.sample(PROJECTS, 1)}
        facts.append(fact("service_line.updated", line, renamed))
    facts += [
        fact("resource.released", line, {"id": each["id"]})
        for each in resources
        if dice.random() < 0.4
    ]
    if dice.random() < 0.2:
        facts.append(fact("service_line.closed", line))
    named = dice.choice((*WORKSPACES, *PROJECTS[:2]))
    facts.append(fact("directory.named", named, {"name": dice.choice([None, some_name(dice)])}))
    edge.accept(*facts, token=token)


def everything(edge: Edge, token: str) -> Iterator[Entry]:
    """All that the credential sees, from the lists."""
    for row in edge.data("/v1/execution", token, params={"limit": 100}):
        line = row["service_line_id"]
        yield Entry("line", line, row["name"], line)
        for blocker in edge.data(f"/v1/execution/{line}", token)["blockers"]:
            yield Entry("blocker", blocker["id"], blocker["reason"], line)
    for run in edge.data("/v1/runs", token, params={"limit": 100}):
        yield Entry("run", run["id"], run["external_id"], run["service_line_id"])
    for kind in ("workspace", "project", "resource"):
        for row in edge.data("/v1/directory", token, params={"type": kind, "limit": 100}):
            yield Entry(kind, row["id"], row["name"], None)


def words_of(text: str) -> list[str]:
    apart = unicodedata.normalize("NFKD", text)
    plain = "".join(c for c in apart if unicodedata.category(c) not in ("Mn", "Mc", "Me"))
    return [word for word in re.split(r"[\W_]+", plain.casefold()) if word]


def name_words(entry: Entry) -> list[str]:
    """The words by which an entry is known: without a name its id, unless that has a number."""
    words = words_of(entry.name or "")
    has_number = re.fullmatch(r"[A-Z]+(-\d\d)?-\d+", entry.id)
    return words or ([] if has_number or entry.type in ("line", "run") else words_of(entry.id))


def fits(entry: Entry, word: str) -> bool:
    if word.isdigit():
        return re.fullmatch(rf"[A-Z]+(-\d\d)?-0*{int(word)}", entry.id) is not None
    return any(each.startswith(words_of(word)[0]) for each in name_words(entry))


def sort_key(entry: Entry) -> tuple[bool, str, str, str]:
    """The order of results."""
    return entry.type != "line", " ".join(name_words(entry)), entry.type, entry.id


def query(dice: random.Random) -> list[str]:
    """Words, one to three, that are long enough, or numbers."""
    words = [dice.choice(SYLLABLES) for _ in range(dice.randint(1, 2))]
    words = [word[: dice.randint(2, len(word))] for word in words if len(word) > 1]
    if not words or dice.random() < 0.3:
        words.append(dice.choice(("901", "0902", "910005", "3")))
    return [word for word in words if len(words_of(word)[0]) > 1 or word.isdigit()] or ["pay"]


def test_a_search_finds_what_fits_in_order(edge: Edge) -> None:
    dice = random.Random(27)
    ours = edge.token("read", "write", organization_id=ORGANIZATION)
    theirs = edge.token("read", "write", organization_id=OTHER_ORGANIZATION)
    narrow = edge.token("read", organization_id=ORGANIZATION, workspace_id=WORKSPACES[0])
    for number in range(910_000, 910_045):
        if number % 3:
            tell(edge, dice, number, ours, ORGANIZATION)
        else:
            tell(edge, dice, number, theirs, OTHER_ORGANIZATION)
    found_in_all = 0
    for token in (ours, theirs, narrow, edge.token("admin")):
        entries = list(everything(edge, token))
        for _ in range(80):
            searched = query(dice)
            expected = [e for e in entries if all(fits(e, word) for word in searched)]
            expected.sort(key=sort_key)
            data = edge.data("/v1/search", token, params={"q": " ".join(searched)})
            found = [Entry(f["type"], f["id"], f["name"], f["service_line_id"]) for f in data]
            assert list(map(sort_key, found)) == list(map(sort_key, expected[:20])), searched
            assert set(found) <= set(expected), searched
            found_in_all += len(found)
    assert found_in_all > 500
