"""Ids that the ledger issues: counted per prefix and UTC year of recording (contract, Facts)."""

from collections.abc import Collection, Iterator

from ledger.domain.values import format_id
from ledger.log.append import Append


class Ids:
    """The ids of one append. ``touched`` are the streams in which the append records events."""

    def __init__(self, append: Append, touched: Collection[str]) -> None:
        self._append, self._touched = append, touched
        self._free: dict[tuple[str, int], Iterator[str]] = {}

    def issue(self, prefix: str, year: int) -> str:
        """The next id of a year's counter, skipping ids that are taken."""
        key = (prefix, year)
        if key not in self._free:
            self._free[key] = self._free_ids(prefix, year)
        return next(self._free[key])

    def _free_ids(self, prefix: str, year: int) -> Iterator[str]:
        number, window = self._append.counter(prefix, year), 16
        while True:
            ids = [format_id(prefix, year, number + n) for n in range(1, window + 1)]
            taken = self._append.taken(ids)
            for identifier in ids:
                # Checked now, not when the window was read: a command of this group may have taken
                # the id since.
                in_group = (
                    identifier in self._touched or identifier in self._append.decisions.new_records
                )
                if identifier not in taken and not in_group:
                    yield identifier
            number, window = number + window, min(window * 4, 2048)
