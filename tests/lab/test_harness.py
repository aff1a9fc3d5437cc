"""The model as lm-evaluation-harness sees it, with the embedded backbone and its adapters."""

import pytest
import torch

import deltamem
from deltamem.demo.adapters import load_demo_adapter
from deltamem.demo.backbone import load_backbone
from deltamem_lab.harness.run import _metadata, run_harness

pytest.importorskip("lm_eval")
pytestmark = pytest.mark.filterwarnings("ignore")

from lm_eval.api.instance import Instance  # noqa: E402

from deltamem_lab.harness.model import MemoryLM  # noqa: E402

PAIRS = [("I live in", " Oslo."), ("My cat is called Mina and she", " sleeps a lot.")]


def instances(kind, arguments):
    return [Instance(kind, {}, pair, number) for number, pair in enumerate(arguments)]


@pytest.fixture(scope="module")
def adapted():
    model, tokenizer = load_backbone()
    load_demo_adapter(model, "token")
    return model, tokenizer


def direct(model, tokenizer, state, pair):
    """The log-likelihood of a continuation, from the model itself."""
    prompt, whole = (tokenizer(text, return_tensors="pt").input_ids for text in (pair[0], "".join(pair)))
    step = deltamem.Step(state)
    with torch.no_grad():
        logs = model(whole[:, :-1], memory=step).logits.log_softmax(-1)[0, prompt.shape[1] - 1 :]
    return float(logs.gather(1, whole[0, prompt.shape[1] :, None]).sum())


@pytest.mark.parametrize("told", ["", "I live in Oslo."])
def test_likelihoods_are_the_models_own_from_the_given_memory(adapted, told):
    model, tokenizer = adapted
    state = deltamem.new_state(model)
    if told:
        state = deltamem.observe(model, tokenizer(told, return_tensors="pt").input_ids, state)
    lm = MemoryLM(model, tokenizer, batch_size=2, state=state)
    found = [score for score, _ in lm.loglikelihood(instances("loglikelihood", PAIRS), disable_tqdm=True)]
    expected = [direct(model, tokenizer, state, pair) for pair in PAIRS]
    assert found == pytest.approx(expected, abs=1e-3)


@pytest.mark.parametrize("which", [None, "token", "segment"])
def test_batches_generate_what_single_requests_do(which):
    model, tokenizer = load_backbone()
    if which:
        load_demo_adapter(model, which)
    requests = [(text, {"until": [], "max_gen_toks": 6, "do_sample": False}) for text, _ in PAIRS]
    batched, single = (
        MemoryLM(model, tokenizer, batch_size=size).generate_until(
            instances("generate_until", requests), disable_tqdm=True
        )
        for size in (2, 1)
    )
    assert batched == single
    assert all(batched)


def test_a_memory_needs_an_adapter_and_one_row(adapted):
    model, tokenizer = adapted
    with pytest.raises(ValueError, match="one row, not 2"):
        MemoryLM(model, tokenizer, state=deltamem.new_state(model, 2))
    with pytest.raises(ValueError, match="no active adapter"):
        MemoryLM(*load_backbone(), state=deltamem.new_state(model))


def test_ruler_measures_its_texts_by_the_models_own_tokenizer(adapted, tmp_path):
    from lm_eval.tasks.ruler.common_utils import get_tokenizer, resolve_tokenizer_name

    told = _metadata("niah_single_1", (4096, 8192), adapted[1], tmp_path)
    found = get_tokenizer(resolve_tokenizer_name(told))
    assert found("I live in Oslo.").input_ids == adapted[1]("I live in Oslo.").input_ids
    assert told["max_seq_lengths"] == [4096, 8192]
    told = _metadata("babilong_qa1", (4096,), adapted[1], tmp_path)
    assert told["max_seq_lengths"] == "4k"
    with pytest.raises(ValueError, match="one length at a time"):
        _metadata("babilong_qa1", (4096, 8192), adapted[1], tmp_path)


def test_a_task_whose_data_is_on_the_hub_says_so_where_there_is_none(adapted, monkeypatch):
    def offline(*args, **options):
        raise ConnectionError("no route")

    monkeypatch.setattr("datasets.load_dataset", offline)
    with pytest.raises(OSError, match=r"could not get what babilong_qa1 reads.*on the Hub.*no route.*--data"):
        run_harness(*adapted, "babilong_qa1", limit=1)


def test_a_file_that_is_not_there_is_refused(adapted, tmp_path):
    with pytest.raises(ValueError, match="no such file"):
        run_harness(*adapted, "ifeval", data=tmp_path / "missing")
