"""δ-mem on vLLM: a plugin with the backbones that remember, and the server's engine over it.

vLLM finds :func:`register` by its entry point `vllm.general_plugins`. Nothing here patches vLLM. The memory of a
request travels with the request (`request.py`), is kept while it runs in rings beside the engine's pages (`rings.py`),
and is filled and given back by a connector (`connector.py`).
"""

ARCHITECTURES = {
    "LlamaForCausalLM": "DeltaMemLlamaForCausalLM",
    "MistralForCausalLM": "DeltaMemMistralForCausalLM",
    "Qwen2ForCausalLM": "DeltaMemQwen2ForCausalLM",
    "Qwen3ForCausalLM": "DeltaMemQwen3ForCausalLM",
    "SmolLM3ForCausalLM": "DeltaMemSmolLM3ForCausalLM",
}
"""The architectures that can remember, by the name of their Hugging Face class, and what vLLM knows them as."""


def register() -> None:
    """Tells vLLM of the backbones that remember. vLLM calls it in each of its processes, perhaps more than once."""
    from vllm import ModelRegistry

    for name in ARCHITECTURES.values():
        ModelRegistry.register_model(name, f"deltamem.vllm.models:{name}")
