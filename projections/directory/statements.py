"""The statements that read the directory (contract, Reading).

A page is one index scan, in the order of ids. An administrator's page has an entry for each
organization that has the id, ordered by organization.
"""

from collections.abc import Mapping
from functools import cache

from ledger.engine.views.statements import Read, read_of, where
from projections.directory.rows import WHOLE

_CONDITIONS: Mapping[str, str] = {
    "organization": "d.organization_id = %(organization)s",
    "workspace": "d.workspace_id = %(workspace)s",
    "after": "d.id > %(after)s",
}

# For administrators.
_AFTER_BOTH = "(d.id, d.organization_id) > (%(after)s, %(after_organization)s)"

_PAGE = """
SELECT p.position, page.id, page.organization_id, page.name, page.lines
FROM ({position}) AS p
LEFT JOIN LATERAL (
    SELECT d.id, d.organization_id, COALESCE(d.name, n.name) AS name, d.lines
    FROM (
        SELECT d.type, d.id, d.organization_id, d.name, d.lines FROM ledger.directory AS d
        WHERE d.type = %(type)s AND d.lines > 0 AND {where}
        ORDER BY d.id, d.organization_id LIMIT %(limit)s
    ) AS d
    LEFT JOIN ledger.directory_name AS n
        ON n.id = d.id AND n.organization_id = d.organization_id AND d.type <> 'resource'
) AS page ON true
ORDER BY page.id, page.organization_id
"""

# The names of these workspaces and projects. An administrator may see several organizations: a name
# is shown if only one of them has given one.
_NAMES = """
SELECT p.position, named.id, named.name
FROM ({position}) AS p
LEFT JOIN LATERAL (
    SELECT d.id, min(d.name) AS name FROM ledger.directory_name AS d
    WHERE d.id = ANY(%(ids)s) AND d.name IS NOT NULL AND {where}
    GROUP BY d.id HAVING count(*) = 1
) AS named ON true
"""

# The names of these workspaces, each paired with its organization.
SCOPES = read_of(
    """
SELECT p.position, d.id, d.organization_id, d.name
FROM ({position}) AS p
LEFT JOIN (
    unnest(%(ids)s::text[], %(organizations)s::text[]) AS asked (id, organization_id)
    JOIN ledger.directory_name AS d USING (id, organization_id)
) ON d.name IS NOT NULL
""",
    "directory",
    is_pure=True,
)


# The names of an organization's workspaces as known at the position ``end``.
NAMES_THEN = read_of(
    """
SELECT p.position, named.id, named.name
FROM ({position}) AS p
LEFT JOIN LATERAL (
    SELECT DISTINCT ON (d.id) d.id, d.name FROM ledger.directory_naming AS d
    WHERE d.id = ANY(%(ids)s) AND d.organization_id = %(organization)s AND d.position <= %(end)s
    ORDER BY d.id, d.position DESC
) AS named ON named.name IS NOT NULL
""",
    "directory",
)

# The names of these resources, released ones included: the latest by workspace and organization.
NAMES_OF_RESOURCES = read_of(
    """
SELECT p.position, named.id, named.name
FROM ({position}) AS p
LEFT JOIN LATERAL (
    SELECT d.id, d.name FROM ledger.directory AS d
    WHERE d.type = 'resource' AND d.organization_id = %(organization)s
      AND d.workspace_id = %(workspace)s AND d.id = ANY(%(ids)s) AND d.name IS NOT NULL
) AS named ON true
""",
    "directory",
    is_pure=True,
)


@cache
def page_read(filters: frozenset[str]) -> Read:
    """(position, id, organization, name, lines) rows; a row of nulls if there is no entry."""
    always = [] if "workspace" in filters else [f"d.workspace_id = '{WHOLE}'"]
    if "after" in filters and "organization" not in filters:
        always.append(_AFTER_BOTH)
        filters -= {"after"}
    condition = where(filters, _CONDITIONS, *always)
    return read_of(_PAGE, "directory", is_pure=True, where=condition)


@cache
def names_read(filters: frozenset[str]) -> Read:
    """(position, id, name) rows; a row of nulls if no id has a name.

    A name belongs to an organization: a credential of one workspace sees it too.
    """
    own = where(filters & {"organization"}, _CONDITIONS)
    return read_of(_NAMES, "directory", is_pure=True, where=own)
