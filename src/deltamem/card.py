"""The model card that is saved beside an adapter."""

import dataclasses
from pathlib import Path

from deltamem.checkpoint import AdapterFile
from deltamem.files import write_atomically

CARD_FILE = "README.md"
_MARKER = "<!-- Written by deltamem. Remove this line and it will leave your edits alone. -->"

_CITATION = """@misc{lei2026deltamem,
  author        = {Lei and others},
  title         = {$\\delta$-mem},
  year          = {2026},
  eprint        = {2605.12357},
  archivePrefix = {arXiv}
}"""


def model_card(
    adapter: AdapterFile, *, source: str = "path/or/hub-id", license: str | None = None, training: str = ""
) -> str:
    """A model card in Markdown with the Hub's metadata.

    Args:
        adapter: what the card is for.
        source: what a reader passes to ``load_adapter``.
        license: the Hub's identifier of the weights' licence, for example ``apache-2.0``.
        training: further sections in Markdown on how it was trained and what it is worth.
    """
    base = adapter.base_model
    head = ["---", "library_name: deltamem", "tags: [deltamem, memory, adapter]"]
    if base is not None:
        head.append(f"base_model: {base}")
    if license is not None:
        head.append(f"license: {license}")
    named = f"[{base}](https://huggingface.co/{base})" if base is not None else "a backbone whose id was not recorded"
    if base is not None and adapter.base_revision is not None:
        named += f" at revision `{adapter.base_revision}`"
    rows = "\n".join(f"| `{name}` | `{value}` |" for name, value in dataclasses.asdict(adapter.config).items())
    layers = adapter.backbone.layers if adapter.backbone.layers is not None else "an unknown number of"
    terms = f"These weights are under `{license}`." if license is not None else "Ask their author for their licence."
    return f"""{chr(10).join([*head, "---"])}
{_MARKER}

# A δ-mem adapter

A small associative memory beside a frozen language model: it is written while the model reads, kept when the text
is gone, and carried to the next conversation as a file of a few kilobytes.
Made for {named} (hidden size {adapter.backbone.hidden_size}, {layers} attention layers).
{adapter.parameters:,} parameters.

## Use

```python
import deltamem
from transformers import AutoModelForCausalLM

model = AutoModelForCausalLM.from_pretrained("{base or "the/backbone"}")
deltamem.load_adapter(model, "{source}")
```

## Configuration

| field | value |
|---|---|
{rows}
{training}
Fingerprint: `{adapter.fingerprint}`. A saved memory belongs to the adapter with this fingerprint.

## Licence and attribution

{terms} The backbone keeps its own licence. The method is that of arXiv 2605.12357.

```bibtex
{_CITATION}
```
"""


def write_card(card: str, folder: Path) -> None:
    """Saves a card as ``README.md``, unless a person has taken that file over.

    Raises:
        OSError: the folder cannot be written.
    """
    path = folder / CARD_FILE
    if not path.exists() or _MARKER in path.read_text(encoding="utf-8"):
        write_atomically(path, card.encode())
