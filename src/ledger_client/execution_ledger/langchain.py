"""LangChain: chains, tools, retrievers and model calls as runs of a line."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from execution_ledger._async.client import AsyncLedger
from execution_ledger._steps import Steps
from execution_ledger._sync.client import Ledger

try:
    from langchain_core.callbacks import BaseCallbackHandler
    from langchain_core.outputs import LLMResult
except ImportError as error:
    message = "Install langchain-core: pip install 'execution-ledger-client[langchain]'."
    raise ImportError(message) from error

DETAILS = {
    "input_token_details": {"cache_read": "cache_read", "cache_creation": "cache_write"},
    "output_token_details": {"reasoning": "reasoning"},
}
"""LangChain's names for the kinds of tokens, and the ledger's."""


class LedgerCallback(BaseCallbackHandler):
    """A callback that reports each step of a chain as a run: ``config={"callbacks": [callback]}``.

    LangChain's id of a step names its run, and the id of the enclosing step is the run's parent. A
    model call has its tokens, by model. A step that raises is a failed run; ``tells_errors`` adds
    the text of the error. Prompts and answers are not reported. ``lease`` is as for ``Ledger.run``.
    """

    def __init__(
        self,
        ledger: Ledger | AsyncLedger,
        line: str,
        *,
        lease: int | None = None,
        tells_errors: bool = False,
    ) -> None:
        self._steps = Steps(ledger, line, lease, tells_errors)

    def _started(
        self, *args: Any, run_id: UUID, parent_run_id: UUID | None = None, **kwargs: Any
    ) -> None:
        described = (args[0] if args else kwargs.get("serialized")) or {}
        self._steps.begin(run_id, parent_run_id, kwargs.get("name") or described.get("name"))

    def _ended(self, *_: Any, run_id: UUID, **__: Any) -> None:
        self._steps.end(run_id, None)

    def _failed(self, error: BaseException, *, run_id: UUID, **_: Any) -> None:
        self._steps.end(run_id, error)

    on_chain_start = on_tool_start = on_retriever_start = _started
    on_llm_start = on_chat_model_start = _started
    on_chain_end = on_tool_end = on_retriever_end = _ended
    on_chain_error = on_tool_error = on_retriever_error = on_llm_error = _failed

    def on_llm_end(self, response: LLMResult, *, run_id: UUID, **_: Any) -> None:
        """End a model call with its tokens."""
        run = self._steps.get(run_id)
        for generation in response.generations[0][:1] if response.generations else ():
            message: Any = getattr(generation, "message", None)
            usage: dict[str, Any] | None = getattr(message, "usage_metadata", None)
            if run is not None and usage:
                model = message.response_metadata.get("model_name")
                parts = {"input": usage["input_tokens"], "output": usage["output_tokens"]}
                for detail, names in DETAILS.items():
                    details = usage.get(detail) or {}
                    parts |= {
                        ours: details[name] for name, ours in names.items() if name in details
                    }
                run.tokens(model=model, **parts)
        self._steps.end(run_id, None)
