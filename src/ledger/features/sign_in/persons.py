"""The names of persons next to their ids, only on pages (contract, Sign-in).

A page notes the actors that it shows, and loads all their names at once before its text is made. An
id that the reader typed is not noted: nobody learns a name by trying ids. Nor does a reader learn
names of other organizations' people: the database shows only persons who have entered the reader's
organization (``engine/log/schema/walls.py``).
"""

from collections.abc import Iterable
from typing import NamedTuple

from fastapi import Request

from ledger.engine.http.problems import REFUSALS
from ledger.engine.http.reading import services_of
from ledger.engine.values.principal import USER, Principal
from ledger.engine.values.recorded import Actor

# The names from the latest sign-ins of these persons.
_PERSONS = "SELECT sub, name, email FROM ledger.person WHERE sub = ANY(%(subs)s)"


class Person(NamedTuple):
    """A person whose name the identity provider has sent."""

    name: str
    """The e-mail address if the provider sent no name."""
    title: str


class Persons:
    """The persons on a page, loaded once the page has read everything that it shows."""

    def __init__(self) -> None:
        self._subs = set[str]()
        self._loaded = dict[str, Person]()

    def note(self, actors: Iterable[Actor], credentials: Iterable[str] = ()) -> None:
        found = [actor.id for actor in actors if actor.type == "user"]
        found += [each.removeprefix(USER) for each in credentials if each.startswith(USER)]
        self._subs.update(found)

    def of(self, identifier: str, type_: str = "system") -> Person | None:
        """The person of an actor's id; None if it is no person's, or if the name is unknown.

        ``type_`` is the actor's. A credential's type follows from the id's prefix.
        """
        if type_ == "user":
            return self._loaded.get(identifier)
        if type_ == "system" and identifier.startswith(USER):
            return self._loaded.get(identifier.removeprefix(USER))
        return None

    @staticmethod
    def is_same(actor: Actor, credential: str) -> bool:
        """True if an actor acted with the actor's own credential."""
        return credential == (f"{USER}{actor.id}" if actor.type == "user" else actor.id)

    async def load(self, request: Request) -> None:
        """Load the names that are still missing. No page fails because of a name."""
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
    state = request.scope["state"]
    found: Persons = state.setdefault("persons", Persons())
    return found
