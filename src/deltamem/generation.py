"""What a call of ``generate`` asks for: by keyword, by a configuration passed along, or by the model's own."""

import copy
from typing import Any

import torch
from transformers import GenerationConfig


class GenerateOptions:
    """The options of one call, in the order in which transformers lets them count.

    Args:
        keywords: the call's; an option named here counts even if it is ``None``.
        config: the configuration passed along, if any. It is copied before it is changed.
        defaults: the model's own.
    """

    def __init__(
        self, keywords: dict[str, Any], config: GenerationConfig | None, defaults: GenerationConfig | None
    ) -> None:
        self.keywords = keywords
        self.config = config
        self.defaults = defaults

    def __getitem__(self, name: str) -> Any:
        """An option's value, ``None`` if nobody sets it."""
        if name in self.keywords:
            return self.keywords[name]
        configs = (self.config, self.defaults)
        return next((value for config in configs if (value := getattr(config, name, None)) is not None), None)

    def __setitem__(self, name: str, value: Any) -> None:
        """Sets an option; transformers warns of keywords beside a configuration, so then it is set there."""
        if self.config is None or name in self.keywords:
            self.keywords[name] = value
        else:
            self.config = copy.deepcopy(self.config)
            setattr(self.config, name, value)

    def set_default(self, name: str, value: Any) -> None:
        """Sets an option that nobody sets."""
        if name not in self.keywords and self[name] is None:
            self[name] = value

    def stop_tokens(self, *, beams: bool) -> set[int]:
        """The tokens by which a row that is fed one is known to have ended."""
        ids = [self["eos_token_id"]]
        # A row that other criteria stop is told by the padding it is fed from then on; a beam is fed none.
        if not beams and (self["stop_strings"] or self["stopping_criteria"]):
            ids.append(self["pad_token_id"])
        return {token for one in ids if one is not None for token in torch.as_tensor(one).flatten().tolist()}
