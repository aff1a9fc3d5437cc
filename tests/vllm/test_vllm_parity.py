"""What vLLM generates and remembers is what transformers does: tokens, log-probabilities and memories."""

from pathlib import Path

import pytest
import torch
from beside import Beside, Turn, turns

import deltamem

LENGTHS = (3, 120, 17, 60, 1, 33, 90, 48)


def test_a_batch_whose_prompts_are_read_in_chunks(served: Beside):
    for turn in served.run(turns(*LENGTHS)):
        served.assert_same(turn)


def test_turn_two_goes_on_from_a_saved_memory_without_the_history(served: Beside):
    first = served.run(turns(20, 50, seed=1))
    saved = [served.assert_same(turn) for turn in first]
    second = [
        Turn([*turn.answer[-1:], *turns(15, seed=2)[0].prompt], state) for turn, state in zip(first, saved, strict=True)
    ]
    for turn in served.run(second):
        served.assert_same(turn)
        bare, _ = served.alone(Turn(turn.prompt))
        assert turn.logprobs[0] != pytest.approx(bare.logprobs[0], abs=1e-3)  # the memory was there


def test_a_stop_token_in_mid_answer_and_the_next_turn(served: Beside):
    (probe,) = served.run(turns(30, seed=3))
    stop = next(token for place, token in enumerate(probe.answer) if place > 3 and token not in probe.answer[:place])
    stopped, other = served.run([Turn(probe.prompt, stop=stop), *turns(25, seed=4)])
    assert stopped.answer[-1] == stop
    assert len(stopped.answer) < len(probe.answer)
    after = served.assert_same(stopped)
    served.assert_same(other)
    (following,) = served.run([Turn([stop, *other.prompt], after)])
    served.assert_same(following)


def test_a_read_only_turn_leaves_its_memory_as_it_is(served: Beside):
    (told,) = served.run(turns(40, seed=5))
    memory = served.assert_same(told)
    (asked,) = served.run([Turn(turns(12, seed=6)[0].prompt, memory, write=False)])
    served.assert_same(asked)
    assert torch.equal(asked.after, torch.stack([layer[0] for layer in memory.states]))


def test_some_tokens_of_a_prompt_write(served: Beside):
    (turn,) = turns(70, seed=7, tokens=1)
    turn.write = bytes(1 if 10 <= place < 55 else 0 for place in range(70))
    served.run([turn])
    _, wanted = served.alone(turn)
    served.assert_state(turn, wanted)
    assert int(wanted.tokens[0]) == 45


def test_an_abort_in_mid_answer_touches_nobody_else(served: Beside):
    gone, other = turns(30, 30, seed=8)
    gone.tokens = 100
    for turn in (gone, other):
        served.submit(turn)
    while len(gone.answer) < 3:
        served.step((gone, other))
    served.engine.abort_request([gone.name])
    while served.engine.has_unfinished_requests():
        served.step((gone, other))
    served.assert_same(other)
    (later,) = served.run(turns(5, seed=9))
    served.assert_same(later)
    with pytest.raises(RuntimeError, match="no memory of this ticket"):
        served.take(gone.ticket, len(gone.prompt) + len(gone.answer) - 1)


def test_a_ticket_that_another_request_has_fails_its_request_alone(served: Beside):
    first, second = turns(20, 30, seed=12, ticket="shared")
    served.run([first, second])
    assert second.reason == "error"
    served.assert_same(first)
    (later,) = served.run(turns(5, seed=13, ticket="shared"))  # it is free again
    served.assert_same(later)


def test_a_memory_of_another_adapter_fails_its_request_alone(served: Beside, tmp_path: Path):
    from deltamem.formats.state import read_state, save_state

    (told,) = served.run(turns(10, seed=10))
    memory = served.assert_same(told)
    save_state(memory, tmp_path / "saved", served.model)
    state, info = read_state(tmp_path / "saved")
    assert info.fingerprint == deltamem.adapter_fingerprint(served.model)
    wrong, right = turns(20, 20, seed=11)
    right.state = wrong.state = state
    attachment = deltamem.attached(served.model)
    with torch.no_grad():
        attachment.memories()[0].projection[0, 0] += 1  # the wrong one is packed as another adapter's
        try:
            served.submit(wrong)
        finally:
            attachment.memories()[0].projection[0, 0] -= 1
    served.submit(right)
    while served.engine.has_unfinished_requests():
        served.step((wrong, right))
    served.assert_same(right)
    assert wrong.reason == "error"
    assert len(wrong.answer) <= 1
