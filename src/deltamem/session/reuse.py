"""Keys and values of the visible text, kept from one turn to the next.

Keys and values follow from the hidden states, and these from the memory that was read along with the text. A token
that stays visible keeps the representation it got when it was read; only what is new is read with the memory of today.
"""

import copy
from dataclasses import dataclass
from typing import Any, Self

from torch import Tensor
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

from deltamem.attach import Attachment
from deltamem.attach.cache import MemoryCache
from deltamem.memory import DeltaMemory


@dataclass(frozen=True)
class ReadText:
    """A text as a turn left it in the cache. Nothing changes it, so sessions may share one.

    Attributes:
        tokens: ``[T]``, the tokens that the cache holds.
        cache: their keys and values.
        reader: the first layer of the adapter they were read with.
    """

    tokens: Tensor
    cache: MemoryCache
    reader: DeltaMemory

    @classmethod
    def of(cls, sequence: Tensor, cache: MemoryCache, attachment: Attachment) -> Self | None:
        """What generation of one row, with the output ``sequence`` ``[1, T]``, left in the cache.

        ``None`` if the next turn cannot use it: there were beams, or layers that hold more than keys and values.
        """
        held = cache.position
        if not held or cache.memory is None or cache.memory.batch != 1 or held > sequence.shape[1]:
            return None
        if any(type(layer) not in (DynamicLayer, DynamicSlidingWindowLayer) for layer in cache.layers):
            return None
        return cls(sequence[0, :held], cache, attachment.memories()[0])

    def resume(self, prompt: Tensor, cache: MemoryCache, attachment: Attachment) -> int:
        """Puts the keys and values of the tokens that ``prompt`` ``[1, T]`` begins with into an empty cache.

        Returns:
            how many tokens these are; 0 if another adapter is active now, or the text is another.
        """
        # The last token of a prompt is always read: what comes next follows from it.
        common = min(len(self.tokens), prompt.shape[1] - 1)
        same = self.tokens[:common] == prompt[0, :common]
        length = int(same.long().cumprod(0).sum())
        surplus = len(self.tokens) - length
        if not length or attachment.memories()[0] is not self.reader:
            return 0
        if surplus and any(_has_slid(layer) for layer in self.cache.layers):
            return 0
        cache.layers = [_shorter(layer, surplus) for layer in self.cache.layers]
        return length


def _has_slid(layer: Any) -> bool:
    """Whether the layer has let go of keys that it would need again after a cut."""
    return isinstance(layer, DynamicSlidingWindowLayer) and layer.cumulative_length >= layer.sliding_window


def _shorter(layer: Any, tokens: int) -> Any:
    """The layer without its last tokens. Layers grow by making new tensors, so the original stays as it is."""
    layer = copy.copy(layer)
    if tokens:
        layer.crop(-tokens)
    return layer
