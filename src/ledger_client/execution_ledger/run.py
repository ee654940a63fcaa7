"""Runs of functions: started, kept alive, and ended with the function."""

from __future__ import annotations

import asyncio
import functools
import inspect
import logging
import threading
import uuid
from collections.abc import AsyncGenerator, Callable, Generator, Iterator
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Literal, ParamSpec, TypeVar, cast

from execution_ledger._leases import Leases
from execution_ledger.errors import Problem
from execution_ledger.types import FactItem

log = logging.getLogger("execution_ledger")

P = ParamSpec("P")
R = TypeVar("R")

UNSPECIFIED = "unspecified"
"""The model of tokens without a model, if other tokens have one."""
MAX_MODELS = 20
PARTS = frozenset({"input", "output", "cache_read", "cache_write", "reasoning"})
MAX_MESSAGE = 10_000

_current: ContextVar[OpenRun | None] = ContextVar("execution_ledger_run", default=None)


def current_run() -> OpenRun | None:
    """The innermost open run of the calling function, or None."""
    return _current.get()


@dataclass(frozen=True)
class Hosting:
    """What runs need from a ledger."""

    report: Callable[..., None]
    """Queues a fact: type, data, the key that may be dropped, and a function for its outcome."""
    leases: Leases
    timeout: float
    """How long to wait for a start that may be refused, in seconds."""


@dataclass(frozen=True)
class Plan:
    """How a function is reported."""

    line: str
    name: str | None = None
    parent: str | None = None
    lease: int | None = None
    on_refused: Literal["run", "raise"] = "run"
    tells_errors: bool = False
    started: dict[str, Any] = field(default_factory=dict)
    """Further fields of the start."""


class OpenRun:
    """A run between its start and its end. Errors of reporting only go to the log."""

    def __init__(self, host: Hosting, plan: Plan) -> None:
        self._host, self._plan = host, plan
        self._around = _current.get()
        self.name = plan.name or str(uuid.uuid4())
        """The run's ``external_id``."""
        self.id: str | None = None
        """The RUN id, once the ledger has recorded the start."""
        self.refusal: Problem | None = None
        """Why the ledger refused the start, once it has."""
        self.block: tuple[RunScope, AbstractContextManager[None]] | None = None
        """The scope and the context of the block, if the run is one's."""
        self._judged = threading.Event()
        self._ended = False
        self._output: dict[str, Any] = {}
        self._tokens: int | None = None
        self._models: dict[str, dict[str, int]] = {}

    def tokens(self, count: int = 0, /, *, model: str | None = None, **parts: int) -> None:
        """Add tokens: a number, or parts of a ``model``.

        The parts are ``input``, ``output``, ``cache_read``, ``cache_write`` and ``reasoning``. Each
        call adds to the earlier ones.
        """
        try:
            sizes = {part: int(number) for part, number in {"input": 0, **parts}.items()}
            sizes["input"] += int(count)
            if unknown := sizes.keys() - PARTS or min(sizes.values()) < 0:
                raise ValueError(f"no tokens: {unknown}")
            if model is None and not self._models:
                self._tokens = (self._tokens or 0) + sizes["input"] + sizes.get("output", 0)
                return
            if self._tokens is not None:
                self._models[UNSPECIFIED], self._tokens = {"input": self._tokens}, None
            if model not in self._models and len(self._models) >= MAX_MODELS - 1:
                model = None
            row = self._models.setdefault(model or UNSPECIFIED, {})
            for part, number in sizes.items():
                row[part] = row.get(part, 0) + number
        except Exception:
            log.exception("The tokens of the run %s could not be counted.", self.name)

    def output(self, value: Any) -> None:
        """Set the run's output to any JSON value. The last call counts."""
        self._output = {"output": value}

    @property
    def is_over(self) -> bool:
        """True if the run has ended, or was never started."""
        return self._ended or self.refusal is not None

    def begin(self) -> None:
        """Report the start. If it is refused and ``on_refused`` is ``raise``, raise the Problem."""
        plan = self._plan
        data = {"service_line_id": plan.line, "external_id": self.name} | plan.started
        data |= {} if plan.lease is None else {"lease_seconds": plan.lease}
        parent = plan.parent or (self._around.name if self._around is not None else None)
        data |= {} if parent is None else {"parent_external_id": parent}
        try:
            self._host.report("run.started", data, "input", self._start_judged)
            if plan.lease is not None:
                self._host.leases.add(self, plan.lease)
        except Exception:
            log.exception("The start of the run %s could not be reported.", self.name)
        if plan.on_refused == "raise":
            try:
                self._judged.wait(self._host.timeout)
            except BaseException as error:  # an interrupt
                self.end(error)
                raise
            if self.refusal is not None:
                self.end(self.refusal)
                raise self.refusal

    def _start_judged(self, item: FactItem | None, problem: Problem | None) -> None:
        self.id = None if item is None else item.subject
        self.refusal = problem
        self._judged.set()

    def end(self, error: BaseException | None) -> None:
        """Report the end that an exception means; None if the function returned. Never raises."""
        if self._ended:
            return
        self._ended = True
        self._host.leases.remove(self)
        if self.refusal is not None:
            return
        try:
            kind, data = ending_of(error, self._plan.tells_errors)
            usage = [usage_of(model, parts) for model, parts in self._models.items()]
            data |= {"token_usage": usage} if usage else {}
            data |= {} if self._tokens is None else {"tokens_used": self._tokens}
            data |= {} if kind == "run.cancelled" else self._output
            data |= {"external_id": self.name}
            data |= {k: v for k, v in self._plan.started.items() if k == "attempt"}
            self._host.report(kind, data, "output", None)
        except Exception:
            log.exception("The end of the run %s could not be reported.", self.name)

    @contextmanager
    def current(self) -> Iterator[None]:
        """Make this run the parent of runs that begin within the block."""
        token = _current.set(self)
        try:
            yield
        finally:
            try:
                _current.reset(token)
            except ValueError:  # a generator may be left in another context
                log.debug("The run %s was left in another context.", self.name)


def ending_of(error: BaseException | None, tells_errors: bool) -> tuple[str, dict[str, Any]]:
    """The type and the data of the end that an exception means."""
    if isinstance(error, asyncio.CancelledError | KeyboardInterrupt):
        return "run.cancelled", {"reason": type(error).__name__}
    is_left = isinstance(error, GeneratorExit)
    if error is None or is_left or (isinstance(error, SystemExit) and not error.code):
        return "run.completed", {}
    data = {"code": type(error).__qualname__[:200]}
    if tells_errors:
        data["message"] = str(error)[:MAX_MESSAGE]
    return "run.failed", {"error": data}


def usage_of(model: str, parts: dict[str, int]) -> dict[str, Any]:
    """The tokens of a model. A part above its whole, which would be refused, is left out."""
    row = dict(parts)
    if row.get("cache_read", 0) + row.get("cache_write", 0) > row.get("input", 0):
        row = {part: row[part] for part in row.keys() - {"cache_read", "cache_write"}}
    if row.get("reasoning", 0) > row.get("output", 0):
        del row["reasoning"]
    return {"model": "".join(filter(str.isprintable, model))[:200] or UNSPECIFIED, **row}


class RunScope:
    """A run of a ``with`` block, or a decorator that makes each call a run.

    Both work in synchronous and asynchronous code. A decorated function may be a coroutine, a
    generator or an asynchronous generator. Values and errors pass unchanged.

    * A return, ``SystemExit(0)`` and a generator that was left complete the run.
    * ``KeyboardInterrupt`` and a cancelled task cancel it.
    * Any other exception fails it, with the exception's type as the code.
    """

    def __init__(self, host: Hosting, plan: Plan) -> None:
        self._host, self._plan = host, plan

    def begin(self) -> OpenRun:
        """Begin a run without a block. Its ``end`` ends it, in any thread and context."""
        run = OpenRun(self._host, self._plan)
        run.begin()
        return run

    def __enter__(self) -> OpenRun:
        return self._entered(self.begin())

    def _entered(self, run: OpenRun) -> OpenRun:
        """Make a run that of the block. Threads and tasks may enter one scope at the same time."""
        run.block = self, run.current()
        run.block[1].__enter__()
        self._last = run
        return run

    def __exit__(
        self, _: type[BaseException] | None, error: BaseException | None, __: TracebackType | None
    ) -> None:
        run = _current.get()
        if run is None or run.block is None or run.block[0] is not self:
            run = self._last  # the block is left in another context than the one that entered it
        if run.block is not None:
            run.block[1].__exit__(None, None, None)
        run.end(error)

    async def __aenter__(self) -> OpenRun:
        run = OpenRun(self._host, self._plan)
        await _begun(run, self._plan)
        return self._entered(run)

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.__exit__(kind, error, trace)

    def __call__(self, function: Callable[P, R]) -> Callable[P, R]:
        """Report each call of a function. Raises ValueError if the run has a name."""
        if self._plan.name is not None:
            raise ValueError("a name is of one run: leave it out, so that each call has its own")
        made: Callable[..., Any] = self._called
        if inspect.isasyncgenfunction(function):
            made = self._async_generated
        elif inspect.isgeneratorfunction(function):
            made = self._generated
        elif inspect.iscoroutinefunction(function):
            made = self._awaited
        return cast(Callable[P, R], functools.wraps(function)(made(function)))

    def _called(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def reported(*args: Any, **kwargs: Any) -> Any:
            with RunScope(self._host, self._plan):
                return function(*args, **kwargs)

        return reported

    def _awaited(self, function: Callable[..., Any]) -> Callable[..., Any]:
        async def reported(*args: Any, **kwargs: Any) -> Any:
            async with RunScope(self._host, self._plan):
                return await function(*args, **kwargs)

        return reported

    def _generated(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def reported(*args: Any, **kwargs: Any) -> Generator[Any, Any, Any]:
            run = OpenRun(self._host, self._plan)
            run.begin()
            with ending(run):
                return (yield from _steps(run, function(*args, **kwargs)))

        return reported

    def _async_generated(self, function: Callable[..., Any]) -> Callable[..., Any]:
        async def reported(*args: Any, **kwargs: Any) -> AsyncGenerator[Any, Any]:
            run = OpenRun(self._host, self._plan)
            await _begun(run, self._plan)
            inner = function(*args, **kwargs)
            act, value = inner.asend, None
            with ending(run):
                while True:
                    try:
                        with run.current():
                            item = await act(value)
                    except StopAsyncIteration:
                        return
                    try:
                        act, value = inner.asend, (yield item)
                    except GeneratorExit:
                        with run.current():
                            await inner.aclose()
                        raise
                    except BaseException as error:
                        act, value = inner.athrow, error

        return reported


async def _begun(run: OpenRun, plan: Plan) -> None:
    """Begin a run. The event loop continues while the start may be refused."""
    if plan.on_refused != "raise":
        run.begin()
        return
    try:
        await asyncio.to_thread(run.begin)
    except BaseException as error:
        run.end(error)
        raise


@contextmanager
def ending(run: OpenRun) -> Iterator[None]:
    """End a run when the block ends."""
    try:
        yield
    except BaseException as error:
        run.end(error)
        raise
    run.end(None)


def _steps(run: OpenRun, inner: Generator[Any, Any, Any]) -> Generator[Any, Any, Any]:
    """Run each step of a generator within the run, but not the caller's code between steps."""
    act: Callable[[Any], Any] = inner.send
    value: Any = None
    while True:
        try:
            with run.current():
                item = act(value)
        except StopIteration as stop:
            return stop.value
        try:
            act, value = inner.send, (yield item)
        except GeneratorExit:
            with run.current():
                inner.close()
            raise
        except BaseException as error:
            act, value = inner.throw, error
