"""A model with a memory as lm-evaluation-harness wants one. Only :mod:`deltamem_lab.harness` imports this."""

from typing import Any

import torch
from lm_eval.models.huggingface import HFLM
from torch import Tensor

from deltamem.attach import attached, memory_cache
from deltamem.attach.cache import PAST
from deltamem.chat.input import adapter_of
from deltamem.state import NO_SEGMENT, MemoryState
from deltamem.step import Step


class MemoryLM(HFLM):  # type: ignore[misc]
    """An ``LM`` over a model in memory, bare or with an adapter.

    Every request starts from the same memory, empty by default, and writes as it is read; no request sees another's
    memory. For adapters that write segments a prompt is one segment.

    Args:
        state: the memory every request starts from, one row.
        options: further arguments of ``HFLM``, such as ``enable_thinking``.

    Raises:
        ValueError: a state is given but the model has no active adapter, or the state has more than one row.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        *,
        batch_size: int = 1,
        state: MemoryState | None = None,
        **options: Any,
    ) -> None:
        self._memory = adapter_of(model) is not None
        if state is not None and not self._memory:
            raise ValueError("This model has no active adapter, so it cannot start from a memory; load one first.")
        if state is not None and state.batch != 1:
            raise ValueError(f"Every request starts from the same memory, so give one row, not {state.batch}.")
        super().__init__(pretrained=model, tokenizer=tokenizer, batch_size=batch_size, **options)
        self._state = state

    def _model_generate(self, context: Tensor, max_length: int, stop: list[str], **options: Any) -> Tensor:
        if self._memory:
            segments = self._segments(context, options.get("attention_mask"))
            options[PAST] = memory_cache(self.model, self._rows(len(context)), segment_ids=segments)
        answers: Tensor = super()._model_generate(context, max_length, stop, **options)
        return answers

    def _model_call(self, inps: Tensor, attn_mask: Tensor | None = None, labels: Tensor | None = None) -> Tensor:
        if not self._memory:
            bare: Tensor = super()._model_call(inps, attn_mask, labels)
            return bare
        # Padding is on the right, where nothing that is scored can see what it writes.
        step = Step(self._rows(len(inps)), segment_ids=self._segments(inps, None))
        with torch.no_grad():
            logits: Tensor = self.model(inps, memory=step).logits
        return logits

    def _rows(self, count: int) -> MemoryState:
        return self._state.select([0] * count) if self._state else attached(self.model).new_state(count)

    def _segments(self, tokens: Tensor, mask: Tensor | None) -> Tensor | None:
        if not attached(self.model).config.writes_segments:
            return None
        whole = torch.zeros_like(tokens)
        return whole if mask is None else whole.masked_fill(mask == 0, NO_SEGMENT)
