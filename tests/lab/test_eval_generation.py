"""The efficiency protocol: what it runs is greedy generation, what it counts is what was used and taken."""

import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any, TypeVar

import pytest
import torch
from transformers import Qwen3Config, Qwen3ForCausalLM

import deltamem
from deltamem.extensions import how_to_install
from deltamem_lab.generation.passes import Peaks, Seconds, greedy, measure_peaks, time_generation
from deltamem_lab.generation.protocol import Case, filler, measure_generation
from deltamem_lab.generation.shapes import SHAPES, random_backbone
from deltamem_lab.generation.sides import Side, sides_of
from deltamem_lab.peak import PeakMemory
from tiny import adapted, backbone, enliven, tokens

T = TypeVar("T")
CPU = torch.device("cpu")
MIB = 2**20


def three_sides() -> list[Side]:
    sides, missing = sides_of(backbone())
    assert not missing
    enliven(sides[1].model)
    with torch.no_grad():
        for name, parameter in sides[2].model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(generator=torch.Generator().manual_seed(5))
    return sides


def test_each_side_generates_what_the_model_itself_does() -> None:
    ids, found = tokens(1, 20), {}
    for side in three_sides():
        side.model.generation_config.eos_token_id = None
        with side.on():
            found[side.name] = torch.cat(list(greedy(side, ids, 9, all_logits=False)), 1)
            expected = side.model.generate(ids, max_new_tokens=9, do_sample=False, pad_token_id=0)
            again = torch.cat(list(greedy(side, ids, 9, all_logits=True)), 1)
        torch.testing.assert_close(found[side.name], expected[:, 20:])
        torch.testing.assert_close(again, found[side.name])
    # So none of them is another in disguise.
    assert len({tuple(row[0].tolist()) for row in found.values()}) == 3


def test_the_sides_share_the_backbones_weights_and_count_their_own() -> None:
    bare, memory, lora = three_sides()
    own = {parameter.data_ptr() for parameter in bare.model.parameters()}
    for side in (memory, lora):
        others = [parameter for parameter in side.model.parameters() if parameter.data_ptr() not in own]
        assert sum(parameter.nbytes for parameter in others) == side.adapter_bytes > 0
    assert bare.adapter_bytes == 0
    with pytest.raises(ValueError, match="carries no memory"):
        deltamem.attached(bare.model)


def test_an_adapter_that_writes_segments_is_read_from_its_folder(tmp_path: Path) -> None:
    deltamem.save_adapter(adapted(write="message", states=2), tmp_path)
    sides, _ = sides_of(backbone(), str(tmp_path))
    assert deltamem.attached(sides[1].model).config.states == 2
    assert time_generation(sides[1], tokens(1, 12), 3, all_logits=False).decode > 0


def test_without_peft_the_lora_is_left_out_with_the_way_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "peft", None)
    sides, missing = sides_of(backbone())
    assert [side.name for side in sides] == ["bare", "delta-mem"]
    assert how_to_install("lora") in missing


@pytest.fixture(scope="module")
def alone() -> Iterator[Callable[[Callable[[], T]], T]]:
    """Runs a function of this module in a process of its own, as the command has one.

    The peak is resident memory: a heap in which thousands of tests have left holes would count with it.
    """
    if reason := PeakMemory(CPU).reason:
        pytest.skip(reason)
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        yield lambda work: pool.submit(work).result()


def increases() -> list[float]:
    """Peaks in MiB: three tensors of 32 MiB one after another, two of 16 MiB at once, and nothing."""
    memory = PeakMemory(CPU)
    torch.set_num_threads(1)

    def increase(work: Callable[[], Any]) -> float:
        work()  # what a process loads once is no part of the peak
        with memory.exact():
            memory.start()
            work()
            return (memory.increase() or 0) / MIB

    def one_after_another() -> None:
        for _ in range(3):
            torch.ones(32 * MIB // 4)

    return [
        increase(one_after_another),
        increase(lambda: [torch.ones(16 * MIB // 4), torch.ones(16 * MIB // 4)]),
        increase(lambda: None),
    ]


def test_a_peak_is_what_was_held_at_once_and_begins_anew(alone: Callable[[Callable[[], T]], T]) -> None:
    one_after_another, both_at_once, nothing = alone(increases)
    assert one_after_another == pytest.approx(32, abs=4)
    assert both_at_once == pytest.approx(32, abs=4)
    assert nothing < 4


def peaks_of_three_sides() -> list[tuple[Peaks, Peaks]]:
    """Each side's peaks over a prompt of 400 tokens, with the logits of its last token and of all of them."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    config = Qwen3Config(
        vocab_size=40_000,
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=8,
    )
    sides, _ = sides_of(Qwen3ForCausalLM(config).eval())
    ids, memory, found = filler(400, sides[0].model), PeakMemory(CPU), []
    for side in sides:
        time_generation(side, ids, 2, all_logits=True)
        last, every = (measure_peaks(side, ids, 3, memory, all_logits=wanted) for wanted in (False, True))
        found.append((last, every))
    return found


def test_logits_of_the_whole_prompt_cost_every_side_prompt_times_vocabulary(
    alone: Callable[[Callable[[], T]], T],
) -> None:
    sides = alone(peaks_of_three_sides)
    assert len(sides) == 3
    for last, every in sides:
        assert last.prefill is not None
        assert every.prefill is not None
        assert (every.prefill - last.prefill) / MIB == pytest.approx(400 * 40_000 * 4 / MIB, rel=0.1)
        assert every.generate is not None
        assert every.generate >= every.prefill


def test_speeds_follow_from_the_times() -> None:
    case = Case(100, 5, "bare", Peaks(None, None), (Seconds(1.0, 2.0), Seconds(3.0, 2.0)), {})
    assert case.tokens_per_second == {"prefill_only": 50, "decode_only": 2, "full_generate": 1.25}


def test_all_sides_meet_every_pair_of_lengths_that_fits() -> None:
    told: list[str] = []
    outcome = measure_generation(three_sides(), [16, 250], [3, 6], runs=2, tell=told.append)
    names = ("bare", "delta-mem", "lora")
    expected = [(prompt, decode, name) for prompt, decode in ((16, 3), (16, 6), (250, 3), (250, 6)) for name in names]
    assert [(case.prompt, case.decode, case.side) for case in outcome.cases] == expected
    assert outcome.skipped == ()
    assert len(told) == 4
    assert all(len(case.seconds) == 2 and min(*case.seconds[0], *case.seconds[1]) > 0 for case in outcome.cases)
    assert all(set(case.times_bare.values()) == {1.0} for case in outcome.cases if case.side == "bare")
    shorter = measure_generation(three_sides()[:1], [16, 250], [7], runs=1)
    assert ([case.prompt for case in shorter.cases], shorter.skipped) == ([16], ((250, 7),))
    assert shorter.window == 256


@pytest.mark.parametrize(
    ("numbers", "message"),
    [
        ({"prompts": [300]}, "fits the window of 256 tokens"),
        ({"decodes": [1]}, "decode must be at least 2, not 1"),
        ({"prompts": []}, "prompt must be at least 1"),
        ({"runs": 0}, "runs must be at least 1"),
    ],
)
def test_impossible_numbers_are_refused(numbers: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        measure_generation([Side("bare", backbone())], **{"prompts": [8], "decodes": [2], **numbers})


def test_the_shapes_are_those_of_the_published_models() -> None:
    published = {"qwen3-0.6b": 596_049_920, "qwen3-4b": 4_022_468_096, "qwen3-8b": 8_190_735_360}
    published["smollm3-3b"] = 3_075_098_624
    for name, parameters in published.items():
        model = random_backbone(name, torch.device("meta"), torch.bfloat16)
        assert sum(parameter.numel() for parameter in model.parameters()) == parameters
    assert set(SHAPES) == {*published, "small"}
    with pytest.raises(ValueError, match=r"no shape 'large'; there are: qwen3-0\.6b"):
        random_backbone("large", CPU, torch.float32)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_a_gpu_time_and_memory_are_the_devices() -> None:
    sides, _ = sides_of(random_backbone("small", torch.device("cuda"), torch.bfloat16))
    last, every = (measure_generation(sides, [512], [4], runs=1, all_logits=wanted) for wanted in (False, True))
    for one, other in zip(last.cases, every.cases, strict=True):
        assert min(one.seconds[0]) > 0
        grown = (other.peaks.prefill or 0) - (one.peaks.prefill or 0)
        assert grown == pytest.approx(512 * 151_936 * 2, rel=0.1)
