"""Every refusal of the ledger, in one tree.

    LedgerError
    ├── Refused                 the request was understood and refused; nothing changed
    │   ├── CredentialEnded     the credential's secret was replaced a moment ago
    │   ├── Forbidden           the credential may not do this
    │   ├── NotFound            the resource does not exist, or the credential does not see it
    │   ├── Invalid             a field or parameter is wrong
    │   │   ├── RunsNotSupported      the line's execution model has no runs
    │   │   └── IdempotencyKeyReused  the key was used before for a different request
    │   ├── TooLarge            a fact, a batch or a body is larger than its limit
    │   ├── IdTaken             a new id is taken by something that the credential does not see
    │   ├── InvalidState        the present state of a line, run, endpoint or key forbids the change
    │   └── FactConflict        the fact's source and id were recorded before with other content
    ├── Unavailable             the database cannot be reached, or accepts no writes; try again
    │   ├── NotCarriedOut       a bug of the ledger; only this command fails
    │   ├── RateLimited         too many requests of the credential wait; try again later
    │   │   └── ChangedTooOften       the subject was changed too often; wait before a retry
    │   └── ClockSkew           the node's clock differs from the database's; try another node
    ├── ReadOnly                the node only reads; send the request to another node
    ├── DocumentAltered         a statement's document is not the one that was issued
    └── Behind                  a view or the seal lags behind the requested position; try again

The classes know nothing of HTTP: ``engine/http/problems.py`` has the table of codes and statuses.
Messages never repeat text of the sender.
"""

from typing import Any, ClassVar


class LedgerError(Exception):
    """The base of all refusals and failures. ``detail`` is one sentence for the caller."""

    code: ClassVar[str]

    def __init__(self, detail: str) -> None:
        super().__init__(detail)
        self.detail = detail

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle without a call of the constructor, whose arguments differ."""
        return _remade, (type(self), self.args), self.__dict__


def _remade(kind: type[LedgerError], args: tuple[Any, ...]) -> LedgerError:
    return kind.__new__(kind, *args)


class Refused(LedgerError):
    """The request was understood and refused. The same request, sent again, is decided anew."""

    audited: ClassVar[bool] = True
    """True if the audit log keeps a write refused with this error (contract, Feeds)."""

    def __init__(self, detail: str) -> None:
        super().__init__(detail)
        self.position = 0
        """Position of the refusal's record in the audit log, or of the views read; otherwise 0."""
        self.replayed = False
        """True if this is the outcome of an earlier request under the same idempotency key."""


class CredentialEnded(Refused):
    """The key has a new secret. A worker still has the old one in its cache."""

    code = "unauthorized"

    def __init__(self) -> None:
        super().__init__("The bearer token is not valid.")


class Forbidden(Refused):
    """The credential lacks the permission, or may not act for the tenant named in the body."""

    code = "forbidden"


class NotFound(Refused):
    """The resource does not exist or is another tenant's; callers cannot tell these cases apart."""

    code = "not_found"


class Invalid(Refused):
    """A field is missing, of the wrong type or out of range; ``errors`` names the fields."""

    code = "invalid_request"

    def __init__(self, detail: str, errors: tuple[tuple[str, str], ...] = ()) -> None:
        super().__init__(detail)
        self.errors = errors
        """(JSON pointer, sentence) pairs."""

    @classmethod
    def at(cls, pointer: str, sentence: str) -> "Invalid":
        return cls("The request has an invalid field.", ((pointer, sentence),))


class RunsNotSupported(Invalid):
    """Only agent_runtime and timeboxed_outcome lines have runs (contract, State)."""

    code = "runs_not_supported"

    def __init__(self) -> None:
        super().__init__("The line's execution model does not have discrete runs.")


class TooLarge(Refused):
    """A fact, a batch or a body is larger than its limit (contract, Facts and Access)."""

    code = "too_large"
    audited = False


class InvalidState(Refused):
    """The subject's present state forbids the change (contract, State, the table of refusals)."""

    code = "invalid_state"


class IdTaken(Refused):
    """The id for something new already exists, where the credential cannot see it (contract,
    Facts).

    The refusal tells nothing else about it. Choose another id.
    """

    code = "id_taken"

    def __init__(self) -> None:
        super().__init__("The id names something that the credential does not see.")


class FactConflict(Refused):
    """(organization, source, id) was recorded before with different content (contract, Facts)."""

    code = "fact_conflict"


class IdempotencyKeyReused(Invalid):
    """The ``Idempotency-Key`` was used before for a different request (contract, Access)."""

    code = "idempotency_key_reused"

    def __init__(self) -> None:
        super().__init__("The Idempotency-Key was used before for a different request.")


class Unavailable(LedgerError):
    """The database cannot be reached or is overloaded; nothing is known to have changed. Retry."""

    code = "unavailable"


class NotCarriedOut(Unavailable):
    """A command failed because of a bug; the other commands of its group are carried out."""

    def __init__(self) -> None:
        super().__init__("The command could not be carried out.")


class RateLimited(Unavailable):
    """Too many requests of the credential wait; nothing has changed. Send it again later."""

    code = "rate_limited"
    seconds = 1
    """The pause before the next attempt."""


class ChangedTooOften(RateLimited):
    """The subject was changed too often in a short time; nothing has changed. Wait, then retry."""

    def __init__(self, detail: str, seconds: int) -> None:
        super().__init__(detail)
        self.seconds = seconds


class ClockSkew(Unavailable):
    """The node's clock is more than 5 s off the database's; nothing has changed. Another node may
    take the write, and so does this one once its clock is right."""

    code = "clock_skew"

    def __init__(self) -> None:
        super().__init__("The clock of this node differs from the database's by more than 5 s.")


class ReadOnly(LedgerError):
    """A read node takes no writes, and gives no answer that must be audited.

    The node answers a repeated request in the same way: use another node (contract, Several nodes).
    """

    code = "read_only"

    def __init__(self, detail: str = "This node only reads: send the request to another.") -> None:
        super().__init__(detail)


class DocumentAltered(LedgerError):
    """The document of a statement is missing, or has another hash than the statement's event.

    ``ledger verify`` names the document. A backup has the one that was issued.
    """

    code = "document_altered"

    def __init__(self) -> None:
        super().__init__("This document is not the one that was issued.")


class Behind(LedgerError):
    """The views, the seal or the standby did not reach the requested position in time. Retry."""

    code = "behind"
