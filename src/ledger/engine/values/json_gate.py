"""The JSON that may enter the ledger: I-JSON, bounded in depth and numbers (contract, Facts).

``BrokenJson`` refuses a whole body that is not JSON in UTF-8. ``Invalid`` refuses one item of the
body: JSON that parsers disagree on or that PostgreSQL cannot store. Examples are duplicate keys,
NUL, lone surrogates, and integers that a double does not hold exactly.
"""

import json
import math
import re
from collections.abc import Callable, Generator
from contextlib import suppress
from typing import Any, TypeVar

import msgspec

from ledger.engine.values.errors import Invalid

MAX_DEPTH = 32
MAX_INTEGER = 2**53 - 1

_ESCAPE = re.compile(rb"\\u(?:0000|[dD][89a-fA-F])")
"""Only an escape can bring in NUL or a surrogate: unescaped, both are invalid in JSON or UTF-8."""

_ODD_ESCAPE = re.compile(rb"\\u00(?:00|22)")
"""The escapes of NUL and of the quotation mark."""

_HALF_ESCAPE = re.compile(rb"\\u(?![0-9a-fA-F]{4})")

_TOKEN = re.compile(r'"(?:[^"\\]|\\.)*+("|\\?\Z)|[\[\]{},]', re.DOTALL)
"""A whole string, a bracket, a brace or a comma.

An unclosed string is one token to the end of the text. Otherwise the search would try each quote
within it anew, in time that grows with the square of the length.
"""

_MANY_COMMAS = 100_000
"""A body with more commas may hold millions of items, so they are split one by one, up to a limit.
"""

_TOKENS_A_STEP = 10_000
"""Tokens read in one step, which takes some 5 ms: a body may have millions."""

_SPACE = " \t\r\n"

_deterministic = msgspec.json.Encoder(order="deterministic")
_encode = msgspec.json.Encoder().encode

T = TypeVar("T")


class BrokenJson(Exception):
    """The body is not JSON in UTF-8."""


class _Duplicate:
    """Stands for a parsed object that had the same key twice."""


def _object(pairs: list[tuple[str, Any]]) -> Any:
    result = dict(pairs)
    return result if len(result) == len(pairs) else _Duplicate()


def _constant(name: str) -> Any:
    raise BrokenJson(f"{name} is not JSON.")


_decoder = json.JSONDecoder(object_pairs_hook=_object, parse_constant=_constant)


def check_text(body: bytes) -> str:
    """Return the body as text. Raises BrokenJson for a byte order mark or anything but UTF-8."""
    if body.startswith(b"\xef\xbb\xbf"):
        raise BrokenJson("The body starts with a byte order mark.")
    try:
        return body.decode("utf-8")
    except UnicodeDecodeError as error:
        raise BrokenJson("The body is not valid UTF-8.") from error


def parse(raw: bytes, depth: int = 1) -> Any:
    """Parse one JSON value at a depth of nesting. Raises BrokenJson or Invalid."""
    try:
        value = _decoder.decode(check_text(raw))
    except RecursionError as error:
        raise Invalid.at("", f"nested deeper than {MAX_DEPTH} levels") from error
    except json.JSONDecodeError as error:
        raise BrokenJson("The body is not valid JSON.") from error
    except ValueError as error:
        # CPython refuses to convert an integer literal of thousands of digits.
        raise Invalid.at("", "a number is out of range") from error
    _check(value, depth, _ESCAPE.search(raw) is not None)
    return value


def parse_typed(raw: bytes, decode: Callable[[bytes], T]) -> T | None:
    """What a decoder of msgspec makes of a text of its type, in a third of the time of ``parse``.

    None if the text is not of the type, or if ``parse`` may refuse it. msgspec takes the last of
    two equal keys: the value then has fewer quotation marks than the text.
    """
    if b"\\u00" in raw and _ODD_ESCAPE.search(raw):
        return None
    try:
        value = decode(raw)
        _check(value, 1, False)
        return value if _encode(value).count(b'"') == raw.count(b'"') else None
    except (ValueError, RecursionError, Invalid):
        return None


def check_syntax(raw: bytes) -> None:
    """Raise BrokenJson for a body that is not JSON, without building values, whatever its size.

    JSON nested too deep for the parser passes; its inner values are not checked.
    """
    check_text(raw)
    if _ESCAPE.search(raw):
        # A lone surrogate's escape is JSON, but msgspec refuses it. So two letters replace the
        # first two bytes of each escape. Within a string the text stays JSON; elsewhere an escape
        # is no JSON anyway.
        raw = raw.replace(rb"\\", b"xx")
        if _HALF_ESCAPE.search(raw):
            raise BrokenJson("The body is not valid JSON.")
        raw = raw.replace(rb"\u", b"xx")
    try:
        msgspec.json.decode(raw, type=msgspec.Raw)
    except RecursionError:
        return
    except msgspec.DecodeError as error:
        raise BrokenJson("The body is not valid JSON.") from error


def split_in_steps(body: bytes, most: int) -> Generator[None, None, list[bytes]]:
    """Split a JSON array into its raw items, each as it was sent; yield between two steps.

    Returns at least ``most + 1`` items if the array has more than ``most``. Raises BrokenJson, or
    Invalid for JSON that is not an array.
    """
    if body.count(b",") <= _MANY_COMMAS:
        # msgspec also refuses an array for one bad item: nested too deep, or with the escape of a
        # lone surrogate. Such a body is split by its brackets below, and each item is checked by
        # itself.
        with suppress(msgspec.DecodeError, RecursionError):
            return [bytes(item) for item in msgspec.json.decode(body, type=list[msgspec.Raw])]
    text = check_text(body)
    if text.lstrip(_SPACE)[:1] != "[":
        parse(body)
        raise Invalid.at("", "must be an array")
    return (yield from _split_by_brackets(text, most))


def _split_by_brackets(text: str, most: int) -> Generator[None, None, list[bytes]]:
    """Split by brackets and commas. Raises BrokenJson unless all brackets match."""
    closing: list[str] = []
    items: list[str] = []
    start, end = 0, len(text)
    for number, match in enumerate(_TOKEN.finditer(text), 1):
        if number % _TOKENS_A_STEP == 0:
            yield
        token, at = match.group(), match.start()
        is_outside = not closing and (token != "[" or items or text[:at].strip(_SPACE))
        if is_outside or (token[0] == '"' and match[1] != '"'):
            raise BrokenJson("The body is not a valid JSON array.")
        if token in "[{":
            closing.append("]" if token == "[" else "}")
            start = start if len(closing) > 1 else at + 1
        elif token in "]}":
            if closing.pop() != token:
                raise BrokenJson("The body is not a valid JSON array.")
            if not closing:
                items.append(text[start:at])
                end = at + 1
        elif token == "," and len(closing) == 1:
            items.append(text[start:at])
            start = at + 1
            if len(items) > most:
                return _encoded(items)
    if closing or not items or text[end:].strip(_SPACE):
        raise BrokenJson("The body is not a valid JSON array.")
    raw = _encoded(items)
    return [] if raw == [b""] else raw


def _encoded(items: list[str]) -> list[bytes]:
    return [item.strip(_SPACE).encode() for item in items]


def canonical(value: Any) -> bytes:
    """JSON text with sorted keys: equal content (after ``by_value``) gives equal bytes."""
    return _deterministic.encode(value)


def by_value(value: Any) -> Any:
    """The value with whole floats as integers, since 8 and 8.0 are the same content."""
    if type(value) is dict:
        return {k: by_value(v) if type(v) in _INEXACT else v for k, v in value.items()}
    if type(value) is list:
        return [by_value(item) for item in value]
    if type(value) is float and value.is_integer() and abs(value) <= MAX_INTEGER:
        return int(value)
    return value


_NESTED = frozenset({dict, list})
_INEXACT = _NESTED | {float}
_CHECKED = _INEXACT | {int, _Duplicate}
"""The types of values that ``by_value`` may change, and that may be wrong by themselves."""


def without_nulls(value: Any) -> Any:
    """The value without the fields of its objects that are null."""
    if type(value) is dict:
        return {
            key: without_nulls(item) if type(item) in _NESTED else item
            for key, item in value.items()
            if item is not None
        }
    if type(value) is list:
        return [without_nulls(item) for item in value]
    return value


def _check(value: Any, depth: int, check_strings: bool) -> None:
    """Raise Invalid for a value that parsers disagree on or that PostgreSQL cannot store."""
    kind = type(value)
    if kind is str:
        if check_strings:
            _check_string(value)
    elif kind is dict or kind is list:
        if depth > MAX_DEPTH:
            raise Invalid.at("", f"nested deeper than {MAX_DEPTH} levels")
        if kind is dict:
            if check_strings:
                for key in value:
                    _check_string(key)
            value = value.values()
        for item in value:
            if check_strings or type(item) in _CHECKED:
                _check(item, depth + 1, check_strings)
    elif kind is int:
        if not -MAX_INTEGER <= value <= MAX_INTEGER:
            raise Invalid.at("", "an integer is beyond 2^53 - 1")
    elif kind is float:
        if not math.isfinite(value):
            raise Invalid.at("", "a number is out of range")
    elif kind is _Duplicate:
        raise Invalid.at("", "an object has the same key twice")


def _check_string(text: str) -> None:
    if "\0" in text:
        raise Invalid.at("", "a string contains NUL")
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise Invalid.at("", "a string contains a lone surrogate") from error
