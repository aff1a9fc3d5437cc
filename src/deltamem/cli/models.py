"""The backbone and adapter that a command works with."""

from typing import Any


def load_adapted(model: str, adapter: str, device: str = "cpu") -> tuple[Any, Any]:
    """A backbone with its adapter, and its tokenizer; the embedded ones without names.

    Raises:
        ValueError: only one of the two is named.
    """
    if bool(model) != bool(adapter):
        raise ValueError("--model and --adapter go together; give both, or neither for the embedded ones.")
    if not model:
        from deltamem.demo.adapters import load_demo_adapter
        from deltamem.demo.backbone import load_backbone

        backbone, tokenizer = load_backbone()
        load_demo_adapter(backbone.to(device), "multi")  # type: ignore[arg-type]
        return backbone, tokenizer
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from deltamem.formats.hub import load_adapter

    adapted = AutoModelForCausalLM.from_pretrained(model, dtype="auto").eval().to(device)
    load_adapter(adapted, adapter)
    return adapted, AutoTokenizer.from_pretrained(model)
