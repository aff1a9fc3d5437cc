"""Answers to look at: where the memory is right and the controls are not, and where it is wrong."""

from collections.abc import Sequence

from deltamem_lab.methods import is_control
from deltamem_lab.names import STATIC
from deltamem_lab.records import Record
from deltamem_lab.report.blocks import Block, Example, Heading, Paragraph
from deltamem_lab.summary import NONE, RIGHT

_EACH = 3
_OTHERS = (STATIC, "shuffled", NONE)
ByMethod = dict[str, Record]


def examples(records: Sequence[Record], methods: Sequence[str]) -> list[Block]:
    """Some wins and failures of the main memory, with every method's answer, the prompt and what had been read."""
    main = main_method(records, methods)
    if main is None:
        return []
    by_question: dict[tuple[str, str, int], ByMethod] = {}
    for record in records:
        by_question.setdefault((record.item, record.question, record.seed), {})[record.method] = record
    asked = [answers for answers in by_question.values() if main in answers]
    wins = [answers for answers in asked if _right(answers, main) and not any(_right(answers, o) for o in _OTHERS)]
    failures = [answers for answers in asked if not _right(answers, main)]
    # Those that the full text answers say most.
    failures.sort(key=lambda answers: not _right(answers, "full"))
    groups = ((f"Where {main} is right and the controls are wrong", wins), (f"Where {main} is wrong", failures))
    blocks: list[Block] = []
    for heading, found in groups:
        if found:
            blocks += [Heading(heading, 3), Paragraph(f"{len(found):,} of {len(asked):,} questions; some of them:")]
            blocks += [_example(answers, main) for answers in _varied(found)]
    return blocks


def main_method(records: Sequence[Record], methods: Sequence[str]) -> str | None:
    """The last method with nothing but a memory, if there is one: an adapter, no control, and no text."""
    adapted = {record.method for record in records if record.adapter}
    plain = [name for name in methods if name in adapted and not is_control(name) and "+" not in name]
    memories = [name for name in plain if not name.startswith("hybrid")]
    return memories[-1] if memories else None


def _right(answers: ByMethod, method: str) -> bool:
    return method in answers and answers[method].score >= RIGHT


def _varied(found: Sequence[ByMethod]) -> list[ByMethod]:
    """A few, each of another category."""
    chosen: dict[str, ByMethod] = {}
    for answers in found:
        chosen.setdefault(next(iter(answers.values())).category, answers)
    return list(chosen.values())[:_EACH]


def _example(answers: ByMethod, main: str) -> Example:
    record = answers[main]
    notes = (f"{name.replace('_', ' ')} {value}" for name, value in record.notes.items())
    memory = (f"{record.cost.write_tokens:,} tokens written", f"{record.cost.stored_bytes:,} bytes kept", *notes)
    facts = [
        ("asked", record.ask),
        ("gold", " / ".join(record.gold)),
        *((name, answer.output or "(nothing)") for name, answer in answers.items()),
        ("memory", "; ".join(memory)),
    ]
    folds = [(f"the prompt of {main}", record.prompt)]
    # A memory's prompt does not show what it has read; another method's does.
    shown = answers.get("full") or max(answers.values(), key=lambda answer: answer.cost.prompt_tokens)
    if shown.prompt != record.prompt:
        folds.append((f"what was read, in the prompt of {shown.method}", shown.prompt))
    return Example(f"{record.category or record.task}, item {record.item}", facts, folds)
