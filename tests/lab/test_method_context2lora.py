"""A LoRA is on where it is asked for, learns what it is fitted to, and leaves everything else as it was."""

from itertools import pairwise
from pathlib import Path

import pytest
import torch
from asking import ITEM, asks, called
from transformers import PreTrainedModel

import tiny
from deltamem.demo.backbone import load_backbone
from deltamem_lab.backbone import Backbone, Generated
from deltamem_lab.interface import as_messages
from deltamem_lab.loading import embedded_backbone
from deltamem_lab.methods import build_method
from deltamem_lab.methods.context2lora import FITTED, AskedLora, FittedLora, asked_and_answered
from deltamem_lab.methods.lora import (
    LoraPlan,
    add_lora,
    fit_lora,
    load_lora,
    lora_bytes,
    lora_fingerprint,
    loras,
    save_lora,
    using_lora,
)
from deltamem_lab.methods.training import TokenRows, next_token_loss

pytest.importorskip("peft")

IDS = list(range(40, 90))
PLAN = LoraPlan(rate=5e-3, steps=12, seed=1)


@pytest.fixture(scope="module")
def own() -> Backbone:
    """A backbone with memories whose LoRAs no other test sees."""
    return embedded_backbone(batch=8)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A LoRA that was fitted to a row of tokens, on the bare backbone."""
    model, _ = load_backbone()
    add_lora(model, "own", PLAN)
    losses = fit_lora(model, "own", [[rows()]] * PLAN.steps, PLAN)
    assert losses[-1] < 0.7 * losses[0]
    path = tmp_path_factory.mktemp("lora")
    save_lora(model, path, "own", PLAN)
    return path


def rows() -> TokenRows:
    return TokenRows.pad([(IDS, [1.0] * len(IDS))])


def loss(model: PreTrainedModel) -> float:
    with torch.no_grad():
        return next_token_loss(model, rows()).item()


def texts(name: str, backbone: Backbone) -> list[str]:
    method = build_method(name, backbone)
    method.reset(0)
    method.observe(ITEM.history)
    return [one.text for one in method.answer(asks(backbone))]


def test_weights_and_padding_count_as_they_should() -> None:
    model, _ = load_backbone()
    short, long = ([50, 60, 70], [0.0, 0.0, 1.0]), (IDS, [0.0] * 49 + [3.0])
    apart = [next_token_loss(model, TokenRows.pad([one])).item() for one in (short, long)]
    together = next_token_loss(model, TokenRows.pad([short, long])).item()
    assert together == pytest.approx((apart[0] + 3 * apart[1]) / 4, rel=1e-4)


def test_a_fresh_lora_changes_nothing_and_a_fitted_one_only_where_it_is_on() -> None:
    model, _ = load_backbone()
    before = loss(model)
    weights = {name: weight.clone() for name, weight in model.named_parameters()}
    add_lora(model, "one", PLAN)
    with using_lora(model, "one"):
        assert loss(model) == before
    fit_lora(model, "one", [[rows()]] * PLAN.steps, PLAN)
    assert loss(model) == before
    with using_lora(model, "one"):
        assert loss(model) < 0.7 * before
    for name, weight in model.named_parameters():
        if "lora_" not in name:
            assert torch.equal(weight, weights[name.replace(".base_layer", "")])
    with pytest.raises(ValueError, match="'one' already"):
        add_lora(model, "one", PLAN)


def test_an_update_in_two_passes_is_the_same() -> None:
    texts = [(IDS, [1.0] * 50), (IDS[20:], [0.0] * 10 + [2.0] * 20)]
    prints = []
    for passes in ([TokenRows.pad(texts)], [TokenRows.pad([text]) for text in texts]):
        model, _ = load_backbone()
        add_lora(model, "one", PLAN)
        losses = fit_lora(model, "one", [passes] * 3, LoraPlan(rate=1e-3, steps=3))
        with using_lora(model, "one"):
            prints.append((losses, loss(model)))
    assert prints[0][0] == pytest.approx(prints[1][0], rel=1e-4)
    assert prints[0][1] == pytest.approx(prints[1][1], rel=1e-4)


def test_its_size_is_that_of_the_published_one() -> None:
    model, _ = load_backbone()
    add_lora(model, "one", LoraPlan())
    layer = 8 * (128 + 128) + 2 * 8 * (128 + 64) + 8 * (128 + 128)
    assert lora_bytes(model, "one") == 4 * 6 * layer


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
def test_a_saved_lora_is_what_peft_reads(folder: Path) -> None:
    from peft import PeftModel

    model, _ = load_backbone()
    theirs = loss(PeftModel.from_pretrained(model, str(folder)).eval())
    ours, _ = load_backbone()
    bare = loss(ours)
    load_lora(ours, folder, "own")
    assert loss(ours) == bare
    with using_lora(ours, "own"):
        assert loss(ours) == pytest.approx(theirs, rel=1e-5)
        assert loss(ours) < 0.7 * bare


def test_a_lora_beside_memories_is_the_same(own: Backbone, folder: Path) -> None:
    bare, _ = load_backbone()
    load_lora(bare, folder, "own")
    plain, memory = texts("full", own), texts("multi", own)
    load_lora(own.model, folder, "own")
    assert (texts("full", own), texts("multi", own)) == (plain, memory)
    assert lora_fingerprint(bare, "own") == lora_fingerprint(own.model, "own")
    with own.using(None), using_lora(own.model, "own"), using_lora(bare, "own"):
        assert loss(own.model) == pytest.approx(loss(bare), rel=1e-5)
    for name, weight in own.model.named_parameters():
        if "lora_B" in name:
            weight.data *= 30
    assert texts("context2lora", own) != plain
    assert texts("full", own) == plain


def test_a_lora_of_another_backbone_is_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="another backbone"):
        load_lora(tiny.backbone("qwen3"), folder, "own")
    with pytest.raises(ValueError, match="not a LoRA of PEFT"):
        load_lora(tiny.backbone("qwen3"), tmp_path, "own")


def test_a_lora_is_fitted_to_each_history_and_forgets_it(own: Backbone) -> None:
    method = FittedLora("fitted", own, LoraPlan(rate=1e-2, steps=40, batch=1))
    method.reset(0)
    none = texts("none", own)
    assert [one.text for one in method.answer(asks(own))] == none
    method.observe(ITEM.history)
    said = method.answer(asks(own))
    length = own.length(as_messages(ITEM.history))
    assert [one.text for one in said] != none
    assert said[0].notes["loss_after"] < 0.5 * said[0].notes["loss_before"]
    assert said[0].cost.write_tokens == pytest.approx(40 * length, rel=0.1)
    assert said[0].cost.stored_bytes == lora_bytes(own.model, FITTED)
    assert texts("none", own) == none
    method.reset(0)
    again = method.answer(asks(own))
    assert [one.text for one in again] == none
    assert again[0].cost.write_tokens == 0
    method.observe(ITEM.history)
    assert [one.text for one in method.answer(asks(own))] == [one.text for one in said]


def test_long_histories_are_fitted_in_pieces_that_overlap(own: Backbone) -> None:
    method = FittedLora("fitted", own)
    pieces = method._pieces([{"role": "user", "content": "the city of words " * 300}])
    assert len(pieces) >= 3
    assert all(len(piece) <= 512 for piece in pieces)
    assert all(one[-51:] == other[:51] for one, other in pairwise(pieces))


def test_without_a_lora_there_is_no_static_one(backbone: Backbone) -> None:
    assert loras(backbone.model) == ()
    with pytest.raises(ValueError, match="needs a LoRA, and none"):
        build_method("context2lora", backbone)


def test_the_command_trains_what_eval_reads(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("datasets")
    from deltamem.cli.main import main

    folder, run = tmp_path / "lora", tmp_path / "run"
    recipe = Path(__file__).parents[2] / "recipes/embedded.yaml"
    changes = ["schedule.steps=3", "data.options.steps=3"]
    assert called(main, ["baseline", "lora", str(recipe), *changes, "--rate", "1e-2", "--output", str(folder)]) == 0
    assert "3 updates" in capsys.readouterr().out
    task = ["eval", "--task", "world", "--limit", "1", "--method", "context2lora", "--adapter", f"mine={folder}"]
    assert called(main, [*task, "--dry-run", "--json"]) == 0
    assert '"method": "context2lora"' in capsys.readouterr().out
    assert called(main, [*task, "--output", str(run)]) == 0
    assert '"lora":"mine"' in (run / "records.jsonl").read_text().replace(" ", "")


def test_a_lora_is_fitted_to_the_questions_that_the_backbone_writes(
    own: Backbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The embedded backbone writes none; what a larger one writes stands in for it here."""
    method = AskedLora("context2lora_asked", own, LoraPlan(rate=2e-2, steps=6, batch=1))
    question = ITEM.questions[0]
    wanted = [one for one in asks(own) if one.question is question]
    monkeypatch.setattr("deltamem_lab.methods.context2lora._WRITTEN", 8)
    method.reset(0)
    method.observe(ITEM.history[:1])
    (alone,) = method.answer(wanted)
    assert alone.notes["questions"] == 0
    assert alone.text == build_method("none", own).answer(wanted)[0].text
    generate = own.generate

    def writes(prompts, *arguments, **options):  # type: ignore[no-untyped-def]
        if "Write four short questions" not in prompts[0][-1]["content"]:
            return generate(prompts, *arguments, **options)
        assert ITEM.history[0]["content"] in prompts[0][-1]["content"]  # type: ignore[index]
        text = f"Question: {question.text}\nAnswer: zebra"
        return [Generated(text, "", 100, 9) for _ in prompts]

    monkeypatch.setattr(own, "generate", writes)
    method.reset(0)
    method.observe(ITEM.history[:1])
    (asked,) = method.answer(wanted)
    assert asked.notes["questions"] == 1
    assert asked.notes["loss_after"] < 0.5 * asked.notes["loss_before"]
    assert asked.cost.write_tokens > 109


def test_questions_are_read_in_the_form_asked_for() -> None:
    text = "Here:\n**Question 1:** Where is she?\n**Answer:** In Oslo.\n\nQuestion: Who?\nAnswer: Ada\nQuestion: lost\n"
    assert asked_and_answered(text) == [("Where is she?", "In Oslo."), ("Who?", "Ada")]
    assert asked_and_answered("I cannot.") == []
