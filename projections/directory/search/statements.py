"""The statement behind the search (contract, Reading).

For each type, one index scan finds the candidates in the order of word and name: rows whose word
begins with the longest searched word, or equals the number. The other words are tried on the
candidates' names. So a search touches some hundreds of rows, however many names exist. Lines and
runs by number, and runs by whole external id, are found by their own keys.
"""

from functools import cache

from ledger.engine.views.statements import Read, read_of, tenant_conditions, where, where_tenant
from projections.directory.search.view import WHOLE

CANDIDATES = 200

FOUND = 20

_ENTRIES = ("workspace", "project", "resource")

# A workspace, project or resource is found while lines have it. OFFSET 0 keeps this a look-up by
# key: PostgreSQL could join the whole directory.
_BORNE = """
CROSS JOIN LATERAL (
    SELECT FROM ledger.directory AS d
    WHERE d.type = w.type AND d.organization_id = w.organization_id
      AND d.workspace_id = {scope} AND d.id = w.id AND d.lines > 0
    OFFSET 0
) AS borne
"""

_SCAN = f"""
(SELECT w.type, w.owner, w.id, w.organization_id, w.workspace_id, w.word, w.folded
 FROM ledger.search_word AS w {{borne}}
 WHERE w.type = '{{type}}' AND w.word <> '' AND {{scope}} AND {{asked}}
 ORDER BY w.word COLLATE "C", w.folded COLLATE "C", w.owner LIMIT {CANDIDATES})
"""

# An administrator's candidates, of all organizations. No index has them in order, since that would
# cost every name a quarter more bytes: so each organization gets a scan.
_SCAN_OF_ALL = f"""
(SELECT w.* FROM organization AS o CROSS JOIN LATERAL {{walk}} AS w
 ORDER BY w.word COLLATE "C", w.folded COLLATE "C", w.owner LIMIT {CANDIDATES})
"""

# The organizations; each is found from the previous one.
_ORGANIZATIONS = """
WITH RECURSIVE organization (id) AS (
    SELECT (SELECT min(w.organization_id) FROM ledger.search_word AS w WHERE {known})
    UNION ALL
    SELECT (SELECT min(w.organization_id) FROM ledger.search_word AS w
            WHERE {known} AND w.organization_id > o.id)
    FROM organization AS o WHERE o.id IS NOT NULL
)
"""

# The conditions of the indexes (``WORD``).
_OF_ORGANIZATION = "NOT w.of_workspace"
_OF_WORKSPACE = "w.workspace_id <> ''"

_BY_WORD = """w.word COLLATE "C" >= %(word)s AND w.word COLLATE "C" < %(beyond)s"""
_BY_NUMBER = """w.word COLLATE "C" = %(number)s AND w.id ~* ALL (%(ids)s::text[])"""

# The results found by a name. The name that people see comes from the view that shows it.
_NAMED = f"""
SELECT f.type, CASE WHEN f.type IN ('line', 'run') THEN f.owner ELSE f.id END AS id,
    CASE f.type
    WHEN 'run' THEN r.external_id
    WHEN 'line' THEN (
        SELECT ('{{{{' || e.head || '}}}}')::json ->> 'name' FROM ledger.execution AS e
        WHERE e.line_id = f.owner)
    WHEN 'blocker' THEN (
        SELECT left(b ->> 'reason', 200)
        FROM ledger.execution AS e,
            json_array_elements(('{{{{' || e.extra || '}}}}')::json -> 'blockers') AS b
        WHERE e.line_id = f.owner AND b ->> 'id' = f.id LIMIT 1)
    ELSE COALESCE(
        (SELECT d.name FROM ledger.directory AS d
         WHERE d.type = f.type AND d.organization_id = f.organization_id
           AND d.workspace_id = {{scope}} AND d.id = f.id),
        (SELECT n.name FROM ledger.directory_name AS n
         WHERE f.type <> 'resource' AND n.id = f.id AND n.organization_id = f.organization_id))
    END AS name,
    CASE WHEN f.type IN ('line', 'blocker') THEN f.owner WHEN f.type = 'run' THEN {{line_id}} END
        AS line_id,
    f.folded
FROM (SELECT * FROM ({{parts}}) AS part LIMIT {FOUND}) AS f
LEFT JOIN ledger.run AS r ON f.type = 'run' AND r.run_id = f.owner
"""

# The first candidates that all words fit. If lines fill the answer, the part of the other types,
# which follows, is not executed.
_PART = f"""
(SELECT DISTINCT c.type, c.owner, c.id, c.organization_id, c.workspace_id, c.folded,
    c.folded COLLATE "C" AS name
 FROM ({{walks}}) AS c
 WHERE NOT EXISTS (SELECT FROM unnest(%(words)s::text[]) AS word
                   WHERE strpos(' ' || c.folded, ' ' || word) = 0)
 ORDER BY name, c.type, c.owner, c.id LIMIT {FOUND})
"""

# Lines by their number; the caller tries their names.
_LINES = """
(SELECT 'line', e.line_id, ('{{' || e.head || '}}')::json ->> 'name', e.line_id, NULL
 FROM ledger.execution AS e WHERE e.line_id = ANY(%(line_ids)s) AND {tenant})
"""

# The line of a run; a run's row has the line's id as a number.
_LINE_ID = """
'LIN-' || lpad((r.line_key / 1000000000000)::text, 2, '0') || '-'
    || lpad(mod(r.line_key, 1000000000000)::text,
            greatest(6, length(mod(r.line_key, 1000000000000)::text)), '0')
"""

# Runs by their number, or by their whole external id.
_RUNS = """
(SELECT 'run', r.run_id, r.external_id, {line_id}, NULL
 FROM ledger.run AS r WHERE r.run_id = ANY(%(run_ids)s) AND {tenant})
"""
_RUNS_BY_NAME = f"""
(SELECT 'run', r.run_id, r.external_id, {{line_id}}, NULL
 FROM ledger.run AS r WHERE r.external_id = %(text)s AND {{tenant}} LIMIT {CANDIDATES})
"""

_SEARCH = """
{organizations}
SELECT p.position, found.type, found.id, found.name, found.line_id, found.folded, (
    SELECT ('{{' || e.head || '}}')::json ->> 'name' FROM ledger.execution AS e
    WHERE e.line_id = found.line_id AND found.type IN ('run', 'blocker')) AS line_name
FROM ({position}) AS p
LEFT JOIN ({found}) AS found ON true
"""


@cache
def search_read(filters: frozenset[str], by_number: bool) -> Read:
    """(position, type, id, name, line id, folded name, line's name); a row of nulls if none.

    Runs, and lines found by their number, have no folded name: the caller decides whether the words
    fit. Blockers and runs have the name of their line.
    """
    scope = where(
        filters,
        tenant_conditions("w"),
        _OF_WORKSPACE if "workspace" in filters else _OF_ORGANIZATION,
        *([] if filters else ["w.organization_id = o.id"]),
    )

    def entry(row: str) -> str:
        return f"{row}.workspace_id" if "workspace" in filters else f"'{WHOLE}'"

    def part(*types: str) -> str:
        scans = (
            _SCAN.format(
                type=each,
                borne=_BORNE.format(scope=entry("w")) if each in _ENTRIES else "",
                scope=scope,
                asked=_BY_NUMBER if by_number else _BY_WORD,
            )
            for each in types
        )
        if not filters:
            scans = (_SCAN_OF_ALL.format(walk=walk) for walk in scans)
        return _PART.format(walks=" UNION ALL ".join(scans))

    runs = where_tenant(filters, "r")
    parts = (
        [part("blocker", *_ENTRIES)]
        if by_number
        else [part("line"), part("blocker", "run", *_ENTRIES)]
    )
    named = _NAMED.format(parts=" UNION ALL ".join(parts), scope=entry("f"), line_id=_LINE_ID)
    found = [named, _RUNS_BY_NAME.format(tenant=runs, line_id=_LINE_ID)]
    if by_number:
        found += [
            _LINES.format(tenant=where_tenant(filters, "e")),
            _RUNS.format(tenant=runs, line_id=_LINE_ID),
        ]
    condition = f"w.word <> '' AND {_OF_ORGANIZATION}"
    return read_of(
        _SEARCH,
        "search",
        "directory",
        "execution",
        "run",
        is_pure=True,
        organizations="" if filters else _ORGANIZATIONS.format(known=condition),
        found=" UNION ALL ".join(found),
    )
