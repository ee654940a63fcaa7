"""Every refusal of the ledger, in one tree.

    LedgerError
    ├── Refused                 the request was understood and turned down; nothing changed
    │   ├── Forbidden           the credential may not do this
    │   ├── NotFound            no such thing, as far as this credential can see
    │   ├── Invalid             a field or parameter is wrong
    │   │   ├── RunsNotSupported      the line's execution model has no runs
    │   │   └── IdempotencyKeyReused  the key was sent before, with another request
    │   ├── TooLarge            a fact, a batch or a body is over its size
    │   ├── InvalidState        the present state of a line, run, endpoint or key forbids it
    │   └── FactConflict        this fact id was recorded before, with another content
    ├── Unavailable             the database cannot be reached, or takes nothing now; try again
    │   └── NotCarriedOut       a fault of ours: it is this command alone that fails
    └── Behind                  the views have not reached what was asked for; try again

None of them knows HTTP: ``api/problems.py`` holds the one table of codes. Messages never repeat
what was sent.
"""

from typing import ClassVar


class LedgerError(Exception):
    """Anything the ledger says no with. ``detail`` is one sentence for the caller."""

    code: ClassVar[str]

    def __init__(self, detail: str) -> None:
        super().__init__(detail)
        self.detail = detail


class Refused(LedgerError):
    """Understood and turned down: sent again, it is judged anew."""

    audited: ClassVar[bool] = True
    """Whether the audit log keeps that a write was refused so (contract 5)."""

    def __init__(self, detail: str) -> None:
        super().__init__(detail)
        self.position = 0
        """Of the record that the audit log keeps of it, or of the views that were read; else 0."""
        self.replayed = False
        """Whether this is the answer to an earlier request under the same idempotency key."""


class Forbidden(Refused):
    """The credential lacks the permission, or the body names a tenant it may not act for."""

    code = "forbidden"


class NotFound(Refused):
    """Unknown, or another tenant's: the two are told apart by nobody outside."""

    code = "not_found"


class Invalid(Refused):
    """Some field is missing, of the wrong type or out of range; ``errors`` says which."""

    code = "invalid_request"

    def __init__(self, detail: str, errors: tuple[tuple[str, str], ...] = ()) -> None:
        super().__init__(detail)
        self.errors = errors
        """(JSON pointer, sentence) pairs."""

    @classmethod
    def at(cls, pointer: str, sentence: str) -> "Invalid":
        """One wrong place."""
        return cls("The request has an invalid field.", ((pointer, sentence),))


class RunsNotSupported(Invalid):
    """Only agent_runtime and timeboxed_outcome lines have runs (contract 3)."""

    code = "runs_not_supported"

    def __init__(self) -> None:
        super().__init__("The line's execution model does not have discrete runs.")


class TooLarge(Refused):
    """A fact, a batch or a body above its limit (contract 2; a command's body: 7)."""

    code = "too_large"
    audited = False


class InvalidState(Refused):
    """The present state of what it is about forbids it (contract 3, the table of refusals)."""

    code = "invalid_state"


class FactConflict(Refused):
    """(organization, source, id) was recorded before with another content (contract 2)."""

    code = "fact_conflict"


class IdempotencyKeyReused(Invalid):
    """An ``Idempotency-Key`` names one request: another body under it is a mistake (contract 7)."""

    code = "idempotency_key_reused"

    def __init__(self) -> None:
        super().__init__("The Idempotency-Key was sent before, with another request.")


class Unavailable(LedgerError):
    """The database is out of reach or overloaded; nothing is known to have changed. Retry."""

    code = "unavailable"


class NotCarriedOut(Unavailable):
    """A command breaks in a way that nobody foresaw; others are carried out."""

    def __init__(self) -> None:
        super().__init__("The command could not be carried out.")


class Behind(LedgerError):
    """The views, or the seal, did not reach the asked position in time. Retry."""

    code = "behind"
