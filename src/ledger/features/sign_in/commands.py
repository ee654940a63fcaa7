"""Commands about sessions of people at the pages (contract, Sign-in).

A session is a row outside the log; its events tell who signed in to which tenant, and how the
session ended. One append writes both.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from ledger.engine.log.tables import PersonRow, SessionRow
from ledger.engine.values.errors import Forbidden, NotFound
from ledger.engine.values.principal import SIGN_IN, Principal
from ledger.engine.values.values import EARLIEST
from ledger.engine.writer.command import OwnCommand, SubjectCommand
from ledger.engine.writer.group import Group
from ledger.engine.writer.request import About, Receipt
from ledger.features.sign_in import model
from ledger.features.sign_in.tables import SessionRows

MOST = 100
"""Sessions of a person; a further one ends the oldest."""

ASK_SECONDS = 8
"""How long a node may take to request claims from the provider; then another may try."""

_UNKNOWN = "No such session."


class _SessionCommand(OwnCommand):
    """A command about the session ``session_id``; its refusals are not kept."""

    def __init__(self, session_id: str, principal: Principal, request_id: str | None) -> None:
        super().__init__(principal, request_id)
        self._session_id = session_id

    def streams(self) -> Iterable[str]:
        return (self._session_id,)

    def _done(self, position: int = 0, *, changed: bool = True) -> Receipt:
        return Receipt(self._session_id, (), position, duplicate=not changed)


class BeginSession(_SessionCommand):
    """Begin a session, and end the former one of the same browser.

    ``row`` lacks only the instants of the beginning and of the end, ``seconds`` later.
    """

    def __init__(
        self,
        row: SessionRow,
        principal: Principal,
        request_id: str | None,
        *,
        seconds: float,
        former: bytes | None = None,
        person: PersonRow | None = None,
    ) -> None:
        super().__init__(row.session_id, principal, request_id)
        self._row, self._seconds, self._former, self._person = row, seconds, former, person

    def decide(self, group: Group) -> Receipt:
        sessions, now = group.rows(SessionRows), group.now
        over = sessions.of_secrets([self._former]) if self._former is not None else []
        over += sessions.beyond(MOST - 1, self._row.sub, self._row.issuer)
        lasting = (row for row in over if row.ends_at > now)
        for former in {row.session_id: row for row in lasting}.values():
            _end(group, former, "self", self)
        row = self._row._replace(begun_at=now, ends_at=now + timedelta(seconds=self._seconds))
        position = _enter(group, row, self)
        sessions.keep(row)
        if self._person is not None:
            stored = sessions.person(row.sub)
            organizations = stored.organizations if stored is not None else ()
            sessions.name_person(self._person._replace(organizations=organizations))
            _show_name(group, row)
        return self._done(position)


class EnterTenant(_SessionCommand):
    """Choose a tenant among the granted ones."""

    def __init__(
        self,
        session_id: str,
        principal: Principal,
        request_id: str | None,
        access: model.TenantAccess,
    ) -> None:
        super().__init__(session_id, principal, request_id)
        self._access = access

    def decide(self, group: Group) -> Receipt:
        """Raises NotFound if the session has ended."""
        row = _found(group, self._session_id)
        row = in_tenant(row, self._access)
        position = _enter(group, row, self)
        group.rows(SessionRows).keep(row)
        _show_name(group, row)
        return self._done(position)


@dataclass(eq=False, repr=False)
class EndSession(SubjectCommand):
    """End a session: the person's own, or as an administrator within their permissions."""

    action = "session.end"
    subject_type = "session"

    by: model.EndedBy = field(default="administrator", kw_only=True)
    person: tuple[str, str | None] | None = field(default=None, kw_only=True)
    """The (sub, issuer) of the person whose session it must be; None for session managers."""

    def about(self) -> About | None:
        return super().about() if self.principal is not SIGN_IN and self.person is None else None

    def decide(self, group: Group) -> Receipt:
        """Raises NotFound if the caller does not see it, or Forbidden."""
        row = _found(group, self.subject_id)
        if self.person is not None:
            if self.person != (row.sub, row.issuer):
                raise NotFound(_UNKNOWN)
        else:
            if not self.principal.sees(*row.tenant):
                raise NotFound(_UNKNOWN)
            if not self.principal.covers(row.permissions, *row.tenant):
                raise Forbidden("The session's permissions are not within the credential's own.")
        position = _end(group, row, self.by, self)
        return Receipt(self.subject_id, (), position)


class EndSessionsOfProvider(OwnCommand):
    """End the sessions that the provider names: those of its own session, or of a person.

    ``until`` is the provider's instant: a later sign-in is another session.
    """

    def __init__(
        self, issuer: str, sub: str | None, sid: str | None, until: datetime, request_id: str | None
    ) -> None:
        super().__init__(SIGN_IN, request_id)
        self._of = issuer, sub, sid, until

    def decide(self, group: Group) -> Receipt:
        rows = group.rows(SessionRows).of_provider(*self._of)
        position = max((_end(group, row, "provider", self) for row in rows), default=0)
        return Receipt("", (), position, duplicate=not rows)


class AskForClaims(_SessionCommand):
    """Reserve the request for fresh claims: one node at a time requests them from the provider.

    The receipt is a duplicate if another node is waiting, or has tried since ``checked_at``.
    """

    def __init__(self, session_id: str, checked_at: datetime) -> None:
        super().__init__(session_id, SIGN_IN, None)
        self._checked_at = checked_at

    def decide(self, group: Group) -> Receipt:
        """Raises NotFound if the session has ended."""
        row = _found(group, self._session_id)
        waits = row.asked_at > group.now - timedelta(seconds=ASK_SECONDS)
        if row.checked_at != self._checked_at or waits:
            return self._done(changed=False)
        group.rows(SessionRows).keep(row._replace(asked_at=group.now))
        return self._done()


class KeepClaims(_SessionCommand):
    """Store the provider's answer: the claims, and the tokens that came with it, sealed.

    Without claims, the session keeps the former ones, and another process may try. ``ends_at`` is
    set if the provider gives no claims at a refresh and the session would end later.
    """

    def __init__(
        self,
        session_id: str,
        sealed: bytes | None = None,
        claims: str | None = None,
        *,
        ends_at: datetime | None = None,
    ) -> None:
        super().__init__(session_id, SIGN_IN, None)
        self._sealed, self._claims, self._ends_at = sealed, claims, ends_at

    def decide(self, group: Group) -> Receipt:
        """Raises NotFound if the session has ended."""
        row = _found(group, self._session_id)._replace(asked_at=EARLIEST)
        if self._sealed is not None:
            row = row._replace(kept=self._sealed)
        if self._claims is not None:
            row = row._replace(claims=self._claims, checked_at=group.now)
        if self._ends_at is not None:
            row = row._replace(ends_at=min(row.ends_at, self._ends_at))
        group.rows(SessionRows).keep(row)
        return self._done()


def in_tenant(row: SessionRow, access: model.TenantAccess) -> SessionRow:
    organization_id, workspace_id, permissions = access
    return row._replace(
        organization_id=organization_id,
        workspace_id=workspace_id,
        permissions=sorted(permissions),
    )


def _found(group: Group, session_id: str) -> SessionRow:
    row = group.rows(SessionRows).find(session_id)
    if row is None or row.ends_at <= group.now:
        raise NotFound(_UNKNOWN)
    return row


def _enter(group: Group, row: SessionRow, command: OwnCommand) -> int:
    """Record that a session begins in its tenant, and again if its permissions there change.

    Returns the position.
    """
    found = group.memory.find(row.session_id)
    session = found if isinstance(found, model.Session) else model.Session(row.session_id)
    tenant, permissions = row.tenant, tuple(row.permissions)
    if session.version and (not permissions or session.entered.get(tenant) == permissions):
        return 0
    by: model.SignedInBy = "token" if row.issuer is None else "provider"
    body = model.SessionBegun(
        by=by, issuer=row.issuer, permissions=permissions, ends_at=row.ends_at
    )
    return group.record(session, body, group.now, command, tenant=(*tenant, None)).position


def _show_name(group: Group, row: SessionRow) -> None:
    """Let the organization that a person has entered see their names, if they are stored."""
    person = None if row.issuer is None else group.rows(SessionRows).person(row.sub)
    if person is not None and row.organization_id is not None:
        organizations = sorted({*person.organizations, row.organization_id})
        group.rows(SessionRows).name_person(person._replace(organizations=organizations))


def _end(
    group: Group, row: SessionRow, by: model.EndedBy, command: OwnCommand | SubjectCommand
) -> int:
    """Record the end of a session in each of its tenants; return the last position."""
    group.rows(SessionRows).end(row.session_id)
    session = group.memory.find(row.session_id)
    assert isinstance(session, model.Session)
    body, position = model.SessionEnded(by=by), 0
    for tenant in session.entered or [(None, None)]:
        # A tenant must not learn of another's administrator.
        is_own = by != "administrator" or command.principal.sees(*tenant)
        asks = command if is_own else OwnCommand(SIGN_IN)
        recorded = group.record(session, body, group.now, asks, tenant=(*tenant, None))
        position = recorded.position if is_own else position
    return position
