"""``elk mcp``: tools for an assistant on this machine."""

import click

from execution_ledger import __version__
from execution_ledger._async.transport import AsyncTransport
from execution_ledger._requests import Settings
from execution_ledger.cli.grammar import command
from execution_ledger.cli.session import settings
from execution_ledger.cli.showing import say
from execution_ledger.errors import LedgerError


@command(
    "mcp",
    ["elk mcp", "LEDGER_MCP_PAYLOADS=true elk mcp"],
    [
        click.Option(
            ["--payloads"],
            is_flag=True,
            envvar="LEDGER_MCP_PAYLOADS",
            help="Show the input, output and error of runs too.",
        )
    ],
    prints=False,
)
def mcp(payloads: bool) -> None:
    """Serve the reading tools of the ledger to an assistant, over stdin and stdout.

    The program of the assistant starts this command (Model Context Protocol, stdio). Its tools use
    your token, and change nothing.
    """
    try:
        import anyio

        import execution_ledger.mcp.server  # noqa: F401
    except ModuleNotFoundError as error:
        missing = f"{error.name} is missing: pip install 'execution-ledger-client[mcp]'"
        raise LedgerError(missing) from error
    anyio.run(_serve, settings(), payloads)


async def _serve(settings: Settings, shows_payloads: bool) -> None:
    from mcp.server.stdio import stdio_server

    from execution_ledger.mcp.server import create_server
    from execution_ledger.mcp.tools import ToolLedger

    ledger = ToolLedger(AsyncTransport(settings), shows_payloads)
    server = create_server(lambda _: ledger, __version__)
    try:
        async with stdio_server() as (reads, writes):
            await server.run(reads, writes, server.create_initialization_options())
    except* BrokenPipeError:
        say("elk: the assistant has closed its end.")
    finally:
        await ledger.transport.aclose()


COMMANDS = (mcp,)
