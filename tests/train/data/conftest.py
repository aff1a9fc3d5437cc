"""The demo's tokenizer, with its own chat template or another."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from transformers import PreTrainedTokenizerFast

import deltamem

# ChatML with a system message of its own before a chat that has none, as SmolLM2's has.
CHATML = (
    "{% if messages[0].role != 'system' %}<|im_start|>system\nBe good.<|im_end|>\n{% endif %}"
    "{% for m in messages %}<|im_start|>{{ m.role + '\n' + m.content }}<|im_end|>{{ '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
ASSETS = Path(deltamem.__file__).parent / "demo" / "assets"


@pytest.fixture(scope="session")
def tokenizer() -> Any:
    return PreTrainedTokenizerFast.from_pretrained(ASSETS)


@pytest.fixture(scope="session")
def with_template(tokenizer: Any) -> Callable[[str], Any]:
    def with_template(template: str) -> Any:
        other = copy.deepcopy(tokenizer)
        other.chat_template = template
        return other

    return with_template


@pytest.fixture(scope="session")
def chat_tokenizer(with_template: Callable[[str], Any]) -> Any:
    return with_template(CHATML)
