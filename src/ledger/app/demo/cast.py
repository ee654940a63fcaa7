"""The cast of the story: the lines, the fate of each, when each was held, and programs' keys.

The fates are literal and not random, so the board shows every state in both organizations at any
time. Only the hours are random.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from random import Random

from ledger.app.demo import words
from ledger.features.keys.model import Permission

SEED = "execution-ledger"

PRIMARY_ORGANIZATION = "ORG-26-090500"
SECOND_ORGANIZATION = "ORG-26-090777"
ORGANIZATIONS = (PRIMARY_ORGANIZATION, SECOND_ORGANIZATION)
WORKSPACES = {
    PRIMARY_ORGANIZATION: ("WS-26-000021", "WS-26-000022", "WS-26-000024"),
    SECOND_ORGANIZATION: ("WS-26-000031", "WS-26-000032"),
}

MODELS = {
    "talent": "capacity",
    "managed_services": "ongoing_sla",
    "ods": "timeboxed_outcome",
    "infrastructure": "infra_managed",
    "intelligence": "observability",
    "agent_gateway": "agent_runtime",
}

LEAD = "USR-26-000044"
"""The operations lead of the primary organization."""

FATES = {"R": "running", "I": "idle", "P": "paused", "B": "blocked", "C": "closed"}
LINE_FATES = {
    "talent": "RRBRIRPRRBRRCRP",
    "managed_services": "RPRIRBRRBRC",
    "ods": "RRIRBRPRCB",
    "infrastructure": "RIRRBRRPC",
    "intelligence": "RIRBRIR",
    "agent_gateway": "RIRPBRCI",
}
"""One letter per line; every third line of a product line is the second organization's."""

MOODS = (
    "well", "well", "watch", "well", "trouble", "well", "watch", "well", "well", "failing", "well",
)  # fmt: skip
"""The health of one line after the other: eleven moods, so that they spread over fates and product
lines."""

WEEKS = 6
SEED_TALENT = ("talent", 0)
SEED_AGENT = ("agent_gateway", 0)
SEED_LINES = {
    SEED_TALENT: ("LIN-26-084729", "RUN-26-000419", "PROJ-26-004281"),
    SEED_AGENT: ("LIN-26-091100", "RUN-26-000388", None),
}
FIRST_LINE_NUMBER = 84_800
FIRST_INCIDENT_NUMBER = 91
FIRST_USER_NUMBERS = {PRIMARY_ORGANIZATION: 100, SECOND_ORGANIZATION: 310}
FIRST_PROJECT_NUMBERS = {PRIMARY_ORGANIZATION: 4281, SECOND_ORGANIZATION: 4612}


@dataclass(frozen=True)
class Interruption:
    """A span in which a line was paused or blocked; `end` is None while it lasts."""

    begin: datetime
    end: datetime | None
    reason: str
    ending: str
    cause: str | None = None
    blocker_id: str | None = None

    def covers(self, moment: datetime) -> bool:
        """True if no run may start at that moment; both edges are included."""
        return self.begin <= moment and (self.end is None or moment <= self.end)


@dataclass(frozen=True)
class CastLine:
    """One service line: its owner, its fate and its dates.

    `quiet` is its last ordinary activity; `over` is the last moment of any of its facts.
    """

    id: str
    index: int
    product_line: str
    position: int
    fate: str
    organization_id: str
    workspace_id: str
    project_tags: tuple[str, ...]
    execution_id: str | None
    year: str
    opened: datetime
    quiet: datetime
    over: datetime
    now: datetime
    interruptions: tuple[Interruption, ...] = ()

    @property
    def execution_model(self) -> str:
        return MODELS[self.product_line]

    @property
    def number(self) -> str:
        """The id without its prefix, for readable fact ids."""
        return self.id.removeprefix("LIN-")

    @property
    def mood(self) -> str:
        """The line's present health; an agent line is as healthy as its runs."""
        if self.product_line == "agent_gateway":
            failing = words.AGENTS[self.position].failing
            return "trouble" if failing > 0.1 else "watch" if failing > 0.055 else "well"
        return MOODS[self.index % len(MOODS)]

    @property
    def lead(self) -> str:
        if self.organization_id == PRIMARY_ORGANIZATION and self.position % 4 == 0:
            return LEAD
        return self.user(self.index)

    def user(self, number: int) -> str:
        """One of the organization's 23 people; no person works for both organizations."""
        first = FIRST_USER_NUMBERS[self.organization_id]
        return f"USR-{self.year}-{first + number % 23:06d}"

    def held(self, moment: datetime) -> bool:
        return any(each.covers(moment) for each in self.interruptions)

    def chance(self, purpose: str) -> Random:
        """A random generator per purpose, so that a change in one does not alter the others."""
        return Random(f"{SEED}/{self.id}/{purpose}")


def cast(now: datetime) -> list[CastLine]:
    rng = Random(SEED)
    parts = []
    for product_line, letters in LINE_FATES.items():
        for position, letter in enumerate(letters):
            fate = FATES[letter]
            opened = _opening(product_line, position, fate, now, rng)
            parts.append((opened, product_line, position, fate))
    parts.sort(key=lambda part: part[0])
    incidents = iter(range(FIRST_INCIDENT_NUMBER, 10**6))
    blocked = iter(range(len(parts)))
    return [
        _line(index, *part, now=now, rng=rng, incidents=incidents, blocked=blocked)
        for index, part in enumerate(parts)
    ]


def _opening(product_line: str, position: int, fate: str, now: datetime, rng: Random) -> datetime:
    """Choose the morning on which a line began; the seed's lines are the oldest and the newest."""
    days = rng.uniform(26 if fate == "closed" else 13, WEEKS * 7 - 1)
    if (product_line, position) == SEED_TALENT:
        days = WEEKS * 7
    elif (product_line, position) == SEED_AGENT:
        days = 5
    morning = (now - timedelta(days=days)).replace(hour=0, minute=0, second=0, microsecond=0)
    return morning + timedelta(seconds=rng.randrange(7 * 3600, 11 * 3600))


def _line(
    index: int,
    opened: datetime,
    product_line: str,
    position: int,
    fate: str,
    *,
    now: datetime,
    rng: Random,
    incidents: Iterator[int],
    blocked: Iterator[int],
) -> CastLine:
    year = f"{now:%y}"
    line_id, execution_id, tag = SEED_LINES.get((product_line, position), (None, None, None))
    organization_id = ORGANIZATIONS[position % 3 == 2]
    workspaces = WORKSPACES[organization_id]
    tags = _project_tags(organization_id, year, rng)
    if line_id is not None:
        tags = (tag,) if tag else ()
    quiet, over, last = _ending(product_line, position, fate, now, rng)
    interruptions = list(_past_interruptions(index, opened, quiet, rng, incidents, year))
    if fate == "paused":
        reason, ending = words.PAUSES[index % len(words.PAUSES)]
        interruptions.append(Interruption(last, None, reason, ending))
    elif fate == "blocked":
        interruptions += _open_blockers(next(blocked), last, now, rng, incidents, year)
    return CastLine(
        id=line_id or f"LIN-{year}-{FIRST_LINE_NUMBER + index * 100 + rng.randrange(100):06d}",
        index=index,
        product_line=product_line,
        position=position,
        fate=fate,
        organization_id=organization_id,
        workspace_id=workspaces[(position // 3 + position % 3) % len(workspaces)],
        project_tags=tags,
        execution_id=execution_id,
        year=year,
        opened=opened,
        quiet=quiet,
        over=over,
        now=now,
        interruptions=tuple(interruptions),
    )


def _project_tags(organization_id: str, year: str, rng: Random) -> tuple[str, ...]:
    first = FIRST_PROJECT_NUMBERS[organization_id]
    return tuple(
        sorted({f"PROJ-{year}-{first + rng.randrange(12):06d}" for _ in range(rng.randrange(3))})
    )


def _ending(
    product_line: str, position: int, fate: str, now: datetime, rng: Random
) -> tuple[datetime, datetime, datetime]:
    """Choose a line's `quiet` and `over`, and when its last hold began."""
    agent = product_line == "agent_gateway"
    over = now - timedelta(seconds=rng.randrange(15, 60))
    last = over
    if fate == "running" and agent:
        ago = timedelta(minutes=15)
    elif fate == "running" and position % 3 == 0:
        ago = timedelta(seconds=rng.randrange(70, 560))
    elif fate == "running":
        ago = timedelta(minutes=rng.randrange(40, 18 * 60))
    elif fate == "idle":
        # Past the thresholds (900 s and a day) with room for the run that ends last.
        ago = timedelta(
            minutes=rng.randrange(25, 9 * 60) if agent else rng.randrange(26 * 60, 75 * 60)
        )
    else:
        shortest, longest = {"paused": (150, 8 * 1440), "blocked": (18, 5 * 1440)}.get(
            fate, (1440, 14 * 1440)
        )
        ago = timedelta(minutes=rng.randrange(shortest, longest))
        last = now - ago
        ago += timedelta(seconds=rng.randrange(240, 3 * 3600))
    return now - ago, last if fate == "closed" else over, last


def _past_interruptions(
    index: int, opened: datetime, quiet: datetime, rng: Random, incidents: Iterator[int], year: str
) -> Iterator[Interruption]:
    """Hold most lines in the past, well inside the time in which they worked."""
    count = (1, 0, 2, 1, 0)[index % 5]
    room = (quiet - opened - timedelta(days=6)) / max(count, 1)
    if room < timedelta(days=4):
        return
    for number in range(count):
        begin = opened + timedelta(days=2) + room * number + room * rng.uniform(0.05, 0.3)
        begin = begin.replace(microsecond=0)
        if (index + number) % 2:
            reason, ending = rng.choice(words.PAUSES)
            yield Interruption(
                begin, begin + timedelta(minutes=rng.randrange(1440, 3900)), reason, ending
            )
        else:
            cause = words.CAUSES[(index // 2 + number) % 4]
            reason, ending = rng.choice(words.BLOCKS[cause])
            end = begin + timedelta(minutes=rng.randrange(160, 2300))
            yield Interruption(begin, end, reason, ending, cause, _incident(incidents, year))


def _open_blockers(
    number: int, begin: datetime, now: datetime, rng: Random, incidents: Iterator[int], year: str
) -> Iterator[Interruption]:
    """Block a line until today, every third line twice; the causes alternate."""
    for extra in range(2 if number % 3 == 1 else 1):
        cause = words.CAUSES[(number + extra) % 4]
        reason, ending = words.BLOCKS[cause][number % len(words.BLOCKS[cause])]
        yield Interruption(begin, None, reason, ending, cause, _incident(incidents, year))
        begin += (
            ((now - begin) * rng.uniform(0.2, 0.7)) // timedelta(seconds=1) * timedelta(seconds=1)
        )


def _incident(incidents: Iterator[int], year: str) -> str:
    return f"INC-{year}-{next(incidents):06d}"


@dataclass(frozen=True)
class Closing:
    """The last full month, for which finance issued a statement shortly after its end."""

    first: datetime
    beyond: datetime
    at: datetime
    late_at: datetime
    """When reports about the month came that the statement does not contain."""
    organization_id: str = PRIMARY_ORGANIZATION

    @property
    def clerk(self) -> str:
        return f"USR-{self.at:%y}-000012"


def closing_of(now: datetime) -> Closing:
    """The month before ``now``'s: everything happens on its first days, however few have passed."""
    beyond = now.replace(day=1, hour=0, minute=0, second=0, microsecond=0)
    first = (beyond - timedelta(days=1)).replace(day=1)
    part = (now - beyond) // 3
    at = beyond + min(part, timedelta(days=1, hours=9))
    late_at = beyond + min(2 * part, timedelta(days=2, hours=10, minutes=24))
    return Closing(first, beyond, at.replace(microsecond=0), late_at.replace(microsecond=0))


def people_of(closing: Closing) -> dict[str, str]:
    """The names of some people of the primary organization, by their ids."""
    lead, clerk, *others = words.NAMES
    first = FIRST_USER_NUMBERS[PRIMARY_ORGANIZATION]
    named = {f"USR-{closing.at:%y}-{first + n:06d}": name for n, name in enumerate(others)}
    return named | {LEAD: lead, closing.clerk: clerk}


@dataclass(frozen=True)
class StoryKey:
    """A key of the primary organization, or of one of its workspaces."""

    name: str
    permissions: tuple[Permission, ...]
    lives: timedelta | None = None
    """How long the key works from the end of the story on; None if it never expires."""
    workspace_id: str | None = None
    ending: str | None = None
    """``rotated`` or ``revoked`` since, or None."""


KEYS = (
    StoryKey("talent reporter", ("write",), timedelta(days=300)),
    StoryKey("agent gateway", ("read", "write"), timedelta(days=90), ending="rotated"),
    StoryKey("month-end billing", ("read", "audit:read"), timedelta(days=9)),
    StoryKey(
        "Halden Bank dashboard", ("read",), None, WORKSPACES[PRIMARY_ORGANIZATION][0]
    ),
    StoryKey("former pager", ("read", "webhooks:manage"), None, ending="revoked"),
)  # fmt: skip
