"""Readers of feeds, pages of a list, and the words that are awkward in a table."""

import csv
import io
from collections.abc import Mapping
from typing import Any

from tests.support.edge import Edge

OTHER, SIBLING = "ORG-26-000002", "WS-26-000002"
"""Another organization, and another workspace of the usual one."""

ENVELOPE = [
    "id", "type", "occurred_at", "recorded_at", "position", "actor", "reported_by", "subject",
    "service_line_id", "organization_id", "workspace_id", "causation_id", "payload", "fact",
    "trace_id",
]  # fmt: skip

FORMULAS = ["=1+1", "+1", "-1", "@SUM(A1)", "＝1", "＠SUM(A1)"]
AWKWARD = ['say "yes", no', "a ; b", "plain", "é, 💩", "'quoted", "a=1", ",", '"', "a-1;b"]
BEHIND = {" =1": " '=1", "a;=1": "a;'=1", 'a; "-1': "a; \"'-1", "a;b;@c;d": "a;b;'@c;d"}
"""Formulas behind blanks and dividers, and their cells."""


def cell_of(word: str) -> str:
    """The cell of a word that the lists above have."""
    return f"'{word}" if word[:1] in tuple("=+-@＝＋－＠") else BEHIND.get(word, word)


def readers(edge: Edge) -> dict[str, str]:
    """The tokens of readers who see all, an organization, a workspace, another tenant, nothing."""
    return {
        "admin": edge.token("admin", organization_id=None),
        "own": edge.token("read"),
        "narrow": edge.token("read", workspace_id=SIBLING),
        "other": edge.token("read", organization_id=OTHER),
        "stranger": edge.token("read", organization_id="ORG-26-000003"),
    }


def pages_of(
    edge: Edge,
    path: str,
    token: str,
    filters: Mapping[str, str],
    headers: Mapping[str, str] | None = None,
) -> tuple[list[str], list[dict[str, Any]]]:
    """The texts of a list's pages, and the items of all pages."""
    texts, items = [], []
    params = {**filters, "limit": "100"}
    while True:
        answer = edge.get(path, token, params=params, headers=headers or {})
        assert answer.status_code == 200, answer.text
        texts.append(answer.text[len('{"data":[') : answer.text.rindex('],"meta":')])
        page = answer.json()
        items += page["data"]
        if not page["meta"]["has_more"]:
            return texts, items
        params["cursor"] = page["meta"]["cursor"]


def rows_of(content: bytes) -> list[list[str]]:
    return list(csv.reader(io.StringIO(content.decode(), newline="")))
