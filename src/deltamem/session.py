"""A conversation with a memory: what leaves the visible text stays in the state."""

import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel, StoppingCriteria, TextIteratorStreamer

from deltamem.attach import attached
from deltamem.chat import ChatTokens, Message, encode_chat
from deltamem.observe import observe
from deltamem.state import MemoryState
from deltamem.statefile import load_state, save_state

_NEW_TOKENS = 256


class Session:
    """One conversation: a frozen model, a memory state, and the few messages still visible.

    A reply is read from the memory as the turn began; once it is complete the turn is written, so a
    reply that fails or is abandoned leaves the session as it was.

    Args:
        model: a model with an adapter attached.
        tokenizer: its tokenizer, with a chat template.
        state: the memory to go on from; empty by default.
        window: how many past messages stay visible as text. 0 answers from memory alone.
        roles: whose messages are written to memory.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: Any,
        state: MemoryState | None = None,
        *,
        window: int = 8,
        roles: Sequence[str] = ("user", "assistant", "tool"),
    ) -> None:
        if window < 0:
            raise ValueError(f"window counts visible messages and must not be negative: {window}.")
        self.model = model
        self.tokenizer = tokenizer
        self.state = state if state is not None else attached(model).new_state(1)
        if self.state.batch != 1:
            raise ValueError(f"A session is one row; this state has {self.state.batch}. Use state.row(i).")
        self.window = window
        self.roles = tuple(roles)
        self.visible: list[Message] = []

    @classmethod
    def load(cls, path: str | Path, model: PreTrainedModel, tokenizer: Any, **options: Any) -> "Session":
        """A session that goes on from a saved memory, with nothing visible.

        Raises:
            StateFileError: the file is damaged, or belongs to another adapter.
        """
        return cls(model, tokenizer, load_state(path, model), **options)

    def save(self, path: str | Path) -> None:
        """Writes the memory to a file of a few kilobytes. The visible text is not part of it."""
        save_state(self.state, path, self.model)

    def observe(self, text: str | Sequence[Message]) -> None:
        """Writes a text (as a user's message) or messages to memory. They do not become visible."""
        messages: Sequence[Message] = [{"role": "user", "content": text}] if isinstance(text, str) else text
        chat = self._encode(messages)
        written = [i for i, message in enumerate(messages) if message["role"] in self.roles]
        self.state = observe(
            self.model,
            chat.input_ids.to(self._device),
            self.state,
            segment_ids=chat.segment.to(self._device),
            write=chat.of(written).to(self._device),
        )

    def reply(self, text: str, **options: Any) -> str:
        """Answers a message and writes the turn to memory.

        Args:
            text: the user's message.
            options: for ``generate``, such as ``max_new_tokens`` or ``do_sample``.
        """
        messages, prompt = self._prompt(text)
        tokens = self._generate(prompt, options)
        answer = str(self.tokenizer.decode(tokens[0, prompt.shape[1] :], skip_special_tokens=True)).strip()
        self._commit(messages, answer)
        return answer

    def stream(self, text: str, **options: Any) -> Iterator[str]:
        """The same, piece by piece. Leaving early stops the generation and writes nothing."""
        messages, prompt = self._prompt(text)
        streamer = TextIteratorStreamer(self.tokenizer, skip_prompt=True, skip_special_tokens=True)
        stop = _Stop()
        failure: list[BaseException] = []

        def run() -> None:
            try:
                self._generate(prompt, options | {"streamer": streamer, "stopping_criteria": [stop]})
            except BaseException as error:
                failure.append(error)
                streamer.end()

        worker = threading.Thread(target=run, daemon=True)
        worker.start()
        pieces: list[str] = []
        try:
            for piece in streamer:
                pieces.append(piece)
                yield piece
        finally:
            stop.requested = True
            worker.join()
        if failure:
            raise failure[0]
        self._commit(messages, "".join(pieces).strip())

    def clear_context(self) -> None:
        """Drops the visible text; only the memory remains."""
        self.visible.clear()

    @property
    def _device(self) -> torch.device:
        return attached(self.model).base.device

    def _encode(self, messages: Sequence[Message], *, prompt: bool = False) -> ChatTokens:
        sentences = attached(self.model).config.write == "sentence"
        kind = "sentence" if sentences else "message"
        return encode_chat(self.tokenizer, messages, segments=kind, add_generation_prompt=prompt)  # type: ignore[arg-type]

    def _prompt(self, text: str) -> tuple[list[Message], Tensor]:
        """The new message after as much visible text as the window and the backbone's positions allow."""
        new: Message = {"role": "user", "content": text}
        past = self.visible[-self.window :] if self.window else []
        limit = getattr(attached(self.model).base.config, "max_position_embeddings", None)
        while True:
            tokens = self._encode([*past, new], prompt=True).input_ids.to(self._device)
            if limit is None or tokens.shape[1] < limit:
                return [new], tokens
            if not past:
                raise ValueError(
                    f"The message has {tokens.shape[1]} tokens and the backbone {limit} positions; "
                    "write long texts with observe() and ask about them."
                )
            past = past[1:]

    def _generate(self, prompt: Tensor, options: dict[str, Any]) -> Tensor:
        cache = attached(self.model).new_cache(self.state, write=False)
        options = {"max_new_tokens": _NEW_TOKENS} | options
        with torch.no_grad():
            return self.model.generate(  # type: ignore[no-any-return,operator]
                prompt, attention_mask=torch.ones_like(prompt), past_key_values=cache, **options
            )

    def _commit(self, messages: list[Message], answer: str) -> None:
        turn = [*messages, {"role": "assistant", "content": answer}]
        self.observe(turn)
        self.visible += turn
        self.visible = self.visible[-self.window :] if self.window else []


class _Stop(StoppingCriteria):
    """Ends a generation that nobody reads any more."""

    requested = False

    def __call__(self, input_ids: Tensor, scores: Tensor, **kwargs: Any) -> Tensor:
        return torch.full((input_ids.shape[0],), self.requested, dtype=torch.bool, device=input_ids.device)
