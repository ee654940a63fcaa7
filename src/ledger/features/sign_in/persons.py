"""The names of persons beside their ids, on pages alone (contract, Sign-in).

A page notes the actors of what it shows, and asks for the names of all of them at once before its
text is made. An id that the reader typed is not noted: nobody learns a name by trying ids. Of other
organizations' people a reader learns none either: the database shows the names of those alone who
have entered the reader's organization (``engine/log/schema/walls.py``).
"""

from collections.abc import Iterable
from typing import NamedTuple

from fastapi import Request

from ledger.engine.http.problems import REFUSALS
from ledger.engine.http.reading import services_of
from ledger.engine.values.principal import USER, Principal
from ledger.engine.values.recorded import Actor

# The names that the latest sign-ins of these persons told.
_PERSONS = "SELECT sub, name, email FROM ledger.person WHERE sub = ANY(%(subs)s)"


class Person(NamedTuple):
    """A person whose name the identity provider has told."""

    name: str
    """The e-mail address, where the provider told no name."""
    title: str


class Persons:
    """The persons that a page shows, known once the page has read all that it shows."""

    def __init__(self) -> None:
        self._subs = set[str]()
        self._loaded = dict[str, Person]()

    def note(self, actors: Iterable[Actor], credentials: Iterable[str] = ()) -> None:
        """Ask for the names of these actors and of these credentials too."""
        found = [actor.id for actor in actors if actor.type == "user"]
        found += [each.removeprefix(USER) for each in credentials if each.startswith(USER)]
        self._subs.update(found)

    def of(self, identifier: str, type_: str = "system") -> Person | None:
        """The person of an actor's id; None: it is none, or has no name.

        ``type_`` is the actor's. Of a credential, whose type no event tells, the prefix tells it.
        """
        if type_ == "user":
            return self._loaded.get(identifier)
        if type_ == "system" and identifier.startswith(USER):
            return self._loaded.get(identifier.removeprefix(USER))
        return None

    @staticmethod
    def is_same(actor: Actor, credential: str) -> bool:
        """Whether an actor acted with the actor's own credential."""
        return credential == (f"{USER}{actor.id}" if actor.type == "user" else actor.id)

    async def load(self, request: Request) -> None:
        """Ask for the names that are not known yet. No page fails because of a name."""
        subs = sorted(self._subs - self._loaded.keys())
        self._subs.clear()
        principal: Principal | None = getattr(request.state, "principal", None)
        if not subs or principal is None:
            return
        try:
            rows = await services_of(request).pool.fetch(principal.tenant, _PERSONS, {"subs": subs})
        except REFUSALS:
            return
        for sub, name, email in rows:
            if name or email:
                self._loaded[sub] = Person(name or email, email or sub)


def persons_of(request: Request) -> Persons:
    """The persons of the page that answers the request."""
    state = request.scope["state"]
    found: Persons = state.setdefault("persons", Persons())
    return found
