"""Pages of things that people manage: API keys, webhook endpoints and statements.

The forms carry out the API's commands, with its checks and its records of refusals. A secret is
shown in the answer to its form only. No address contains it, and only the same form, sent again,
shows it again. In the browser's history the thing's address replaces the form's (``page.js``), so
that Back and a reload show the thing, without the secret.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, NamedTuple

from fastapi import APIRouter, Request, Response

from ledger.engine.http.lean import needs
from ledger.engine.http.problems import status_of
from ledger.engine.http.reading import ReadRequest
from ledger.engine.http.writing import Sent
from ledger.engine.page.addresses import here, with_parameter
from ledger.engine.page.frame import frame_of
from ledger.engine.page.pages import Form, go, idempotency_of, show
from ledger.engine.values.errors import ChangedTooOften, NotFound, Refused


class RefusedForm(NamedTuple):
    """A form whose command was refused: the page shows the refusal at the form, with its values."""

    form: Form
    error: Refused | ChangedTooOften


class Managed(NamedTuple):
    """A kind of things that people manage."""

    path: str
    """The address of the list. The address of a thing has its id behind it."""
    id: str
    done: Mapping[Any, str]
    """The messages that a page shows once, after a form was carried out."""
    list_page: Callable[..., Awaitable[Response]]
    page: Callable[..., Awaitable[Response]]
    """The pages that show a refused form: of the list, and of a thing."""

    async def show(
        self,
        request: ReadRequest,
        template: str,
        things: Sequence[Any],
        query: Any,
        refused: RefusedForm | None,
        **context: Any,
    ) -> Response:
        """A page with the things, or with the one thing that the request's path names."""
        form, error = refused or (None, None)
        return show(
            request.http,
            template,
            200 if error is None else status_of(error),
            **await frame_of(request.http).names_of_managed(request, things),
            query=query,
            done=self.done.get(getattr(query, "done", None)),
            refused=error,
            refused_at=type(form).__name__ if form is not None else None,
            form=form,
            here=here(request.http) if form is None else self._address(request.http),
            **context,
        )

    async def send(
        self,
        request: ReadRequest,
        form: Form,
        command: Callable[..., Awaitable[Response]],
        then: str | Callable[[Response], Response],
        sent: Sent[Any] | None = None,
    ) -> Response:
        """Carry out the command that the form sends, about the thing of the request's path."""
        sent = form.sent(idempotency_of(request, form)) if sent is None else sent
        things = request.http.path_params.values()
        return await self.carry_out(request, form, command(request, *things, sent), then)

    async def carry_out(
        self,
        request: ReadRequest,
        form: Form,
        command: Awaitable[Response],
        then: str | Callable[[Response], Response],
    ) -> Response:
        """Carry out a form's command, or show the refusal at the form.

        ``then`` makes the page that shows a secret. A word leads back to the page of the thing,
        which has the word's message.
        """
        try:
            made = await command
        except NotFound:
            raise
        except (Refused, ChangedTooOften) as error:
            refused = RefusedForm(form, error)
            thing = request.http.path_params.get(self.id)
            if thing is None:
                return await self.list_page(request, refused=refused)
            return await self.page(request, thing, refused=refused)
        if isinstance(then, str):
            return go(with_parameter(self._address(request.http), "done", then))
        return then(made)

    def route_back(self, router: APIRouter, permission: str) -> None:
        """Redirect the address of a form, opened as a page (after a new sign-in), to its thing."""

        @router.get(f"/{{{self.id}}}/{{act:path}}", openapi_extra=needs(permission))
        async def return_to_thing(request: Request) -> Response:
            return go(self._address(request))

    def _address(self, request: Request) -> str:
        thing = request.path_params.get(self.id)
        return self.path if thing is None else f"{self.path}/{thing}"
