import random
from typing import Any

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st

from deltamem.serve.engine.sampling import Sampling, choose

LOGITS = torch.log(torch.tensor([[0.5, 0.3, 0.15, 0.05]]))


def shares(sampling: Sampling, draws: int = 4000) -> list[float]:
    rows = [(sampling, random.Random(seed)) for seed in range(draws)]
    chosen = [choice.token for choice in choose(LOGITS.expand(draws, -1), rows)]
    return [chosen.count(token) / draws for token in range(4)]


@pytest.mark.parametrize(
    ("sampling", "expected"),
    [
        (Sampling(temperature=1), [0.5, 0.3, 0.15, 0.05]),
        (Sampling(temperature=1, top_p=0.79), [0.625, 0.375, 0, 0]),
        (Sampling(temperature=1, top_p=0.0001), [1, 0, 0, 0]),
        (Sampling(temperature=0.5), [0.685, 0.247, 0.062, 0.007]),
        (Sampling(temperature=1e-9), [1, 0, 0, 0]),
        (Sampling(temperature=0), [1, 0, 0, 0]),
        (Sampling(temperature=1, top_k=2), [0.625, 0.375, 0, 0]),
        (Sampling(temperature=1, top_k=1), [1, 0, 0, 0]),
        (Sampling(temperature=1, min_p=0.25), [0.526, 0.316, 0.158, 0]),
        (Sampling(temperature=1, top_k=3, top_p=0.6), [0.625, 0.375, 0, 0]),
    ],
)
def test_tokens_come_with_their_probabilities(sampling: Sampling, expected: list[float]) -> None:
    assert shares(sampling) == pytest.approx(expected, abs=0.03)
    assert all((share == 0) == (wanted == 0) for share, wanted in zip(shares(sampling), expected, strict=True))


@given(
    st.lists(st.floats(-50, 50), min_size=2, max_size=9),
    st.floats(0, 2),
    st.floats(0.01, 1),
    st.integers(0, 2**32),
)
@example([0.0, 1.0], 1.0, 1.0, 0)  # drawing from all tokens beside one that draws from a nucleus
def test_a_row_draws_the_same_beside_any_others(
    logits: list[float], temperature: float, top_p: float, seed: int
) -> None:
    sampling = Sampling(temperature=temperature, top_p=top_p, seed=seed)
    row = torch.tensor([logits])
    other = Sampling(temperature=1.7, top_p=0.3)
    (alone,) = choose(row, [(sampling, sampling.draws())])
    beside = choose(row.expand(3, -1), [(other, other.draws()), (sampling, sampling.draws()), (other, other.draws())])
    assert beside[1].token == alone.token
    assert 0 <= alone.token < len(logits)


def test_logits_that_are_no_numbers_still_choose_a_token() -> None:
    row = torch.full((2, 5), torch.nan)
    how = Sampling(temperature=1, top_p=0.5)
    assert all(0 <= c.token < 5 for c in choose(row, [(how, how.draws())] * 2))


@pytest.mark.parametrize(
    "wrong",
    [
        {"max_tokens": 0},
        {"temperature": -1},
        {"temperature": 3},
        {"top_p": 0},
        {"top_k": -1},
        {"min_p": 1.1},
        {"repetition_penalty": 0},
        {"stop": ("",)},
        {"logprobs": 21},
    ],
)
def test_values_out_of_range_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError):  # noqa: PT011
        Sampling(**wrong)  # type: ignore[arg-type]


def test_what_has_come_already_is_penalised_and_its_logprob_is_not() -> None:
    logits = torch.tensor([[2.0, 1.9, -1.0], [2.0, 1.9, -1.0]])
    how, plain = Sampling(temperature=0, repetition_penalty=1.2, logprobs=1), Sampling(temperature=0, logprobs=1)
    rows = [(how, how.draws()), (plain, plain.draws())]
    first, second = choose(logits, rows, [[0, 2], [0, 2]])
    assert (first.token, second.token) == (1, 0)
    assert first.alternatives == second.alternatives
    assert first.logprob == pytest.approx(float(logits[0].log_softmax(-1)[1]))


@pytest.mark.parametrize(
    ("options", "made", "chosen"),
    [
        ({}, [0, 0], 0),
        ({"frequency_penalty": 0.4}, [0], 0),
        ({"frequency_penalty": 0.6}, [0, 0], 1),  # twice as much for what came twice
        ({"presence_penalty": 0.6}, [0, 0], 0),
        ({"presence_penalty": 1.1}, [0], 1),
        ({"logit_bias": ((2, 5.0),)}, [], 2),
        ({"logit_bias": ((0, -100.0),)}, [], 1),
    ],
)
def test_penalties_count_what_the_answer_had_and_biases_are_added(
    options: dict[str, Any], made: list[int], chosen: int
) -> None:
    logits = torch.tensor([[2.0, 1.0, 0.0]])
    sampling = Sampling(temperature=0, **options)
    prompt = [0, 0, 0]  # what the prompt had does not count
    (one,) = choose(logits, [(sampling, sampling.draws())], [[*prompt, *made]], [len(prompt)])
    assert one.token == chosen
