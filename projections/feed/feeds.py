"""The statements behind feeds and the audit log: one table, one order (contract, Feeds).

Both scan ``event`` by position (keyset pagination, ``walks.py``): forwards for programs that follow
the log, backwards for people who read the latest events. Bounds in time become bounds in position,
since recording times rise with positions. A statement returns rows with their stored events
(``items.py``).
"""

from functools import cache

from ledger.engine.postgres.pool.scope import Planning
from ledger.engine.views.statements import Read, read_of, where_tenant
from ledger.features.feed.audited import FACT_EVENT_TYPES
from ledger.features.feed.published import UNCHANGED_HEALTH
from projections.feed.items import with_stored
from projections.feed.walks import OWNER, TYPES, TYPES_OF_ACTIONS, WORKSPACE, scan, scan_types, way

# Feeds go only as far as the slowest running view. So a client that has received an event sees it
# in every later read. Stopped views do not hold feeds back, except the view ``event`` itself.
FEED_POSITION = """
SELECT min(position) AS position FROM ledger.projection
WHERE name = 'event' OR stopped_at IS NULL
"""

_IN_FEED = f"e.type <> '{UNCHANGED_HEALTH}'"

_OWNER = frozenset(OWNER)
_TENANT_AND_TIME = frozenset({*OWNER, *WORKSPACE, "from", "to"})

_BEFORE_ACTIONS = frozenset({"actor_id", "actor_type", "workspace", "workspace_id", "no_fact"})
"""Filters of the audit log that determine the scan, which compares each row's action.

(PostgreSQL expects so few rows with a certain type and kind of actor that it would sort them
instead of scanning an index.)
"""

_PAGE = """
SELECT p.position, page.*
FROM ({position}) AS p
LEFT JOIN LATERAL ({events}) AS page ON true
ORDER BY page.position{way}
"""

# Entries by actions. Facts are found by the types of their events. All other entries may have no
# type, so they have an index of their own. The scan of each type costs a page of rows. Many actions
# of facts match most entries, so then all entries are scanned instead. (The number of actions is a
# sum of comparisons, not a count of rows, so that PostgreSQL knows it when it plans.)
_FEW_ACTIONS = "{} <= 8".format(
    " + ".join(
        f"('{action}' = ANY(%(action)s::text[]))::int"
        for action in dict.fromkeys(action for action, _ in FACT_EVENT_TYPES)
    )
)
_SCAN_ACTIONS = f"""
(SELECT * FROM ({{facts}}) AS e WHERE {_FEW_ACTIONS})
UNION ALL (SELECT * FROM ({{others}}) AS e WHERE {_FEW_ACTIONS})
UNION ALL (SELECT * FROM ({{all}}) AS e WHERE NOT {_FEW_ACTIONS})
ORDER BY position{{way}} LIMIT %(limit)s
"""

_TAIL = """
SELECT e.* FROM ledger.event AS e
WHERE {in_feed} AND e.position > %(after)s AND e.position <= p.position
ORDER BY e.position LIMIT %(limit)s
"""

# The feed's events after a position, with the columns that clients' streams filter by.
TAIL = read_of(
    _PAGE,
    "event",
    is_behind_all=True,
    position=FEED_POSITION,
    events=with_stored(
        _TAIL.format(in_feed=_IN_FEED), "organization_id", "workspace_id", "line_id"
    ),
    way="",
)

# The end of feeds: the position, and when its event was recorded.
PRESENT = f"""
SELECT p.position, ledger.recorded_at(e.position)
FROM ({FEED_POSITION}) AS p LEFT JOIN ledger.event AS e ON e.position = p.position
"""

_EVENT = """
SELECT e.* FROM ledger.event AS e
WHERE e.position = %(at)s AND e.position <= p.position AND {in_feed} AND {where}
"""


@cache
def feed_read(filters: frozenset[str], backwards: bool = False) -> Read:
    """(position, columns of a found event) rows; a row of nulls if there is no event.

    The events after ``after``, oldest first; with ``backwards`` before ``before``, newest first.
    """
    if "type" in filters and filters & _OWNER and "service_line_id" not in filters:
        rows = scan_types(TYPES, filters, _IN_FEED, backwards)
    else:
        rows = scan(filters, _IN_FEED, backwards)
    return read_of(
        _PAGE,
        "event",
        planning=_planning(filters),
        is_behind_all=True,
        position=FEED_POSITION,
        events=with_stored(rows),
        way=way(backwards),
    )


# Entries of a line: its facts, and the commands, refusals and reads about it.
_SCAN_LINE = """
(SELECT * FROM ({facts}) AS e) UNION ALL (SELECT * FROM ({others}) AS e)
ORDER BY position{way} LIMIT %(limit)s
"""


@cache
def audit_read(filters: frozenset[str], backwards: bool = False) -> Read:
    """(position, columns of a found event) rows; a row of nulls if there is no entry.

    With ``action`` and ``service_line_id``, ``type`` gives the types of the actions' facts.
    """
    always = "e.audit IS NOT NULL"
    if "service_line_id" in filters:
        rows = _scan_line(filters, backwards)
    else:
        rows = scan(filters, always, backwards)
        if "action" in filters and filters & _OWNER and not filters & _BEFORE_ACTIONS:
            rows = _SCAN_ACTIONS.format(
                facts=scan_types(TYPES_OF_ACTIONS, filters | {"fact"}, always, backwards),
                others=scan(filters | {"no_fact"}, always, backwards),
                all=rows,
                way=way(backwards),
            )
    return _page(rows, backwards, _planning(filters))


def _planning(filters: frozenset[str]) -> Planning:
    """Plan a page by its values, unless the filters allow a single index."""
    return Planning.SHORT if filters <= _TENANT_AND_TIME else Planning.BY_VALUES


def _scan_line(filters: frozenset[str], backwards: bool) -> str:
    others = scan(filters - {"type"} | {"no_fact"}, "e.about_line_id IS NOT NULL", backwards)
    if "no_fact" in filters:
        return others
    facts = scan(filters - {"action"} | {"fact"}, "e.audit IS NOT NULL", backwards)
    return _SCAN_LINE.format(facts=facts, others=others, way=way(backwards))


@cache
def event_read(tenant: frozenset[str]) -> Read:
    """A single (position, columns of a found event) row."""
    rows = _EVENT.format(in_feed=_IN_FEED, where=where_tenant(tenant, "e"))
    return _page(rows)


def _page(rows: str, backwards: bool = False, planning: Planning = Planning.SHORT) -> Read:
    """Read at the position of the view ``event``: a single event, or the audit log."""
    events = with_stored(rows)
    return read_of(_PAGE, "event", planning=planning, events=events, way=way(backwards))
