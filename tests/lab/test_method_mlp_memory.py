"""The MLP learns what follows the nearest states, is mixed in by the formula, and leaves the backbone as it was."""

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from asking import ITEM, asks, called
from safetensors.torch import load_file, save_file

import tiny
from deltamem.demo.backbone import load_backbone
from deltamem_lab.backbone import Backbone
from deltamem_lab.loading import embedded_backbone
from deltamem_lab.methods import build_method
from deltamem_lab.methods.mlp_memory.datastore import Datastore, build_datastore, knn_targets, nearest_keys
from deltamem_lab.methods.mlp_memory.files import (
    CONFIG_FILE,
    TENSOR_FILE,
    is_mlp_memory,
    load_memory,
    memories,
    save_memory,
)
from deltamem_lab.methods.mlp_memory.learning import MlpPlan, fit_memory, measure_memory, memory_loss
from deltamem_lab.methods.mlp_memory.method import mixing, mixture
from deltamem_lab.methods.mlp_memory.network import MlpShape, feed_forward, fresh_memory, reading, without_weights

IDS = tiny.tokens(2, 12)
SHAPE = {"hidden": 128, "intermediate": 256, "vocabulary": 3072, "blocks": 1, "layer": -1, "bias": False}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An MLP of the embedded backbone that says one token only, and makes up nine tenths of the mixture."""
    model, _ = load_backbone()
    memory = fresh_memory(model, blocks=1)
    memory.head.weight[50] += 10 * memory.head.weight.abs().max() * torch.sign(memory.head.weight[50])
    path = tmp_path_factory.mktemp("mlp")
    save_memory(memory, path, model, share=0.9, base="embedded")
    return path


def line(*places: float) -> Datastore:
    """Keys on a line, each followed by the token of its number."""
    return Datastore(torch.tensor(places, dtype=torch.float32)[:, None], torch.arange(len(places)))


def texts(name: str, backbone: Backbone) -> list[str]:
    method = build_method(name, backbone)
    method.reset(0)
    method.observe(ITEM.history)
    return [one.text for one in method.answer(asks(backbone, tokens=8))]


def test_targets_are_those_computed_by_hand() -> None:
    targets = knn_targets(line(0, 1, 3), 4, neighbours=2, temperature=2.0)
    near, far = math.exp(-1 / 2), math.exp(-9 / 2)
    first = torch.tensor([0, near / (near + far), far / (near + far), 0])
    torch.testing.assert_close(targets.dense(torch.tensor([0]), 4)[0], first)
    rows = torch.tensor([2, 0])
    dense = targets.dense(rows, 4)
    torch.testing.assert_close(dense[1], first)
    torch.testing.assert_close(dense.sum(1), torch.ones(2))
    one = knn_targets(line(0, 1, 3), 4, neighbours=1, temperature=2.0)
    assert one.dense(torch.arange(3), 4).argmax(1).tolist() == [1, 0, 1]


def test_neighbours_that_are_followed_alike_count_together() -> None:
    store = Datastore(torch.tensor([[0.0], [1.0], [-1.0], [1.0]]), torch.tensor([3, 2, 2, 1]))
    found = knn_targets(store, 4, neighbours=3, temperature=5.0).dense(torch.tensor([0]), 4)[0]
    torch.testing.assert_close(found, torch.tensor([0, 1 / 3, 2 / 3, 0]))


def test_no_key_finds_itself_but_its_double() -> None:
    targets = knn_targets(line(0, 0, 50), 3, neighbours=2, temperature=1.0)
    torch.testing.assert_close(targets.dense(torch.tensor([0, 1]), 3), torch.eye(3)[[1, 0]])


def test_the_search_is_exact_whatever_the_blocks() -> None:
    keys = torch.randn(23, 5, generator=torch.Generator().manual_seed(0))
    distances = torch.cdist(keys, keys).square().fill_diagonal_(torch.inf)
    wanted, places = distances.sort(1)
    for rows in (1, 4, 50):
        blocks = list(nearest_keys(keys, 6, rows=rows))
        torch.testing.assert_close(torch.cat([found for found, _ in blocks]), wanted[:, :6], rtol=1e-4, atol=1e-4)
        assert torch.equal(torch.cat([place for _, place in blocks]), places[:, :6])
    assert next(iter(nearest_keys(keys, 1000, rows=50)))[0].shape == (23, 22)


def test_the_loss_has_both_its_terms() -> None:
    logits = torch.tensor([[0.0, math.log(3)], [0.0, 0.0]])
    targets, following = torch.tensor([[0.5, 0.5], [1.0, 0.0]]), torch.tensor([1, 0])
    found = memory_loss(logits, targets, following)
    kl = (0.5 * math.log(0.5 / 0.25) + 0.5 * math.log(0.5 / 0.75) + math.log(1 / 0.5)) / 2
    ce = -(math.log(0.75) + math.log(0.5)) / 2
    assert found.imitation.item() == pytest.approx(kl)
    assert found.following.item() == pytest.approx(ce)
    assert found.total(0.25).item() == pytest.approx(0.25 * kl + 0.75 * ce)


def test_the_mixture_is_that_of_probabilities() -> None:
    ours, theirs = torch.randn(2, 3, 7, generator=torch.Generator().manual_seed(1)).unbind(0)
    mixed = 0.75 * ours.softmax(-1) + 0.25 * theirs.softmax(-1)
    torch.testing.assert_close(mixture(ours, theirs, 0.25).exp(), mixed)
    torch.testing.assert_close(mixture(ours, theirs, 0.0), ours.log_softmax(-1))
    torch.testing.assert_close(mixture(ours, theirs, 1.0), theirs.log_softmax(-1))


def test_a_model_gives_the_mixture_inside_and_its_own_logits_outside() -> None:
    model = tiny.backbone()
    memory = fresh_memory(model, blocks=2)
    with torch.no_grad():
        bare = model(IDS).logits
        with reading(model, -1) as held:
            model(IDS)
        wanted = mixture(bare, memory(held[0]), 0.25)
        assert not torch.allclose(wanted, bare.log_softmax(-1), atol=1e-2)
        with mixing(model, memory, 0.0):
            assert torch.equal(model(IDS).logits, bare)
        with mixing(model, memory, 0.25):
            torch.testing.assert_close(model(IDS).logits, wanted)
            torch.testing.assert_close(model(IDS, logits_to_keep=2).logits, wanted[:, -2:])
            columns = torch.tensor([3, 7])
            torch.testing.assert_close(model(IDS, logits_to_keep=columns).logits, wanted[:, columns])
        assert torch.equal(model(IDS).logits, bare)


def test_decoding_follows_the_mixture_token_by_token() -> None:
    model = tiny.backbone()
    memory = fresh_memory(model, blocks=1, seed=5)
    for parameter in memory.parameters():
        parameter.mul_(5)
    ids = IDS[:1]
    with torch.no_grad(), mixing(model, memory, 0.6):
        said = model.generate(ids, max_new_tokens=5, min_new_tokens=5, do_sample=False)
        for _ in range(5):
            logits = model(ids).logits[:, -1]
            logits[:, 2] = -torch.inf
            ids = torch.cat([ids, logits.argmax(-1, keepdim=True)], 1)
    assert torch.equal(said, ids)
    assert not torch.equal(said, model.generate(IDS[:1], max_new_tokens=5, min_new_tokens=5, do_sample=False))


@pytest.mark.parametrize("family", sorted(tiny.CONFIGS))
def test_every_family_has_its_states_read(family: str) -> None:
    model = tiny.backbone(family)
    with torch.no_grad(), reading(model, 1) as held:
        model(IDS)
    assert held[0].shape == (2, 12, 32)
    with torch.no_grad(), mixing(model, fresh_memory(model, blocks=1, layer=1), 0.5):
        assert torch.isfinite(model(IDS).logits).all()


def test_a_block_that_is_not_there_is_refused() -> None:
    model = tiny.backbone()
    assert feed_forward(model, -1) is feed_forward(model, 2)
    with pytest.raises(ValueError, match="no block 3: this backbone has 3"):
        feed_forward(model, 3)


def test_a_datastore_has_each_context_once_and_what_follows() -> None:
    model = tiny.backbone()
    history, other = IDS.tolist()
    passes = [[[*history, 5, 6], [*history, 7, 8, 9], other[:4]], [other]]
    store = build_datastore(model, passes, layer=-1, size=1000)
    assert store.values.tolist() == [*history[1:], 5, 6, 7, 8, 9, *other[1:4], *other[4:]]
    with torch.no_grad(), reading(model, -1) as held:
        model(IDS[1:])
    torch.testing.assert_close(store.keys[-11:], held[0][0, :-1], rtol=1e-4, atol=1e-4)
    few = build_datastore(model, passes, layer=-1, size=14)
    assert torch.equal(few.values, store.values[:14])
    with pytest.raises(ValueError, match="too short"):
        build_datastore(model, [[[4]], []], layer=-1, size=10)


def test_its_size_is_that_of_the_published_one() -> None:
    published = without_weights(MlpShape(hidden=2560, intermediate=9728, vocabulary=151_936, blocks=36))
    assert sum(parameter.numel() for parameter in published.parameters()) == 3_078_648_320


def test_training_brings_the_mlp_to_its_neighbours() -> None:
    model, tokenizer = load_backbone()
    said = [str(question.text) + " " + str(entry["content"]) for entry in ITEM.history for question in ITEM.questions]
    weights = {name: weight.clone() for name, weight in model.named_parameters()}
    store = build_datastore(model, [tokenizer(said)["input_ids"]], layer=-1, size=120)
    memory = fresh_memory(model, blocks=1)
    targets = knn_targets(store, memory.shape.vocabulary, neighbours=8, temperature=16.0)
    before = measure_memory(memory, store, targets)
    losses = fit_memory(memory, store, targets, MlpPlan(rate=4e-3, steps=40, batch=60))
    after = measure_memory(memory, store, targets)
    assert losses[0] == pytest.approx(before.total(0.5).item(), rel=0.3)
    assert losses[-1] < 0.5 * losses[0]
    assert after.imitation < 0.3 * before.imitation
    assert after.following < 0.5 * before.following
    assert all(torch.equal(weight, weights[name]) for name, weight in model.named_parameters())
    assert not any(parameter.requires_grad for parameter in memory.parameters())


def test_only_the_method_that_asks_hears_the_mlp(folder: Path) -> None:
    own = embedded_backbone(batch=8)
    plain, memory = texts("full", own), texts("multi", own)
    with pytest.raises(ValueError, match="needs an MLP memory, and none"):
        build_method("mlp_memory", own)
    load_memory(own.model, folder, "mine")
    mixed = texts("mlp_memory", own)
    assert mixed != plain
    assert (texts("full", own), texts("multi", own)) == (plain, memory)
    loaded = memories(own.model)
    loaded["mine"] = replace(loaded["mine"], share=0.0)
    assert texts("mlp_memory", own) == plain


def test_a_saved_mlp_is_the_same(folder: Path) -> None:
    model, _ = load_backbone()
    load_memory(model, folder, "mine")
    loaded = memories(model)["mine"]
    saved = load_file(folder / TENSOR_FILE)
    assert all(torch.equal(tensor, saved[name]) for name, tensor in loaded.memory.state_dict().items())
    assert loaded.share == 0.9
    assert json.loads((folder / CONFIG_FILE).read_text())["base_model"] == "embedded"
    with pytest.raises(ValueError, match="'mine' already"):
        load_memory(model, folder, "mine")


def test_what_does_not_belong_is_refused(folder: Path, tmp_path: Path) -> None:
    model, _ = load_backbone()
    assert not is_mlp_memory(tmp_path)
    with pytest.raises(ValueError, match="not an MLP memory"):
        load_memory(model, tmp_path, "mine")
    with pytest.raises(ValueError, match="another backbone: it was trained on embedded"):
        load_memory(tiny.backbone(), folder, "mine")
    model.model.norm.weight.data[0] += 1
    with pytest.raises(ValueError, match="another backbone"):
        load_memory(model, folder, "mine")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format_version": 2}, "not of the format"),
        ({"shape": {"hidden": 128}}, "no whole shape"),
        ({"share": 2}, "between 0 and 1"),
        ({"sha256": "0"}, "not the one that"),
        ({"shape": {**SHAPE, "hidden": 64}}, "another shape"),
    ],
)
def test_damaged_files_are_refused(folder: Path, tmp_path: Path, change: dict[str, object], message: str) -> None:
    model, _ = load_backbone()
    found = json.loads((folder / CONFIG_FILE).read_text())
    (tmp_path / CONFIG_FILE).write_text(json.dumps(found | change))
    save_file(load_file(folder / TENSOR_FILE), tmp_path / TENSOR_FILE)
    with pytest.raises(ValueError, match=message):
        load_memory(model, tmp_path, "mine")
    (tmp_path / CONFIG_FILE).write_text("{")
    with pytest.raises(ValueError, match="not valid JSON"):
        load_memory(model, tmp_path, "mine")
    (tmp_path / CONFIG_FILE).write_text(json.dumps(found))
    (tmp_path / TENSOR_FILE).write_bytes(b"no tensors")
    with pytest.raises(ValueError, match="damaged"):
        load_memory(model, tmp_path, "mine")


def test_the_command_trains_what_eval_reads(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("datasets")
    from deltamem.cli.main import main

    folder, run = tmp_path / "mlp", tmp_path / "run"
    recipe = str(Path(__file__).parents[2] / "recipes/embedded.yaml")
    few = ["--size", "300", "--steps", "4", "--blocks", "1"]
    assert called(main, ["baseline", "mlp-memory", recipe, "data.options.steps=20", *few, "--output", str(folder)]) == 0
    assert "300 keys, 4 updates" in capsys.readouterr().out
    assert called(main, ["baseline", "mlp-memory", recipe, "--temperature", "0"]) == 2
    assert "above 0" in capsys.readouterr().err
    assert len(json.loads((folder / "training.json").read_text())["losses"]) == 4
    task = ["eval", "--task", "world", "--limit", "1", "--method", "mlp_memory", "--adapter", str(folder)]
    assert called(main, [*task, "--dry-run", "--json"]) == 0
    assert '"method": "mlp_memory"' in capsys.readouterr().out
    assert called(main, [*task, "--output", str(run)]) == 0
    assert '"mlp_memory":"mlp"' in (run / "records.jsonl").read_text().replace(" ", "")
