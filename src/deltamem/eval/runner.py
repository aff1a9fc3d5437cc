"""Running methods on tasks: what is to be done, what is done already, and what it will cost."""

import hashlib
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from deltamem.adapters import adapter_fingerprint
from deltamem.eval.backbone import Backbone
from deltamem.eval.interface import Answer, Ask, Item, Method, Question, Task, as_text
from deltamem.eval.methods import MethodOptions, build_method
from deltamem.eval.methods.base import BackboneMethod
from deltamem.eval.records import Record, Writer, clip, digest, package_versions, read_run, shard_file


@dataclass(frozen=True)
class Job:
    """A task under one of its protocols, and how many of its items to take.

    Attributes:
        task: the benchmark.
        protocol: one of its protocols.
        seed: of the run; added to the seeds of sampling.
        limit: the most items.
    """

    task: Task
    protocol: str
    seed: int = 0
    limit: int | None = None


@dataclass(frozen=True)
class Progress:
    """How far a run is.

    Attributes:
        done: questions answered by all methods together, of this shard, those of earlier runs included.
        total: of how many.
        seconds_left: an estimate from the pace so far; ``None`` at the beginning.
        label: what has just been done.
    """

    done: int
    total: int
    seconds_left: float | None
    label: str


@dataclass(frozen=True)
class Estimate:
    """What a method would do on a task.

    Attributes:
        task: the benchmark.
        protocol: of it.
        method: the method.
        items: how many histories.
        questions: how many.
        write_tokens: tokens written.
        prompt_tokens: tokens of all prompts.
        new_tokens: the most tokens generated.
    """

    task: str
    protocol: str
    method: str
    items: int
    questions: int
    write_tokens: int
    prompt_tokens: int
    new_tokens: int


@dataclass(frozen=True)
class _Work:
    """An item, the item whose history a control is given, and where it belongs."""

    job: Job
    item: Item
    stranger: Item


def run_jobs(
    jobs: Sequence[Job],
    methods: Sequence[str],
    backbone: Backbone,
    output: Path,
    *,
    options: MethodOptions | None = None,
    shard: tuple[int, int] = (0, 1),
    progress: Callable[[Progress], None] = lambda _: None,
) -> int:
    """Answers every question that no record answers yet, and appends a record for each.

    Items are dealt to shards in turn; a shard reads the records of all, so it can also go on with another number of
    them.

    Args:
        jobs: the tasks.
        methods: the names of the methods.
        backbone: what answers.
        output: the run's folder.
        options: of the methods.
        shard: this one's number, from 0, and how many there are.
        progress: is told after each item and method.

    Returns:
        how many questions were answered now.

    Raises:
        ValueError: a method is not known, or a record is damaged.
    """
    number, count = shard
    built = [build_method(name, backbone, options) for name in methods]
    about = _About(backbone, built)
    done = {record.key for record in read_run(output)} if any(output.glob("records*.jsonl")) else set()
    work = [one for place, one in enumerate(_work(jobs)) if place % count == number]
    total = sum(len(one.item.questions) for one in work for method in built if _fits(method, one.item))
    finished, answered, start = 0, 0, time.monotonic()
    writer = Writer(shard_file(output, number, count))
    try:
        for one in work:
            for method in (method for method in built if _fits(method, one.item)):
                left = [q for q in one.item.questions if _key(one, q, method.name) not in done]
                if left:
                    writer.add(_answer(one, left, method, about))
                finished += len(one.item.questions)
                answered += len(left)
                pace = (time.monotonic() - start) / answered if answered else None
                remaining = None if pace is None else pace * (total - finished)
                progress(Progress(finished, total, remaining, f"{one.job.task.name}, {method.name}"))
    finally:
        writer.close()
    return answered


def estimate(
    jobs: Sequence[Job], methods: Sequence[str], backbone: Backbone, options: MethodOptions | None = None
) -> Iterator[Estimate]:
    """What each method would do on each task. Renders prompts and counts tokens; the model reads nothing."""
    built = [build_method(name, backbone, options) for name in methods]
    for job in jobs:
        items = list(job.task.items(job.protocol, job.limit))
        sizes = [_size(job, item, backbone) for item in items if item.questions]
        new = sum(
            job.task.decoding(item, question, job.protocol).max_new_tokens
            for item in items
            for question in item.questions
        )
        for method in (method for method in built if any(_fits(method, item) for item in items)):
            spent = [method.estimate(history, asked) for history, asked, _ in sizes]
            yield Estimate(
                task=job.task.name,
                protocol=job.protocol,
                method=method.name,
                items=len(items),
                questions=sum(count for _, _, count in sizes),
                write_tokens=sum(written for written, _ in spent),
                prompt_tokens=sum(read * count for (_, read), (_, _, count) in zip(spent, sizes, strict=True)),
                new_tokens=new,
            )


def _fits(method: Method, item: Item) -> bool:
    return bool(item.history) or not method.needs_history


class _About:
    """What every record says of the model and the packages."""

    def __init__(self, backbone: Backbone, methods: Sequence[BackboneMethod]) -> None:
        names = {method.name: getattr(method, "adapter", None) for method in methods}
        prints = {name: adapter_fingerprint(backbone.model, name) for name in set(names.values()) if name}
        self.adapters = {method: prints[name] if name else "" for method, name in names.items()}
        self.model = {"model": backbone.name, "model_revision": backbone.revision, "versions": package_versions()}
        self.backbone = backbone


def _work(jobs: Sequence[Job]) -> Iterator[_Work]:
    for job in jobs:
        items = list(job.task.items(job.protocol, job.limit))
        for place, item in enumerate(items):
            others = (items[(place + step) % len(items)] for step in range(1, len(items)))
            yield _Work(job, item, next((other for other in others if other.history != item.history), item))


def _answer(work: _Work, questions: Sequence[Question], method: BackboneMethod, about: _About) -> list[Record]:
    job, item = work.job, work.item
    if method.stranger and work.stranger is item:
        raise ValueError(
            f"{method.name} needs a second item with another history, and {job.task.name} has one; "
            "leave the method out, or raise --limit."
        )
    method.reset(_seed(job.seed, item.id))
    method.observe(work.stranger.history if method.stranger else item.history)
    answers = method.answer([_ask(job, item, question, about.backbone) for question in questions])
    return [
        _record(job, item, question, method.name, answer, about)
        for question, answer in zip(questions, answers, strict=True)
    ]


def _ask(job: Job, item: Item, question: Question, backbone: Backbone) -> Ask:
    decoding = job.task.decoding(item, question, job.protocol)
    decoding = replace(decoding, seed=decoding.seed + job.seed)
    budget = backbone.budget(decoding)
    return Ask(question, lambda history: job.task.prompt(item, question, history, job.protocol, budget), decoding)


def _record(job: Job, item: Item, question: Question, method: str, answer: Answer, about: _About) -> Record:
    model: dict[str, Any] = about.model
    return Record(
        task=job.task.name,
        protocol=job.protocol,
        item=item.id,
        question=question.id,
        method=method,
        seed=job.seed,
        category=question.category,
        source=item.source,
        subsets=question.subsets,
        ask=question.text,
        gold=question.answers,
        output=answer.text,
        scores=job.task.score(item, question, answer.text, job.protocol),
        main_metric=job.task.main_metric,
        averages=job.task.averages,
        prompt=clip(answer.prompt),
        prompt_hash=digest(answer.prompt),
        cost=answer.cost,
        notes=dict(answer.notes),
        data_revision=job.task.revision,
        adapter=about.adapters[method],
        axes=dict(question.axes),
        **model,
    )


def _key(work: _Work, question: Question, method: str) -> tuple[str, str, str, str, str, int]:
    return (work.job.task.name, work.job.protocol, work.item.id, question.id, method, work.job.seed)


def _seed(seed: int, item: str) -> int:
    """A seed for what is random about an item, the same in every shard."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{item}".encode()).digest()[:6], "big")


def _size(job: Job, item: Item, backbone: Backbone) -> tuple[int, int, int]:
    """Tokens of the history, tokens of a prompt without it (of the first question), and questions."""
    question = item.questions[0]
    budget = backbone.budget(job.task.decoding(item, question, job.protocol))
    history = sum(backbone.count(as_text(entry)) for entry in item.history)
    asked = sum(
        backbone.count(message["content"]) for message in job.task.prompt(item, question, (), job.protocol, budget)
    )
    return history, asked, len(item.questions)
