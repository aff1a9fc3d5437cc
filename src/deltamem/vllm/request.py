"""What a request says of its memory: the field `deltamem` of vLLM's `kv_transfer_params`."""

import base64
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from deltamem.formats.state import unpack_state
from deltamem.ops.packed import PASSES, READS, WRITES
from deltamem.state import MemoryState

FIELD = "deltamem"
_FIELDS = ("state", "write", "ticket")


@dataclass(frozen=True)
class MemoryRequest:
    """The memory of one request.

    Attributes:
        state: the bytes of a saved memory (:func:`deltamem.save_state`), one row; ``None`` for an empty one.
        write: whether all tokens write; or a flag for each token of the prompt, and then nothing that follows writes.
        ticket: a name under which the memory is given back once the request has finished; ``None`` gives none back.
    """

    state: bytes | None = None
    write: bool | bytes = False
    ticket: str | None = None

    def params(self) -> dict[str, Any]:
        """As `kv_transfer_params`."""
        return {FIELD: {name: getattr(self, name) for name in _FIELDS}}

    @classmethod
    def of(cls, params: dict[str, Any] | None) -> "MemoryRequest":
        """From `kv_transfer_params`; a request that says nothing reads an empty memory.

        Raises:
            ValueError: it says something else than the fields allow.
        """
        said = (params or {}).get(FIELD, {})
        if not isinstance(said, dict) or (unknown := set(said) - set(_FIELDS)):
            names = ", ".join(_FIELDS)
            found = sorted(unknown) if isinstance(said, dict) else type(said).__name__
            raise ValueError(f"kv_transfer_params[{FIELD!r}] is an object with the fields {names}, not {found}.")
        write, ticket = said.get("write", False), said.get("ticket")
        if not isinstance(write, bool):
            write = _bytes("write", write)
        if ticket is not None and not isinstance(ticket, str):
            raise ValueError(f"ticket must be text, not {ticket!r}.")
        state = said.get("state")
        return cls(None if state is None else _bytes("state", state), write, ticket)

    def read_state(self, fingerprint: str, shape: tuple[int, ...]) -> tuple[Tensor | None, int]:
        """The memory as the rings hold it, checked, ``None`` for an empty one; and how many tokens it has written.

        Args:
            fingerprint: of the adapter.
            shape: :attr:`Rings.shape`.

        Raises:
            ValueError: it is damaged, of another adapter or another number of sessions, or not finite.
        """
        if self.state is None:
            return None, 0
        state, info = unpack_state(self.state)
        if info.fingerprint != fingerprint:
            raise ValueError(f"This memory was written by another adapter ({info.fingerprint[:12]}…).")
        return stacked(state, shape), info.tokens[0]

    def flags(self, prompt: int) -> Tensor:
        """What each token does, as :class:`Batch` has it: one for each of a prompt, and one for all that follow.

        Raises:
            ValueError: there is not one flag a token.
        """
        if isinstance(self.write, bool):
            return torch.full((prompt + 1,), self.write, dtype=torch.uint8)
        if len(self.write) != prompt or set(self.write) - {0, 1}:
            raise ValueError(
                f"write has {len(self.write)} flags for {prompt} tokens; it takes a byte, 0 or 1, for each."
            )
        said = [WRITES if flag else PASSES for flag in self.write]
        return torch.tensor([*said, READS], dtype=torch.uint8)


def check_body(body: Any) -> None:
    """Refuses what vLLM's own routes would take, although its memory would be wrong. What they refuse too is let pass.

    Args:
        body: of a request to one of them.

    Raises:
        ValueError: it does not say what its memory is, asks for several answers under one ticket, or for a beam search.
    """
    params = body.get("kv_transfer_params") if isinstance(body, dict) else None
    if not isinstance(params, dict) or FIELD not in params:
        return
    if body.get("use_beam_search"):
        raise ValueError("A beam search has no memory: leave out use_beam_search, or the memory.")
    if MemoryRequest.of(params).ticket is None:
        return
    sampling = body.get("sampling_params")  # of the route for tokens
    for place in (body, sampling if isinstance(sampling, dict) else {}):
        if place.get("n") not in (None, 1):
            raise ValueError(f"A ticket is for one answer: n is 1, not {place['n']!r}. Or leave out the ticket.")
    prompts = body.get("prompt")
    if isinstance(prompts, list) and len(prompts) > 1 and not all(isinstance(part, int) for part in prompts):
        raise ValueError(f"A ticket is for one answer, and there are {len(prompts)} prompts: send them one by one.")


def stacked(state: MemoryState, shape: tuple[int, ...]) -> Tensor:
    """The one row of a memory as the rings hold it: ``[L, N, R, R]``, or ``[L, N, R + 1, R]`` for two key tokens.

    Raises:
        ValueError: it has another shape, holds several sessions or an open segment, or is not finite.
    """
    layers, states, rows, rank = shape
    fits = len(state.states) == layers and state.states[0].shape == (1, states, rank, rank)
    if not fits or state.open is not None or (state.before is not None) != (rows > rank):
        raise ValueError(
            f"This memory has {len(state.states)} layers of {list(state.states[0].shape)}; the adapter wants {layers} "
            f"of {[1, states, rank, rank]}, and nothing else to be pending."
        )
    tensor = torch.stack([layer[0] for layer in state.states])
    if state.before is not None:
        adds = torch.stack([layer[0] for layer in state.before]).view(layers, states, 1, rank)
        tensor = torch.cat([tensor, adds], 2)
    if not bool(tensor.isfinite().all()):
        raise ValueError("This memory holds numbers that are not finite.")
    return tensor


def unstacked(tensor: Tensor, written: Tensor) -> MemoryState:
    """The inverse of :func:`stacked`, with how many tokens have written, ``[1]``."""
    rank = tensor.shape[-1]
    states = tuple(layer[None, :, :rank] for layer in tensor)
    before = tuple(layer[:, rank:].reshape(1, -1) for layer in tensor) if tensor.shape[2] > rank else None
    return MemoryState(states, written, before=before)


def _bytes(name: str, value: Any) -> bytes:
    """Bytes, as they are between processes or as base64 in JSON."""
    if isinstance(value, str):
        try:
            return base64.b64decode(value, validate=True)
        except ValueError:
            raise ValueError(f"{name} is not base64.") from None
    if not isinstance(value, bytes | bytearray | memoryview):
        raise ValueError(f"{name} must be base64 or bytes, not {type(value).__name__}.")
    return bytes(value)
