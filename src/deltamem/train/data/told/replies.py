"""What a backbone itself answers when it is told a fact, errors too: replies for training dialogues."""

import random
import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from deltamem.train.data.lines import BadDataError, parse_json, raw_lines
from deltamem.train.data.options import DataOptions
from deltamem.train.data.replies import replies_of
from deltamem.train.data.told.dialogues import ACKS, Fact, Mix, sample_dialogue

_MIX = Mix(facts=(1, 1), answered=0.0, talk=0.0, strict=True, further=True)


class ToldReplies:
    """Replies to told facts, by relation; those drawn for a fact have its value and its person.

    Args:
        path: JSON lines as :func:`told_replies` makes them: a file, a folder or a glob pattern.

    Raises:
        BadDataError: a line is bad, or there is none.
    """

    def __init__(self, path: str | Path) -> None:
        self._replies: dict[tuple[str, bool], list[str]] = defaultdict(list)
        for line in raw_lines(DataOptions(path=path)):
            try:
                row = parse_json(line)
                relation, other, reply = row["relation"], row["other"], row["reply"]
            except (ValueError, KeyError, TypeError) as error:
                raise BadDataError(
                    f"{line.source}:{line.number}: needs relation, other and reply, as `deltamem data make "
                    f"told-replies` writes them: {error}."
                ) from None
            self._replies[str(relation), bool(other)].append(str(reply))
        if not self._replies:
            raise BadDataError(f"{path} has no replies.")

    def draw(self, rng: random.Random, fact: Fact, value: str) -> str:
        """A reply to a fact; where there is none to such a fact, a ready sentence."""
        found = self._replies.get((fact.relation.name, bool(fact.subject)), ACKS)
        return rng.choice(found).replace("{v}", value).replace("{subject}", fact.subject)


def told_replies(
    model: Any, tokenizer: Any, count: int, *, tokens: int = 24, batch: int = 48, seed: int = 0
) -> Iterator[dict[str, Any]]:
    """What a model replies, greedily, to training facts that are told alone; without their values and names.

    Args:
        model: a chat model without an adapter.
        tokenizer: with a chat template.
        count: how many facts are told; replies that are empty or have braces are left out.
        tokens: the most of a reply.
        batch: how many facts are told at once.
        seed: another seed, other facts.

    Yields:
        ``relation``, whether it is of somebody ``other`` than the user, and ``reply``, with ``{v}`` for the value and
        ``{subject}`` for the person's name.
    """
    rng = random.Random(f"told replies {seed}")
    for start in range(0, count, batch):
        told = [sample_dialogue(rng, _MIX) for _ in range(min(batch, count - start))]
        replies = replies_of(model, tokenizer, [dialogue.messages for dialogue in told], tokens)
        for dialogue, reply in zip(told, replies, strict=True):
            fact = dialogue.questions[0].fact
            if reply and not set("{}") & set(reply):
                yield {
                    "relation": fact.relation.name,
                    "other": bool(fact.subject),
                    "reply": reply_template(reply, fact),
                }


def reply_template(reply: str, fact: Fact) -> str:
    """A reply to a fact with ``{v}`` for its value and ``{subject}`` for whom it is about."""
    for name, text in (("v", fact.value), ("subject", fact.subject)):
        if text:
            reply = re.sub(rf"(?<!\w){re.escape(text)}(?!\w)", f"{{{name}}}", reply)
    return reply
