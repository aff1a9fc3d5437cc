"""What a recipe would be, counted on the shape of the backbone alone, without its weights."""

import math
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from deltamem.attach import attach
from deltamem.config import DeltaMemConfig
from deltamem.models.loading import load_config
from deltamem.train.arguments import processes
from deltamem.train.data.options import DataOptions
from deltamem.train.loading import load_backbone
from deltamem.train.recipe import BackboneSection, Recipe

_BYTES = {"bfloat16": 2, "float16": 2, "float32": 4, "auto": 2}
# Weights, gradients and the two moments of AdamW, in float32.
_TRAINED_BYTES = 16
# What a memory keeps of a token for the backward pass, for each number of a state's row, in float32.
_KEPT_OF_STATE = 12


def plan_run(recipe: Recipe) -> dict[str, Any]:
    """Counts and estimates of a run.

    Returns:
        ``trainable_parameters`` and ``backbone_parameters``; ``state_bytes``, what a session's memory takes;
        ``trainings``, 2 with a static control; of each ``samples`` and ``steps``; ``tokens``, at most, written and read
        by all of them, padding aside; ``flops``, an estimate for all of it but the evaluations: of a frozen backbone 2
        a parameter and token forward and 2 backward, and the attention's own; ``memory_bytes``, an estimate for one
        process without sharding: the weights, the trained parameters with gradients and moments in float32, and what
        one micro-batch of the longest episodes keeps for the backward pass, its logits included. The last three are
        ``None`` where a function makes the data, whose lengths are not known.

    Raises:
        ValueError: the number of samples or the shape is not known; the message says what to add.
    """
    model: Any = meta_backbone(recipe.backbone)
    attachment = attach(model, recipe.adapter)
    report = attachment.report()
    text = model.config.get_text_config(decoder=True)
    schedule, checkpointing = recipe.schedule, recipe.optimiser.gradient_checkpointing
    accumulation = schedule.accumulation(processes())
    steps, samples = _steps(recipe)
    trainings = 1 + recipe.evaluation.control
    frozen = report.total - report.adapter
    plan = {
        "trainable_parameters": report.adapter,
        "backbone_parameters": frozen,
        "state_bytes": attachment.new_state().nbytes,
        "trainings": trainings,
        "samples": samples,
        "steps": steps,
        "batch": schedule.batch,
        "accumulation": accumulation,
        "processes": processes(),
    }
    if not isinstance(recipe.data, DataOptions):
        return {**plan, "tokens": None, "flops": None, "memory_bytes": None}
    written, read = recipe.data.write_tokens, recipe.data.read_tokens
    # The embedding is looked up, not multiplied; the output layer works on the answer's tokens alone.
    body = frozen - model.get_input_embeddings().weight.numel() * (1 if text.tie_word_embeddings else 2)
    episodes = samples * (schedule.epochs or 1) if schedule.steps is None else steps * schedule.batch
    attention = 4 * text.num_hidden_layers * _attention_width(text) * (written**2 + read**2) / 2
    flops = 2 * episodes * (2 * body * (written + read) + attention)
    weight_bytes = _BYTES[recipe.backbone.dtype]
    number = 2 if recipe.optimiser.precision == "bf16" else weight_bytes
    a_layer = layer_bytes(text, recipe.adapter, number)
    kept = text.num_hidden_layers * a_layer
    if checkpointing:
        # The input of every layer, and one layer at a time.
        kept = text.num_hidden_layers * text.hidden_size * number + a_layer
    # As they are, in float32, and their gradient.
    logits = read * text.vocab_size * (number + 4 + 4)
    activations = (kept * (written + read) + logits) * schedule.micro_batch
    memory = frozen * weight_bytes + report.adapter * _TRAINED_BYTES + activations
    return {
        **plan,
        "tokens": math.ceil(trainings * episodes * (written + read)),
        "flops": math.ceil(trainings * flops),
        "memory_bytes": math.ceil(memory),
    }


def layer_bytes(text: Any, adapter: DeltaMemConfig, number: int) -> int:
    """About what an adapted layer keeps of a token for the backward pass, in bytes.

    Three of the MLP's width; in float32 the inputs of the norms, of queries and keys too; the attention's input,
    queries, keys, values and output; and the memory's. The tests compare it with what is kept.

    Args:
        text: the backbone's configuration.
        adapter: the adapter's.
        number: the bytes of a number in the backbone's arithmetic.
    """
    width, queries = text.hidden_size, _attention_width(text)
    keys = (
        queries * (getattr(text, "num_key_value_heads", None) or text.num_attention_heads) // text.num_attention_heads
    )
    inner = getattr(text, "intermediate_size", None) or 4 * width
    norms: int = 4 * (2 * width + queries + keys)
    memory = 4 * _KEPT_OF_STATE * adapter.states * adapter.rank
    products: int = number * (3 * inner + width + 2 * queries + 2 * keys)
    return norms + products + memory


def meta_backbone(backbone: BackboneSection) -> PreTrainedModel:
    """A backbone without weights, on the meta device; one that a function makes is as it makes it.

    Raises:
        ValueError: its shape has no model type or an unknown one.
    """
    if backbone.shape is None and backbone.factory is not None:
        return load_backbone(backbone)[0]
    if backbone.shape is None:
        config = load_config(str(backbone.model), revision=backbone.revision)
    elif "model_type" in backbone.shape:
        config = AutoConfig.for_model(**backbone.shape)
    else:
        raise ValueError("backbone.shape needs model_type, such as qwen3.")
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(config)  # type: ignore[no-any-return]


def _steps(recipe: Recipe) -> tuple[int, int]:
    """The updates, and the samples of an epoch."""
    schedule = recipe.schedule
    samples = schedule.samples and schedule.samples - (recipe.evaluation.held_out or 0)
    if schedule.steps is not None:
        return schedule.steps, samples or schedule.steps * schedule.batch
    if samples is None:
        raise ValueError("The data has to be read to know its length; give schedule.samples, or schedule.steps.")
    portion = schedule.micro_batch * processes()
    batches = math.ceil(samples / portion)
    an_epoch = math.ceil(batches / schedule.accumulation(processes()))
    return math.ceil((schedule.epochs or 1) * an_epoch), samples


def _attention_width(config: Any) -> int:
    head = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return int(head * config.num_attention_heads)
