"""The map of ``ledger import --map``, a TOML file (contract, Files).

It is checked before anything is opened, so a misspelt name is a usage error that suggests the
nearest valid one. The fields and their kinds come from the models of facts.
"""

import codecs
import math
import re
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime
from difflib import get_close_matches
from functools import cache
from pathlib import Path
from typing import Any, Literal, TypeVar

import msgspec

from ledger.engine.values.calendar import calendar_of
from ledger.engine.values.errors import Invalid
from ledger.engine.values.values import LINE_ID, escaped
from ledger.features.facts.fact_types import ALIASES, FACT_TYPES

T = TypeVar("T")

Kind = Literal["text", "number", "instant", "texts", "json"]

SERIAL = "excel"
"""Stands for a format of dates: cells have Excel's serial numbers of days."""

ATTRIBUTES: dict[str, Kind] = {
    "subject": "text",
    "time": "instant",
    "actortype": "text",
    "actorid": "text",
    "traceparent": "text",
}
"""The attributes of a fact that a column or a constant may be. No field of data has such a name."""

_DAYS = [
    datetime(year, month, day, 17, tzinfo=UTC)
    for year, month, day in ((2023, 11, 26), (2024, 11, 26), (2023, 10, 26), (2023, 11, 25))
]
"""Instants that a format of dates must distinguish."""


_DIRECTIVES = "YymdBbHIMSfpzaA"
"""The supported letters of formats, each at most once."""

_NUMBERS = "YymdHIMSf"

_NO_CHARSETS = ("idna", "punycode", "raw-unicode-escape", "undefined", "unicode-escape")
"""Python's codecs from text to bytes that are no character sets."""

_TYPES = (*FACT_TYPES, *ALIASES)


class MapFault(ValueError):
    """The map is wrong: a usage error."""


class Dialect(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How a file is written."""

    delimiter: str = ","
    decimal: Literal[".", ","] = "."
    date: str | None = None
    """A format of ``strptime``, or ``SERIAL``; None if cells have RFC 3339 instants."""
    time_zone: str | None = None
    encoding: str = "utf-8"


class TypeColumn(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The column with each row's type of fact."""

    column: str


class SheetMap(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The map of a CSV file. ``columns`` and ``constants`` are by dotted names of fields."""

    source: str
    type: str | TypeColumn
    id: str
    columns: dict[str, Any]
    constants: dict[str, Any] = {}
    read: Dialect = Dialect()

    def fields(self) -> dict[str, Kind]:
        """The fields and attributes that a row may have."""
        types = [self.type] if isinstance(self.type, str) else _TYPES
        return ATTRIBUTES | {name: kind for each in types for name, kind in fields_of(each).items()}


class FlowMap(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The map of flow runs: the line of each deployment, by the deployment's name or id."""

    source: str = "prefect"
    deployments: dict[str, str] = {}


@cache
def fields_of(fact_type: str) -> dict[str, Kind]:
    """The fields of the data of a type of facts, with their kinds; none for an unknown type."""
    kind = FACT_TYPES.get(ALIASES.get(fact_type, fact_type))
    if kind is None:
        return {}
    schema = kind.data.model_json_schema()
    return dict(_kinds(schema, schema.get("$defs", {})))


def _kinds(
    schema: Mapping[str, Any], models: Mapping[str, Any], prefix: str = ""
) -> Iterator[tuple[str, Kind]]:
    """The fields of a model's JSON schema; those of a nested object by dotted names."""
    for name, field in schema["properties"].items():
        (form,) = (each for each in field.get("anyOf", [field]) if each.get("type") != "null")
        if "$ref" in form:
            model = models[form["$ref"].rpartition("/")[2]]
            yield from _kinds(model, models, f"{prefix}{name}.")
            continue
        kind: Kind = "text"
        if form.get("type") in ("number", "integer"):
            kind = "number"
        elif form.get("format") == "date-time":
            kind = "instant"
        elif form.get("type") == "array":
            kind = "texts" if form["items"].get("type") == "string" else "json"
        yield prefix + name, kind


def sheet_map(file: str) -> SheetMap:
    found = _convert(_table(file, SheetMap), SheetMap)
    if isinstance(found.type, str):
        _check_names([found.type], _TYPES, "type")
    fields = found.fields()
    columns = dict(_flat(found.columns, fields))
    constants = dict(_flat(found.constants, fields))
    _check_names(columns, fields, "columns")
    _check_names(constants, fields, "constants")
    if twice := columns.keys() & constants.keys():
        raise MapFault(f"{min(twice)} is both in columns and in constants")
    unnamed = [name for name, column in columns.items() if not _is_name(column)]
    if unnamed or not _is_name(found.id):
        raise MapFault(f"{(unnamed or ['id'])[0]} must be the name of a column")
    for name, value in constants.items():
        _check_constant(name, fields[name], value)
    if not found.source:
        raise MapFault("source must not be empty")
    _check_dialect(found.read)
    return msgspec.structs.replace(found, columns=columns, constants=constants)


def flow_map(file: str) -> FlowMap:
    found = _convert(_table(file, FlowMap), FlowMap)
    for name, line in found.deployments.items():
        if not re.fullmatch(LINE_ID, line):
            raise MapFault(f"the deployment {name} must have a LIN-YY-NNNNNN id")
    return found


def _table(file: str, shape: type[msgspec.Struct]) -> dict[str, Any]:
    try:
        table = tomllib.loads(Path(file).read_text("utf-8-sig"))
    except OSError as error:
        raise MapFault(f"cannot read {file}: {error.strerror}") from error
    except ValueError as error:
        raise MapFault(f"{file} is no TOML: {error}") from error
    _check_names(table, shape.__struct_fields__, file)
    if isinstance(table.get("read"), dict):
        _check_names(table["read"], Dialect.__struct_fields__, "read")
    return table


def _convert(table: dict[str, Any], shape: type[T]) -> T:
    try:
        return msgspec.convert(table, shape)
    except msgspec.ValidationError as error:
        raise MapFault(str(error)) from error


def _flat(
    table: Mapping[str, Any], names: Iterable[str], prefix: str = ""
) -> Iterator[tuple[str, Any]]:
    """The entries by dotted names: TOML takes ``error.code`` without quotes for nested tables."""
    for name, value in table.items():
        if isinstance(value, dict) and prefix + name not in names:
            yield from _flat(value, names, f"{prefix}{name}.")
        else:
            yield prefix + name, value


def _check_names(names: Iterable[str], allowed: Iterable[str], where: str) -> None:
    for name in names:
        if name not in allowed:
            raise MapFault(f"{where} has no {name}{nearest(name, allowed)}")


def nearest(name: str, allowed: Iterable[str]) -> str:
    """A question that suggests a similar name, and all allowed names."""
    found = get_close_matches(name, allowed, 1)
    hint = f", did you mean {found[0]}?" if found else "."
    return f"{hint} Known: {', '.join(allowed)}"


def _check_constant(name: str, kind: Kind, value: Any) -> None:
    """Raise MapFault for a constant that would refuse each row, or vanish from it."""
    if kind == "number":
        is_right = type(value) in (int, float) and math.isfinite(value)
    elif kind == "instant":
        is_right = isinstance(value, str) or (
            isinstance(value, datetime) and value.tzinfo is not None
        )
    else:
        is_right = kind in ("texts", "json") or name == "value" or isinstance(value, str)
    if not is_right:
        wanted = {"number": "a number", "instant": "an instant with a zone"}.get(kind, "a text")
        raise MapFault(f"the constant {name} must be {wanted}")


def _is_name(column: Any) -> bool:
    return isinstance(column, str) and column.strip() == column != ""


def _check_dialect(read: Dialect) -> None:
    if len(read.delimiter) != 1 or read.delimiter in '"\r\n ':
        raise MapFault("delimiter must be one character, but no quote and no blank")
    if not _is_charset(read.encoding):
        wanted = "a charset that Python knows, such as cp1252"
        raise MapFault(f"encoding must be {wanted}: {escaped(read.encoding)} is none")
    if read.time_zone is not None:
        try:
            calendar_of(read.time_zone)
        except Invalid as error:
            raise MapFault(f"time_zone {error.errors[0][1]}") from error
    if read.decimal == read.delimiter:
        raise MapFault("decimal and delimiter must not be the same")
    if read.date is None:
        return
    if read.date != SERIAL and (fault := _fault_of(read.date)):
        raise MapFault(f"date {fault}")
    if read.time_zone is None and "z" not in directives(read.date):
        raise MapFault("date needs a time_zone, such as Europe/Berlin")


def _is_charset(encoding: str) -> bool:
    try:
        "a".encode(encoding)
        return codecs.lookup(encoding).name not in _NO_CHARSETS
    except (LookupError, ValueError):
        return False


def directives(form: str) -> list[str]:
    return re.findall("%(.)", form.replace("%%", ""))


def is_glued(form: str) -> bool:
    """True if two numbers of a format have nothing between them.

    If a sheet dropped a leading zero there, the text would be read as another date.
    """
    return re.search(f"%[{_NUMBERS}]%[{_NUMBERS}]", form.replace("%%", "")) is not None


def _fault_of(form: str) -> str | None:
    """Why a format of dates would give wrong instants; None if it does not."""
    letters = directives(form)
    if unknown := [letter for letter in letters if letter not in _DIRECTIVES]:
        supported = ", ".join(f"%{letter}" for letter in _DIRECTIVES)
        return f"has %{unknown[0]}, which is not read. Known: {supported}"
    if twice := [letter for letter in letters if letters.count(letter) > 1]:
        return f"has %{twice[0]} twice: %m is the month, and %M are the minutes"
    if ("p" in letters) != ("I" in letters):
        return "needs %I and %p together: %H counts to 23, and takes no AM or PM"
    if "H" in letters and "I" in letters:
        return "has both %H and %I"
    if not _tells_days(form):
        return "must be a format of strptime with year, month and day"
    return None


def _tells_days(form: str) -> bool:
    """True if a format reads back the day that it wrote, and the hour if it has one."""
    written = [each.strftime(form) for each in _DAYS]
    if len(set(written)) < len(_DAYS):
        return False
    try:
        found = datetime.strptime(written[0], form)
    except ValueError:
        return False
    return found.date() == _DAYS[0].date() and found.hour in (0, _DAYS[0].hour)
