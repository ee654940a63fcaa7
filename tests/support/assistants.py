"""The official SDK's client of ``/mcp``, on the loop of a running service."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from ledger.app.settings import Settings
from ledger.engine.postgres.embedded import EmbeddedPostgres
from tests.support.databases import copied
from tests.support.edge import Edge, edge_of

if TYPE_CHECKING:
    # Loaded by calls alone: each test process loads this module, and the SDK takes half a second.
    from mcp.client import Client
    from mcp.types import CallToolResult, Tool

PUBLIC = "https://ledger.test"
MASTER_KEY = "0f" * 32


class Assistant:
    """An assistant with a token. ``mode`` is the SDK's: of the present revision, or an older."""

    def __init__(self, edge: Edge, token: str, mode: Any = "auto") -> None:
        self._edge, self._token, self._mode = edge, token, mode

    def tools(self) -> dict[str, Tool]:
        async def ask(client: Client) -> list[Tool]:
            return (await client.list_tools()).tools

        return {tool.name: tool for tool in self._run(ask)}

    def instructions(self) -> str | None:
        async def ask(client: Client) -> str | None:
            return client.instructions

        return self._run(ask)

    def call(self, tool: str, **arguments: Any) -> CallToolResult:
        """The result of a call; the SDK checks the content by the tool's schema."""

        async def ask(client: Client) -> CallToolResult:
            return await client.call_tool(tool, arguments)

        return self._run(ask)

    def answer(self, tool: str, **arguments: Any) -> dict[str, Any]:
        """The structured content of a call that succeeds."""
        result = self.call(tool, **arguments)
        assert not result.is_error, result.content
        assert isinstance(result.structured_content, dict)
        return result.structured_content

    def refusal(self, tool: str, **arguments: Any) -> str:
        """The words of a call that fails."""
        result = self.call(tool, **arguments)
        assert result.is_error
        assert result.structured_content is None
        (content,) = result.content
        assert content.type == "text"
        return content.text

    def _run(self, ask: Any) -> Any:
        import httpx2
        from mcp.client import Client
        from mcp.client.streamable_http import streamable_http_client

        async def run_client() -> Any:
            http = httpx2.AsyncClient(
                transport=httpx2.ASGITransport(self._edge.service.app),
                headers={"authorization": f"Bearer {self._token}"},
            )
            async with (
                http,
                Client(
                    streamable_http_client(f"{PUBLIC}/mcp", http_client=http), mode=self._mode
                ) as client,
            ):
                return await ask(client)

        return self._edge.run(run_client())


@contextmanager
def assisting(server: EmbeddedPostgres, name: str, **more: Any) -> Iterator[Edge]:
    """A running service that serves assistants, with a database of its own."""
    settings = Settings(
        master_key=MASTER_KEY,
        idle_sweep_seconds=3600,
        watch_seconds=3600,
        public_url=PUBLIC,
        mcp=True,
        **more,
    )
    with copied(server.url, name) as conninfo, edge_of(settings, conninfo) as edge:
        yield edge
