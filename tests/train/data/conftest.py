"""The demo's tokenizer, with its own chat template or another."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from transformers import PreTrainedTokenizerFast

import deltamem

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
