"""What a recipe would be, counted on the shape of the backbone alone, without its weights."""

import math
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from deltamem.attach import attach
from deltamem.train.arguments import processes
from deltamem.train.data.options import DataOptions
from deltamem.train.loading import load_backbone
from deltamem.train.recipe import Backbone, Recipe

_BYTES = {"bfloat16": 2, "float16": 2, "float32": 4, "auto": 2}
# Weights, gradients and the two moments of AdamW, in float32.
_TRAINED_BYTES = 16
# What a layer keeps of a token for the backward pass, in numbers of the hidden size: its inputs and outputs.
_KEPT = 16


def plan_run(recipe: Recipe) -> dict[str, Any]:
    """Counts and estimates of a run.

    Returns:
        ``trainable_parameters`` and ``backbone_parameters``; ``state_bytes``, what a session's memory takes;
        ``samples`` and ``steps``; ``tokens``, at most, written and read, padding aside; ``flops``, an estimate for all
        of it: of a frozen backbone 2 a parameter and token forward and 2 backward, and the attention's own;
        ``memory_bytes``, an estimate for one process without sharding: the weights, the trained parameters with
        gradients and moments in float32, and what one micro-batch of the longest episodes keeps for the backward pass.

    Raises:
        ValueError: the number of samples or the shape is not known; the message says what to add.
    """
    model: Any = _shape(recipe.backbone)
    attachment = attach(model, recipe.adapter)
    report = attachment.report()
    text = model.config.get_text_config(decoder=True)
    schedule, checkpointing = recipe.schedule, recipe.optimiser.gradient_checkpointing
    accumulation = schedule.accumulation(processes())
    steps, samples = _steps(recipe)
    written, read = _lengths(recipe)
    frozen = report.total - report.adapter
    layers, width = text.num_hidden_layers, text.hidden_size
    # The embedding is looked up, not multiplied; the output layer works on the answer's tokens alone.
    body = frozen - model.get_input_embeddings().weight.numel() * (1 if text.tie_word_embeddings else 2)
    episodes = samples * (schedule.epochs or 1) if schedule.steps is None else steps * schedule.batch
    attention = 4 * layers * _attention_width(text) * (written**2 + read**2) / 2
    flops = 2 * episodes * (2 * body * (written + read) + attention)
    kept = layers * (2 if checkpointing else _KEPT) * width * (written + read) * schedule.micro_batch
    weight_bytes = _BYTES[recipe.backbone.dtype]
    activation_bytes = 2 if recipe.optimiser.precision == "bf16" else weight_bytes
    memory = frozen * weight_bytes + report.adapter * _TRAINED_BYTES + kept * activation_bytes
    return {
        "trainable_parameters": report.adapter,
        "backbone_parameters": frozen,
        "state_bytes": attachment.new_state().nbytes,
        "samples": samples,
        "steps": steps,
        "batch": schedule.batch,
        "accumulation": accumulation,
        "processes": processes(),
        "tokens": math.ceil(episodes * (written + read)),
        "flops": math.ceil(flops),
        "memory_bytes": math.ceil(memory),
    }


def meta_backbone(shape: dict[str, Any]) -> PreTrainedModel:
    """A model of a shape on the meta device: no weights.

    Args:
        shape: fields of a ``transformers`` configuration, ``model_type`` among them.

    Raises:
        ValueError: the model type is missing or unknown.
    """
    fields = dict(shape)
    if "model_type" not in fields:
        raise ValueError("backbone.shape needs model_type, such as qwen3.")
    config = AutoConfig.for_model(fields.pop("model_type"), **fields)
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(config)  # type: ignore[no-any-return]


def _shape(backbone: Backbone) -> PreTrainedModel:
    if backbone.shape is not None:
        return meta_backbone(backbone.shape)
    if backbone.factory is not None:
        return load_backbone(backbone).model
    with torch.device("meta"):
        config = AutoConfig.from_pretrained(str(backbone.model), revision=backbone.revision)
        return AutoModelForCausalLM.from_config(config)  # type: ignore[no-any-return]


def _steps(recipe: Recipe) -> tuple[int, int]:
    """The updates, and the samples of an epoch."""
    schedule = recipe.schedule
    if schedule.steps is not None:
        return schedule.steps, schedule.samples or schedule.steps * schedule.batch
    if schedule.samples is None:
        raise ValueError("How long the data is, only its reading tells; give schedule.samples, or schedule.steps.")
    portion = schedule.micro_batch * processes()
    batches = math.ceil(schedule.samples / portion)
    an_epoch = math.ceil(batches / schedule.accumulation(processes()))
    return math.ceil((schedule.epochs or 1) * an_epoch), schedule.samples


def _lengths(recipe: Recipe) -> tuple[int, int]:
    """The most tokens that an episode writes and reads."""
    data = recipe.data if isinstance(recipe.data, DataOptions) else DataOptions(path="unused")
    return data.write_tokens, data.read_tokens


def _attention_width(config: Any) -> int:
    head = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return int(head * config.num_attention_heads)
