"""The OpenAI Agents SDK: traces and their spans as runs of a line."""

from __future__ import annotations

import sys
from typing import Any

from execution_ledger._steps import Steps
from execution_ledger._sync.client import Ledger

try:
    from agents.tracing import Span, Trace, TracingProcessor
    from agents.tracing.span_data import GenerationSpanData, ResponseSpanData
except ImportError as error:
    message = "Install openai-agents: pip install 'execution-ledger-client[openai-agents]'."
    raise ImportError(message) from error


class SpanError(Exception):
    """An error that the SDK noted on a span, such as that of a failed tool."""


class LedgerProcessor(TracingProcessor):
    """A processor that reports each trace and each span as a run: ``add_trace_processor(…)``.

    The ids of traces and spans name their runs and the runs' parents. A model call has its tokens,
    by model. An exception that leaves a span or trace fails its run. An error that the SDK notes on
    a span fails it with the code ``SpanError``. ``tells_errors`` adds the text. Inputs and outputs
    are not reported. ``lease`` is as for ``Ledger.run``.
    """

    def __init__(
        self, ledger: Ledger, line: str, *, lease: int | None = None, tells_errors: bool = False
    ) -> None:
        self._ledger = ledger
        self._steps = Steps(ledger, line, lease, tells_errors)
        self._handled: dict[str, BaseException | None] = {}
        """The exception that the caller was handling when a step began: no error of the step."""

    def on_trace_start(self, trace: Trace) -> None:
        """Begin the run of a trace."""
        self._begin(trace.trace_id, None, trace.name)

    def on_trace_end(self, trace: Trace) -> None:
        """End the run of a trace."""
        self._end(trace.trace_id, None)

    def on_span_start(self, span: Span[Any]) -> None:
        """Begin the run of a span."""
        data = span.span_data
        self._begin(span.span_id, span.parent_id or span.trace_id, getattr(data, "name", data.type))

    def on_span_end(self, span: Span[Any]) -> None:
        """End the run of a span, with its tokens."""
        data = span.span_data
        if isinstance(data, GenerationSpanData):  # the spans around it have sums of the same tokens
            self._count(span.span_id, data.model, data.usage)
        elif isinstance(data, ResponseSpanData):
            model = None if data.response is None else data.response.model
            self._count(span.span_id, model, data.usage)
        self._end(span.span_id, SpanError(span.error["message"]) if span.error else None)

    def shutdown(self) -> None:
        """Send the facts that wait, at the end of the program."""
        self._ledger._reporter.flush(10.0, counts=False)

    def force_flush(self) -> None:
        """Send the facts that wait."""
        self._ledger._reporter.flush(10.0, counts=False)

    def _begin(self, step: str, parent: str | None, name: str) -> None:
        self._handled[step] = sys.exception()
        self._steps.begin(step, parent, name)

    def _count(self, step: str, model: str | None, usage: dict[str, Any] | None) -> None:
        run = self._steps.get(step)
        if run is None or not usage:
            return
        within_input = usage.get("input_tokens_details") or {}
        within_output = usage.get("output_tokens_details") or {}
        run.tokens(
            model=model,
            input=usage.get("input_tokens") or 0,
            output=usage.get("output_tokens") or 0,
            cache_read=within_input.get("cached_tokens") or 0,
            cache_write=within_input.get("cache_write_tokens") or 0,
            reasoning=within_output.get("reasoning_tokens") or 0,
        )

    def _end(self, step: str, noted: Exception | None) -> None:
        before, error = self._handled.pop(step, None), sys.exception()
        self._steps.end(step, noted if error is before else error)
