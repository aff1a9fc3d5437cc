"""The baseline without a memory: BM25 finds the turns that look most like the question and puts them in the prompt."""

from collections.abc import Sequence

from deltamem.demo.world import Message

TURNS = 3


def relevant_turns(messages: Sequence[Message], questions: Sequence[str], turns: int = TURNS) -> list[list[Message]]:
    """For each question the ``turns`` exchanges that BM25 ranks highest, in their original order.

    Args:
        messages: a dialogue, of which every two messages are one exchange.
        questions: what is asked about it.
        turns: the most exchanges put back.

    Raises:
        ImportError: bm25s is not installed; the message names the extra.
    """
    import bm25s

    exchanges = [messages[i : i + 2] for i in range(0, len(messages), 2)]
    index = bm25s.BM25()
    index.index(_words([" ".join(m.text for m in exchange) for exchange in exchanges]), show_progress=False)
    ranked = index.retrieve(_words(questions), k=min(turns, len(exchanges)), return_as="documents", show_progress=False)
    return [[message for place in sorted(row) for message in exchanges[place]] for row in ranked.tolist()]


def _words(texts: Sequence[str]) -> list[list[str]]:
    import bm25s

    return list(bm25s.tokenize(list(texts), stopwords="en", return_ids=False, show_progress=False))
