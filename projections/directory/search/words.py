"""The words of names and of searched texts, and the numbers of ids (contract, Reading).

A text is folded: compatible characters become one (NFKD), combining marks go, and case is folded.
Its words are its runs of letters and digits.
"""

import re
import unicodedata
from typing import Any, NamedTuple

LONGEST = 200
"""The most characters of a folded name, so that index entries stay short."""

_WORD = re.compile(r"[^\W_]+")
_DIGITS = re.compile(r"[0-9]+")
_NUMBERED = re.compile(r"[A-Za-z]+-(?:[0-9]{2}-)?0*([0-9]{1,18})", re.ASCII)
_SOUGHT_ID = re.compile(r"(?:([a-z]+)-)?(?:([0-9]{2})-)?0*([0-9]+)", re.ASCII)
_EDGES = re.compile(r"^[\W_]+|[\W_]+$")

_MOST_DIGITS = 12
"""The most digits of the number in an id of a line or a run."""


def fold(text: str) -> str:
    """Remove differences of case, combining marks and compatible characters."""
    parts = unicodedata.normalize("NFKD", text)
    return "".join(part for part in parts if not unicodedata.combining(part)).casefold()


def folded_name(name: str) -> str:
    """The folded words of a name, separated by spaces: the sort key of names."""
    return " ".join(_WORD.findall(fold(name)))[:LONGEST].rstrip()


def leading(folded: str) -> list[str]:
    return [word for word in dict.fromkeys(folded.split()) if _leads(word)]


def number_of(identifier: str) -> str | None:
    """The number of an id such as ``SCR-128612``, without leading zeros, or None."""
    match = _NUMBERED.fullmatch(identifier)
    return match and match[1]


class Sought(NamedTuple):
    """A searched text, parsed."""

    text: str
    words: tuple[str, ...]
    """The folded words that must begin words of the name, the longest first; may be empty."""
    ids: tuple[re.Pattern[str], ...]
    """A pattern for each number: a found id matches all of them; may be empty."""
    number: str | None

    def parameters(self) -> dict[str, Any]:
        """The parameters of ``search_read``, apart from the tenant's."""
        first = self.words[0] if self.words else ""
        return {
            "text": self.text,
            "words": list(self.words),
            "word": first,
            # After all words that begin with the first: no character has a greater code point.
            "beyond": f"{first}\U0010ffff",
            "number": self.number,
            "ids": [f"^(?:{pattern.pattern})$" for pattern in self.ids],
            "line_ids": self._keys("LIN"),
            "run_ids": self._keys("RUN"),
        }

    def _keys(self, prefix: str) -> list[str]:
        if self.number is None or len(self.number) > _MOST_DIGITS:
            return []
        each = (f"{prefix}-{year:02d}-{self.number.zfill(6)}" for year in range(100))
        return [identifier for identifier in each if self.fits_id(identifier)]

    def fits_id(self, identifier: str) -> bool:
        return all(pattern.fullmatch(identifier) for pattern in self.ids)

    def fits_name(self, folded: str) -> bool:
        """True if each word begins a word of the folded name."""
        return all(f" {word}" in f" {folded}" for word in self.words)


def sought(text: str) -> Sought | None:
    """Parse a searched text; None if it has no usable word.

    A token that is a number, or an id with a number, searches for the id. A token without letters
    searches for each of its numbers. Of other tokens, all words of two or more characters are
    searched. A word of digits begins no search.
    """
    words: dict[str, None] = {}
    ids: dict[tuple[str | None, str | None, str], None] = {}
    for token in fold(text).split():
        token = _EDGES.sub("", token)
        parts = _WORD.findall(token)
        if match := _SOUGHT_ID.fullmatch(token):
            ids[match[1], match[2], match[3]] = None
        elif all(map(_DIGITS.fullmatch, parts)):
            ids |= dict.fromkeys((None, None, part.lstrip("0") or "0") for part in parts)
        else:
            words |= dict.fromkeys(part for part in parts if len(part) > 1)
    if not ids and not any(map(_leads, words)):
        return None
    return Sought(
        text.strip(),
        # The sort is stable: equally long words keep their order.
        tuple(sorted(words, key=lambda word: (not _leads(word), -len(word)))),
        tuple(_pattern(*each) for each in ids),
        next(iter(ids))[2] if ids else None,
    )


def _leads(word: str) -> bool:
    return len(word) > 1 and _DIGITS.fullmatch(word) is None


def _pattern(prefix: str | None, year: str | None, number: str) -> re.Pattern[str]:
    of_year = f"{year}-" if year else "(?:[0-9]{2}-)?"
    return re.compile(rf"{prefix or '[a-z]+'}-{of_year}0*{number}", re.IGNORECASE | re.ASCII)
