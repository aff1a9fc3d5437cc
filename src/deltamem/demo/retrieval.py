"""The baseline without a memory: BM25 finds the turns that look most like the question and puts them in the prompt."""

from collections.abc import Sequence

from deltamem.demo.world import Utterance
from deltamem.session.retrieval import best_matches

TURNS = 3


def relevant_turns(
    messages: Sequence[Utterance], questions: Sequence[str], turns: int = TURNS
) -> list[list[Utterance]]:
    """For each question the ``turns`` exchanges that BM25 ranks highest, in their original order.

    Args:
        messages: a dialogue, of which every two messages are one exchange.
        questions: what is asked about it.
        turns: the most exchanges put back.

    Raises:
        ImportError: bm25s is not installed; the message names the extra.
    """
    exchanges = [messages[i : i + 2] for i in range(0, len(messages), 2)]
    ranked = best_matches([" ".join(m.text for m in exchange) for exchange in exchanges], questions, turns)
    return [[message for place, _ in row for message in exchanges[place]] for row in ranked]
