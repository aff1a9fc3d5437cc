"""The weaver's latents come where they should, it alone is trained, and the backbone is the same wherever it is off."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from asking import ITEM, asks, called
from torch import Tensor
from transformers import Qwen3Config, Qwen3ForCausalLM

import tiny
from deltamem.chat import encode_chat
from deltamem.demo.backbone import load_backbone
from deltamem_lab.backbone import Backbone
from deltamem_lab.loading import embedded_backbone
from deltamem_lab.methods import build_method
from deltamem_lab.methods.lora import LoraPlan, lora_weights, using_lora
from deltamem_lab.methods.memgen.files import load_weaver, save_weaver, weaver_fingerprint
from deltamem_lab.methods.memgen.learning import exchanges, fit_weaver, weaver_loss
from deltamem_lab.methods.memgen.weaver import Reading, Weaver, WeaverPlan, add_weaver, weaver_parameters, weavers
from deltamem_lab.methods.training import TokenRows, next_token_loss

pytest.importorskip("peft")

TOKENIZER = load_backbone()[1]
LORA = LoraPlan(rank=4, alpha=8, projections=("q_proj", "v_proj"), rate=1e-2, steps=25)
PLAN = WeaverPlan(LORA, latents=3, insertions=2)
# An answer with more delimiters than insertions, and a row of two answers.
TOLD = "My colour is teal."
ROWS = ((TOLD, "Got it."), ("What is my colour?", "teal, teal, teal.\nteal.")), (("Hello.", "teal"), ("Who?", "green."))


@pytest.fixture(scope="module")
def trained() -> Backbone:
    """A bare backbone with a weaver that has learned a few answers, and does not say what the backbone would."""
    model, tokenizer = load_backbone()
    model.requires_grad_(False)
    weaver = add_weaver(model, "own", PLAN)
    weights = {name: weight.clone() for name, weight in model.named_parameters()}
    bare = next_token_loss(model, rows())
    losses = fit_weaver(model, weaver, tokenizer, [[rows()]] * LORA.steps)
    assert losses[-1] < 0.5 * losses[0]
    assert torch.equal(next_token_loss(model, rows()), bare)
    for name, weight in model.named_parameters():
        assert weight.grad is None
        assert torch.equal(weight, weights[name]) == ("lora_" not in name), name
    return Backbone(model, tokenizer, batch=8)


@pytest.fixture(scope="module")
def folder(trained: Backbone, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weaver")
    save_weaver(trained.model, own(trained), path)
    return path


def own(backbone: Backbone) -> Weaver:
    return weavers(backbone.model)["own"]


def rows(learned: int = 1) -> TokenRows:
    """The chats of :data:`ROWS`; of each the last answers train."""
    texts = []
    for chat in ROWS:
        ids: list[int] = []
        weights: list[float] = []
        for number, (said, answer) in enumerate(chat):
            prompt = [{"role": "user", "content": said}]
            head = encode_chat(TOKENIZER, prompt, add_generation_prompt=True).input_ids[0].tolist()
            tail = [*TOKENIZER.encode(answer, add_special_tokens=False), TOKENIZER.eos_token_id]
            weight = 1.0 if number >= len(chat) - learned else 0.0
            ids += head + tail
            weights += [0.0] * len(head) + [weight] * len(tail)
        texts.append((ids, weights))
    return TokenRows.pad(texts)


def answers(name: str, backbone: Backbone) -> list[Any]:
    method = build_method(name, backbone)
    method.reset(0)
    method.observe(ITEM.history)
    return method.answer(asks(backbone, tokens=12))


def texts(name: str, backbone: Backbone) -> list[str]:
    return [one.text for one in answers(name, backbone)]


def weave_again(model: Any, weaver: Weaver, context: Tensor, *, prompt: bool) -> Tensor:
    """Latents from all that was read, with no cache, padding or batch."""
    norm, scale = (weaver.prompt_norm, 1.0) if prompt else (weaver.answer_norm, 1.0)
    queries = norm(weaver.prompt_queries if prompt else weaver.answer_queries) * scale
    with using_lora(model, "own"):
        read = torch.cat([weaver.to_weaver(context), queries])[None]
        hidden = model.get_decoder()(inputs_embeds=read, use_cache=False).last_hidden_state
    latents: Tensor = weaver.to_reasoner(hidden[0, -len(queries) :])
    return latents


def embed(model: Any, ids: list[int]) -> Tensor:
    embedded: Tensor = model.get_input_embeddings()(torch.tensor(ids, dtype=torch.int64))
    return embedded


def test_latents_come_before_answers_and_after_their_first_delimiters() -> None:
    parts = exchanges(rows(2), TOKENIZER, insertions=2)
    assert len(parts) == 4
    for part in parts:
        assert TOKENIZER.decode(part.ids[: part.points[0]]).endswith("<|im_start|>assistant\n")
        assert [place for place, weight in enumerate(part.weights) if weight] == [*range(part.points[0], len(part.ids))]
    after = [[TOKENIZER.decode(part.ids[point - 1]) for point in part.points[1:]] for part in parts]
    assert after == [["."], [",", ","], [], ["."]]
    assert "Got it." in TOKENIZER.decode(parts[1].ids[: parts[1].points[0]])
    assert [len(part.points) for part in exchanges(rows(), TOKENIZER, insertions=0)] == [1, 1]


def test_the_loss_is_that_of_reading_in_turn(trained: Backbone) -> None:
    model, weaver = trained.model, own(trained)
    total = weight = 0.0
    for part in exchanges(rows(2), TOKENIZER, PLAN.insertions):
        woven, labels, weights, start = embed(model, []), [], [], 0
        for turn, point in enumerate(part.points):
            woven = torch.cat([woven, embed(model, part.ids[start:point])])
            woven = torch.cat([woven, weave_again(model, weaver, woven, prompt=turn == 0)])
            labels += [*part.ids[start:point], *[0] * PLAN.latents]
            weights += [*part.weights[start:point], *[0.0] * PLAN.latents]
            start = point
        woven = torch.cat([woven, embed(model, part.ids[start:])])
        one = TokenRows.pad([(labels + part.ids[start:], weights + part.weights[start:])])
        total += next_token_loss(model, one, inputs_embeds=woven[None]).item() * one.total
        weight += one.total
    together = weaver_loss(model, weaver, exchanges(rows(2), TOKENIZER, PLAN.insertions))
    assert together.item() == pytest.approx(total / weight, rel=1e-4)


def test_every_part_of_the_weaver_learns_and_nothing_else() -> None:
    model, tokenizer = load_backbone()
    model.requires_grad_(False)
    weaver = add_weaver(model, "own", PLAN)
    parameters = weaver_parameters(model, weaver)
    for parameter in parameters:
        parameter.requires_grad_(True)
    # LoRA's A learns once B is no longer zero.
    for name, weight in model.named_parameters():
        if "lora_B" in name:
            weight.data += 0.01
    weaver_loss(model, weaver, exchanges(rows(), tokenizer, PLAN.insertions)).backward()
    assert all(parameter.grad is not None and parameter.grad.abs().sum() > 0 for parameter in parameters)
    # LoRA of two projections in six layers; two queries; two maps, each with a LayerNorm and a scale.
    assert len(parameters) == 6 * 2 * 2 + 2 + 2 * (2 + 2 + 1)
    assert all(weight.grad is None for name, weight in model.named_parameters() if "lora_" not in name)


@pytest.mark.parametrize(
    ("projections", "size"),
    [(("q_proj", "v_proj"), 19_061_762), (("_proj",), 46_193_666)],
)
def test_its_size_on_the_published_backbone(projections: tuple[str, ...], size: int) -> None:
    """One of the 36 layers of Qwen3-4B; the paper's table says 46.20 M."""
    shape = {"hidden_size": 2560, "intermediate_size": 9728, "head_dim": 128, "num_attention_heads": 32}
    with torch.device("meta"):
        config = Qwen3Config(**shape, num_key_value_heads=8, num_hidden_layers=1, vocab_size=8)
        model = Qwen3ForCausalLM(config)
    weaver = add_weaver(model, "own", WeaverPlan(LoraPlan(rank=16, alpha=32, projections=projections)))
    layer = sum(weight.numel() for weight in lora_weights(model, "own"))
    assert 36 * layer + sum(weight.numel() for weight in weaver.parameters()) == size


def test_answers_are_those_of_generating_in_turn(trained: Backbone, monkeypatch: pytest.MonkeyPatch) -> None:
    model, weaver, woven_at = trained.model, own(trained), []
    whole = Reading.weave

    def watched(self: Reading, new: list[Tensor], *, prompt: bool) -> Tensor:
        woven_at.append((len(new[0]), prompt))
        return whole(self, new, prompt=prompt)

    monkeypatch.setattr(Reading, "weave", watched)
    first = next(one for one in answers("memgen", trained) if "," in one.text or "." in one.text)
    prompt = TOKENIZER.encode(first.prompt, add_special_tokens=False)
    said: list[int] = []
    with torch.no_grad():
        woven = embed(model, prompt)
        woven, insertions = torch.cat([woven, weave_again(model, weaver, woven, prompt=True)]), 0
        while len(said) < 12 and TOKENIZER.eos_token_id not in said:
            said.append(int(model(inputs_embeds=woven[None]).logits[0, -1].argmax()))
            woven = torch.cat([woven, embed(model, said[-1:])])
            delimiter = TOKENIZER.decode(said[-1:]).endswith((",", ".", "\n"))
            if delimiter and insertions < PLAN.insertions and len(said) < 12:
                woven = torch.cat([woven, weave_again(model, weaver, woven, prompt=False)])
                insertions += 1
    assert first.text == TOKENIZER.decode(said, skip_special_tokens=True).strip()
    assert insertions > 0
    assert (len(prompt), True) in woven_at
    assert all(length > PLAN.latents for length, prompt in woven_at if not prompt)


def test_what_is_read_is_counted(trained: Backbone) -> None:
    for one in answers("memgen", trained):
        prompt = TOKENIZER.encode(one.prompt, add_special_tokens=False)
        least = 2 * (len(prompt) + PLAN.latents)
        assert least <= one.cost.prompt_tokens <= least + PLAN.insertions * 3 * PLAN.latents + one.cost.new_tokens
        assert one.cost.write_tokens == 0
        assert one.cost.stored_bytes == answers("full", trained)[0].cost.stored_bytes
        assert (one.notes["weaver"], one.notes["trigger"]) == ("own", "always on, not trained")


def test_a_saved_weaver_is_the_same_beside_memories(trained: Backbone, folder: Path) -> None:
    beside = embedded_backbone(batch=8)
    plain, memory = texts("full", beside), texts("multi", beside)
    weaver = load_weaver(beside.model, folder, "own")
    assert weaver.plan == PLAN
    assert weaver_fingerprint(beside.model, weaver) == weaver_fingerprint(trained.model, own(trained))
    assert (texts("full", beside), texts("multi", beside)) == (plain, memory)
    assert texts("memgen", beside) == texts("memgen", trained) != plain
    with pytest.raises(ValueError, match="needs a LoRA, and none"):
        build_method("context2lora", beside)


def test_a_long_history_leaves_room_for_the_latents(trained: Backbone) -> None:
    method = build_method("memgen", trained)
    method.reset(0)
    method.observe([*ITEM.history] * 20)
    said = method.answer(asks(trained, tokens=12)[:1])[0]
    length = len(TOKENIZER.encode(said.prompt, add_special_tokens=False))
    assert said.notes["cut"]
    assert 300 < length <= 512 - 12 - PLAN.most_latents


def test_folders_that_are_no_weaver_of_this_backbone_are_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"not a weaver of MemGen: it has no memgen.json"):
        load_weaver(tiny.backbone("qwen3"), tmp_path, "own")
    with pytest.raises(ValueError, match="belongs to another backbone: it was trained on the one with the fingerprint"):
        load_weaver(tiny.backbone("qwen3"), folder, "own")
    description = json.loads((folder / "memgen.json").read_text())
    for path in ("memgen.safetensors", "lora/adapter_config.json", "lora/adapter_model.safetensors"):
        (tmp_path / path).parent.mkdir(exist_ok=True)
        (tmp_path / path).write_bytes((folder / path).read_bytes())
    (tmp_path / "memgen.json").write_text(json.dumps({**description, "fingerprint": "0" * 64}))
    with pytest.raises(ValueError, match="do not belong together"):
        load_weaver(load_backbone()[0], tmp_path, "own")
    (tmp_path / "memgen.json").write_text(json.dumps(description))
    (tmp_path / "memgen.safetensors").write_bytes(b"\0" * 20)
    with pytest.raises(ValueError, match=r"memgen.safetensors is damaged"):
        load_weaver(load_backbone()[0], tmp_path, "own")
    (tmp_path / "memgen.json").write_text(json.dumps({**description, "plan": {"latents": 3}}))
    with pytest.raises(ValueError, match=r"no whole plan \('lora'\)"):
        load_weaver(load_backbone()[0], tmp_path, "own")
    del description["plan"]
    (tmp_path / "memgen.json").write_text(json.dumps(description))
    with pytest.raises(ValueError, match="lacks plan"):
        load_weaver(load_backbone()[0], tmp_path, "own")


def test_without_a_weaver_there_is_no_method(backbone: Backbone) -> None:
    with pytest.raises(ValueError, match="needs a weaver, and none"):
        build_method("memgen", backbone)


def test_the_command_trains_what_eval_reads(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("datasets")
    from deltamem.cli.main import main

    folder, run = tmp_path / "memgen", tmp_path / "run"
    recipe = Path(__file__).parents[2] / "recipes/embedded.yaml"
    command = ["baseline", "memgen", str(recipe), "schedule.steps=3", "data.options.steps=3", "--output", str(folder)]
    assert called(main, [*command, "--answers", "4"]) == 0
    assert "3 updates" in capsys.readouterr().out
    assert len(json.loads((folder / "training.json").read_text())["losses"]) == 3
    task = ["eval", "--task", "world", "--limit", "1", "--method", "memgen", "--adapter", f"mine={folder}"]
    assert called(main, [*task, "--dry-run", "--json"]) == 0
    assert '"method": "memgen"' in capsys.readouterr().out
    assert called(main, [*task, "--output", str(run)]) == 0
    assert '"weaver":"mine"' in (run / "records.jsonl").read_text().replace(" ", "")
    assert called(main, [*command, "optimiser.gradient_checkpointing=true"]) == 1
    assert "add optimiser.gradient_checkpointing=false" in capsys.readouterr().err
