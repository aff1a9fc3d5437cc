"""Small GGUF files and wheels that carry them, as the package index has of real models."""

import base64
import hashlib
import zipfile
from pathlib import Path

import gguf
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from deltamem.models.catalog import KnownModel, Pullable, Wheel
from tiny import SMALL

TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
_SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]


def _byte_tokens() -> list[str]:
    """GPT-2's letters for the 256 bytes."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = iter(range(256, 512))
    return [chr(byte if byte in plain else next(others)) for byte in range(256)]


def write_gguf(path: Path, *, template: str | None = TEMPLATE) -> LlamaForCausalLM:
    """Writes a random Llama of two layers in 32 bits, and returns it."""
    tokens = [*_SPECIAL, *_byte_tokens(), "he"]
    config = LlamaConfig(
        vocab_size=len(tokens),
        **SMALL,
        max_position_embeddings=512,
        tie_word_embeddings=True,
    )
    torch.manual_seed(0)
    model = LlamaForCausalLM(config).eval()
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(512)
    writer.add_embedding_length(32)
    writer.add_block_count(2)
    writer.add_feed_forward_length(48)
    writer.add_head_count(4)
    writer.add_head_count_kv(2)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_dimension_count(8)
    writer.add_rope_freq_base(10_000.0)
    writer.add_vocab_size(len(tokens))
    writer.add_file_type(gguf.LlamaFileType.ALL_F32)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(tokens)
    writer.add_token_types([gguf.TokenType.CONTROL] * 3 + [gguf.TokenType.NORMAL] * (len(tokens) - 3))
    writer.add_token_merges(["h e"])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    if template is not None:
        writer.add_chat_template(template)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, 2)
    for name, tensor in model.state_dict().items():
        kind, _, end = name.rpartition(".")
        if kind == "lm_head":
            continue
        if kind.endswith(("q_proj", "k_proj")):
            tensor = _interleaved(tensor, 4 if kind.endswith("q_proj") else 2)
        writer.add_tensor(f"{names.get_name(kind)}.{end}", tensor.numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return model


def _interleaved(weight: torch.Tensor, heads: int) -> torch.Tensor:
    """Rows as llama.cpp keeps them for its rotary embedding."""
    rows, width = weight.shape
    return weight.view(heads, 2, rows // heads // 2, width).transpose(1, 2).reshape(rows, width).contiguous()


def write_wheel(folder: Path, package: str, files: dict[str, bytes]) -> Wheel:
    """Writes a wheel of version 1.0 that pip accepts, and returns its row, whose part is the first file."""
    module = package.replace("-", "_")
    info = f"{module}-1.0.dist-info"
    contents = {f"{module}/{name}": data for name, data in files.items()}
    contents[f"{info}/METADATA"] = (
        f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\nRequires-Dist: no-such-package-that-compiles\n".encode()
    )
    contents[f"{info}/WHEEL"] = b"Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    lines = [
        f"{name},sha256={base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b'=').decode()},{len(data)}"
        for name, data in contents.items()
    ]
    contents[f"{info}/RECORD"] = "\n".join([*lines, f"{info}/RECORD,,", ""]).encode()
    path = folder / f"{module}-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in contents.items():
            archive.writestr(name, data)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    return Wheel(package, "1.0", digest, f"{module}/{next(iter(files))}", (f"{module}/LICENSE",) * ("LICENSE" in files))


def known(data: bytes, *wheels: Wheel, template: str | None = None) -> KnownModel:
    """The row of a model that these wheels carry."""
    stops = ("<|endoftext|>",) if template else ()
    pullable = Pullable(wheels, hashlib.sha256(data).hexdigest(), 1, "owner/small", template, stops)
    return KnownModel("small", "a small one", "Apache-2.0", pullable, "models/small")
