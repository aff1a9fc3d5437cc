"""Memories as bytes, many times a second: what belongs to an adapter is worked out once."""

from transformers import PreTrainedModel

from deltamem.adapters import adapter_fingerprint, hub_origin
from deltamem.attach import attached
from deltamem.state import MemoryState
from deltamem.statefile import StateFileError, StateInfo, pack_state, unpack_state


class StateCodec:
    """What ``state_to_bytes`` and ``state_from_bytes`` do, for one row of an adapter that does not change.

    Attributes:
        fingerprint: of the adapter.

    Args:
        model: a model with an active adapter.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        self.fingerprint = adapter_fingerprint(model)
        self._backbone = hub_origin(model)[0]
        self._empty = attached(model).new_state(1)
        self._shapes = {name: (t.shape, t.dtype) for name, t in self._empty.tensors().items()}

    def pack(self, state: MemoryState) -> bytes:
        """A memory's bytes."""
        return pack_state(state, StateInfo(self.fingerprint, self._backbone, (int(state.tokens[0]),)))

    def unpack(self, data: bytes) -> MemoryState:
        """The inverse of :meth:`pack`.

        Raises:
            StateFileError: the bytes are damaged, another adapter's, not one row, or hold no finite numbers.
        """
        state, info = unpack_state(data)
        if info.fingerprint != self.fingerprint:
            raise StateFileError(
                f"This memory was written by another adapter ({info.fingerprint[:12]}…) than this server's "
                f"({self.fingerprint[:12]}…) and means nothing to it."
            )
        if {name: (t.shape, t.dtype) for name, t in state.tensors().items()} != self._shapes:
            raise StateFileError("This memory is not one session of this server's adapter: its shapes are others.")
        if not all(bool(t.isfinite().all()) for t in state.tensors().values() if t.is_floating_point()):
            raise StateFileError("This memory holds numbers that are not finite.")
        return state.to(self._empty.tokens.device)
