"""MemGen (arXiv 2509.24704): the full context, with latent tokens that a trained weaver writes for the backbone."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from transformers import StoppingCriteria, StoppingCriteriaList

from deltamem.attach.cache import PAST
from deltamem.chat import Message, encode_chat
from deltamem_lab.backbone import Generated, empty_cache, generation_options, seeded
from deltamem_lab.interface import Ask, Budget, Decoding, Entry
from deltamem_lab.methods.base import Size, Weights
from deltamem_lab.methods.memgen.files import is_weaver, load_weaver, weaver_fingerprint
from deltamem_lab.methods.memgen.learning import ends_with_delimiter
from deltamem_lab.methods.memgen.weaver import Reading, weavers
from deltamem_lab.methods.registry import method
from deltamem_lab.methods.text import TrainedContext


@method("memgen", "MemGen", "trained")
class MemGen(TrainedContext):
    """The full context, after which, and after delimiters of the answer, the weaver's latent tokens are read.

    The weaver is asked wherever it may be, up to its plan's number of insertions: the trigger that decides this in the
    publication is not trained here. The tokens of a prompt are what both models read: the prompt by either, the latents
    by either, the queries and the answer so far by the weaver.
    """

    weights = Weights("memgen", is_weaver, load_weaver)
    what, command = "a weaver", "memgen"
    loaded = staticmethod(weavers)

    @property
    def fingerprint(self) -> str:
        """The weaver's."""
        return weaver_fingerprint(self.backbone.model, self.trained)

    def show(self, asks: Sequence[Ask]) -> list[tuple[list[Entry], Mapping[str, Any]]]:
        """Everything."""
        return [(self.history, {"weaver": self.trained.name, "trigger": "always on, not trained"})] * len(asks)

    def room(self, decoding: Decoding) -> Budget:
        """What the latents leave."""
        budget = super().room(decoding)
        left = None if budget.tokens is None else budget.tokens - self.trained.plan.most_latents
        return replace(budget, tokens=left)

    def estimate(self, size: Size) -> tuple[int, int]:
        """Both models read history and question for each question, and the latents after them."""
        return 0, 2 * size.full + 3 * self.trained.plan.latents

    @torch.no_grad()
    def say(self, prompts: list[list[Message]], asks: list[Ask]) -> list[Generated]:
        """The answers of the bare backbone, each with latents of its own, one by one."""
        with self.backbone.using(None):
            return [self._say(messages, ask.decoding) for messages, ask in zip(prompts, asks, strict=True)]

    def _say(self, messages: Sequence[Message], decoding: Decoding) -> Generated:
        model, plan, tokenizer = self.backbone.model, self.trained.plan, self.backbone.tokenizer
        chat = encode_chat(tokenizer, messages, add_generation_prompt=True, **self.backbone.template)
        prompt = chat.input_ids[0].tolist()
        room = None if self.backbone.positions is None else self.backbone.positions - len(prompt) - plan.most_latents
        reading, cache = Reading(model, self.trained, 1), empty_cache(model)
        # All that the reasoner reads, what of it the weaver has not read, and how many tokens both have read.
        woven = new = self._embed(prompt)
        said: list[int] = []
        weaver_tokens = latents = 0
        options = generation_options(decoding, room)
        most = options.pop("max_new_tokens")
        stop, ends = StoppingCriteriaList([_AfterDelimiter(tokenizer)]), self.backbone.end_tokens()
        with seeded(decoding, model.device):
            for turn in range(1 + plan.insertions):
                added = reading.weave([new], prompt=turn == 0)[0]
                weaver_tokens += len(new) + plan.latents
                latents += plan.latents
                woven = torch.cat([woven, added])
                output = model.generate(
                    inputs_embeds=woven[None],
                    attention_mask=woven.new_ones(1, len(woven), dtype=torch.int64),
                    **{PAST: cache},
                    pad_token_id=self.backbone.pad_id,
                    stopping_criteria=stop if turn < plan.insertions else None,
                    max_new_tokens=most - len(said),
                    use_cache=True,
                    **options,
                )[0].tolist()
                said += output
                if len(said) >= most or said[-1] in ends or not ends_with_delimiter(tokenizer, said[-1]):
                    break
                spoken = self._embed(output)
                new, woven = torch.cat([added, spoken]), torch.cat([woven, spoken])
        return Generated(
            text=str(tokenizer.decode(said, skip_special_tokens=True)).strip(),
            prompt=str(tokenizer.decode(prompt)),
            prompt_tokens=len(prompt) + latents + weaver_tokens,
            new_tokens=sum(token not in ends for token in said),
        )

    def _embed(self, ids: list[int]) -> Tensor:
        embedded: Tensor = self.backbone.model.get_input_embeddings()(
            torch.tensor(ids, device=self.backbone.model.device)
        )
        return embedded


class _AfterDelimiter(StoppingCriteria):
    """Stops where the weaver may be asked again."""

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer

    def __call__(self, input_ids: Tensor, scores: Any, **kwargs: Any) -> Tensor:
        last = input_ids[:, -1].tolist()
        return torch.tensor([ends_with_delimiter(self.tokenizer, token) for token in last], device=input_ids.device)
