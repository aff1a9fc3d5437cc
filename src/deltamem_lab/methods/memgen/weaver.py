"""MemGen's weaver (arXiv 2509.24704): the backbone with a LoRA writes latent tokens that the bare backbone reads.

The backbone as it is, the reasoner, is never trained. After a prompt, and after the first delimiters of an answer, the
weaver reads all that the reasoner has read so far, as embeddings through a linear map, and then query latents, which
are normalised and scaled as in the authors' code. Its last hidden states at these, through a second map, are embeddings
for the reasoner to continue from.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from deltamem.attach.cache import PAST
from deltamem_lab.backbone import empty_cache
from deltamem_lab.methods.lora import LoraPlan, add_lora, lora_weights, using_lora

DELIMITERS = (",", ".", "\n")
_PLACE = "memgen_weavers"


@dataclass(frozen=True)
class WeaverPlan:
    """How a weaver is made and trained.

    Attributes:
        lora: of the weaver, and the rate and number of updates of everything that is trained.
        latents: how many latent tokens an insertion has.
        insertions: the most insertions after delimiters; there is always one after the prompt.
    """

    lora: LoraPlan
    latents: int = 8
    insertions: int = 5

    @property
    def most_latents(self) -> int:
        """The most latent tokens that are read beside a prompt and an answer."""
        return self.latents * (1 + self.insertions)


class Weaver(nn.Module):
    """Query latents and the maps between the reasoner's embeddings and the weaver's; the LoRA is on the backbone."""

    def __init__(self, name: str, width: int, plan: WeaverPlan) -> None:
        super().__init__()
        self.name = name
        self.plan = plan
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(plan.lora.seed)
            self.prompt_queries = nn.Parameter(torch.randn(plan.latents, width))
            self.answer_queries = nn.Parameter(torch.randn(plan.latents, width))
            self.prompt_norm, self.answer_norm = nn.LayerNorm(width), nn.LayerNorm(width)
            self.prompt_scale, self.answer_scale = nn.Parameter(torch.ones(1)), nn.Parameter(torch.ones(1))
            self.to_weaver = nn.Linear(width, width)
            self.to_reasoner = nn.Linear(width, width)
        self.requires_grad_(False)

    def queries(self, *, prompt: bool) -> Tensor:
        """The query latents ``[latents, D]`` that are read after a prompt, or within an answer."""
        queries, norm, scale = (
            (self.prompt_queries, self.prompt_norm, self.prompt_scale)
            if prompt
            else (self.answer_queries, self.answer_norm, self.answer_scale)
        )
        scaled: Tensor = norm(queries) * scale
        return scaled


class Reading:
    """What the weaver has read of some texts; it reads each embedding once, however often it weaves."""

    def __init__(self, model: Any, weaver: Weaver, rows: int) -> None:
        self.model = model
        self.weaver = weaver
        self._cache = empty_cache(model)
        self._mask = torch.ones(rows, 0, dtype=torch.int64, device=model.device)

    def weave(self, new: Sequence[Tensor], *, prompt: bool) -> Tensor:
        """Latent tokens that follow what has been read.

        Args:
            new: the embeddings of each text that are new since the last time, latents included, ``[T, D]``.
            prompt: whether the texts end with their prompts, or within their answers.

        Returns:
            embeddings ``[B, latents, D]`` for the reasoner.
        """
        weaver, dtype = self.weaver, new[0].dtype
        queries = weaver.queries(prompt=prompt).expand(len(new), -1, -1)
        chunk, there = pad_left(new)
        read = torch.cat([weaver.to_weaver(chunk.float()), queries], 1)
        mask = torch.cat([self._mask, there, torch.ones_like(there[:, :1]).expand(-1, queries.shape[1])], 1)
        with using_lora(self.model, weaver.name):
            hidden = self.model.get_decoder()(
                inputs_embeds=read.to(dtype),
                attention_mask=mask,
                position_ids=positions(mask)[:, -read.shape[1] :],
                **{PAST: self._cache},
                use_cache=True,
            ).last_hidden_state
        # The queries stay in the cache, and nothing that comes later sees them; in a sliding window they take room.
        self._mask = mask.clone()
        self._mask[:, -queries.shape[1] :] = 0
        latents: Tensor = weaver.to_reasoner(hidden[:, -queries.shape[1] :].float())
        return latents.to(dtype)


def pad_left(texts: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Embeddings ``[B, T, D]`` of texts ``[T, D]``, padded on the left, and their mask ``[B, T]``."""
    mask = [torch.ones(len(text), dtype=torch.int64, device=text.device) for text in texts]
    left: dict[str, Any] = {"batch_first": True, "padding_side": "left"}
    return pad_sequence(list(texts), **left), pad_sequence(mask, **left)


def positions(mask: Tensor) -> Tensor:
    """The position of each token of a mask ``[B, T]``, as if what is masked were not there."""
    return (mask.cumsum(-1) - 1).clamp(min=0)


def weavers(model: nn.Module) -> dict[str, Weaver]:
    """The weavers on a model by their names, in the order they came."""
    return getattr(model, _PLACE, {})


def add_weaver(model: Any, name: str, plan: WeaverPlan) -> Weaver:
    """Puts a fresh weaver on a backbone, which stays as it is wherever the weaver is not asked.

    Raises:
        ImportError: peft is not installed; the message names the extra.
        ValueError: there is a LoRA or weaver of that name, or no projection that a LoRA is put on.
    """
    add_lora(model, name, plan.lora)
    return put_weaver(model, Weaver(name, model.get_input_embeddings().weight.shape[1], plan))


def put_weaver(model: Any, weaver: Weaver) -> Weaver:
    """Puts a weaver on a backbone that has its LoRA."""
    setattr(model, _PLACE, {**weavers(model), weaver.name: weaver.to(model.device)})
    return weaver


def weaver_parameters(model: nn.Module, weaver: Weaver) -> list[nn.Parameter]:
    """Everything of a weaver that is trained."""
    return [*lora_weights(model, weaver.name), *weaver.parameters()]
