"""The formats of files that ``ledger import`` takes besides facts as JSON lines.

map_file.py   the map that a person writes: which column is which field of a fact
sheet.py      CSV, read by a map
prefect.py    flow runs as Prefect's API gives them
"""

import argparse
from typing import Any

from ledger.app.cli.files.map_file import FlowMap, MapFault, flow_map, sheet_map
from ledger.app.cli.files.prefect import FlowRuns
from ledger.app.cli.files.sheet import Sheet
from ledger.app.cli.line_parser import Format, JsonLines


def format_of(map_file: str | None, origin: str | None, line: str | None) -> Format[Any]:
    """The format for the arguments of ``ledger import``. Raises MapFault."""
    if origin is not None:
        return FlowRuns(FlowMap() if map_file is None else flow_map(map_file), line)
    return JsonLines() if map_file is None else Sheet(sheet_map(map_file))


def fault_of(parsed: argparse.Namespace) -> str | None:
    if parsed.origin is None and parsed.line is not None:
        return "--line goes with --from prefect"
    if parsed.origin is not None and parsed.line is None and parsed.map_file is None:
        return "--from prefect needs --line, or a --map with [deployments]"
    try:
        format_of(parsed.map_file, parsed.origin, parsed.line)
    except MapFault as error:
        return f"argument --map: {error}"
    return None
