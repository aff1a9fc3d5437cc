"""Running methods on tasks: what is to be done, and what is done already."""

import hashlib
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from deltamem_lab.backbone import Backbone
from deltamem_lab.interface import Answer, Ask, Item, Method, Question, Task
from deltamem_lab.methods import MethodOptions, build_method
from deltamem_lab.methods.bare import backbone_fingerprint
from deltamem_lab.methods.fitting import NoRoomError
from deltamem_lab.records import (
    Record,
    Writer,
    check_same_run,
    clip,
    digest,
    package_versions,
    read_run,
    shard_file,
)


@dataclass(frozen=True)
class Job:
    """A task under one of its protocols, and how many of its items to take.

    Attributes:
        seed: of the run; added to the seeds of sampling.
        limit: the most items.
        questions: the most questions about each item.
    """

    task: Task
    protocol: str
    seed: int = 0
    limit: int | None = None
    questions: int | None = None

    def items(self) -> list[Item]:
        """The items to take, with the questions to ask."""
        return [
            replace(item, questions=item.questions[: self.questions])
            for item in self.task.items(self.protocol, self.limit)
        ]

    def ask(self, item: Item, question: Question) -> Ask:
        """A question about an item as a method is asked it."""
        decoding = self.task.decoding(item, question, self.protocol)
        return Ask(
            question,
            lambda history, budget: self.task.prompt(item, question, history, self.protocol, budget),
            replace(decoding, seed=decoding.seed + self.seed),
        )


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
class _Work:
    """An item, the item whose history a control is given, and where it belongs."""

    job: Job
    item: Item
    stranger: Item


def run_jobs(
    jobs: Sequence[Job],
    methods: Sequence[str | Method],
    backbone: Backbone,
    output: Path,
    *,
    options: MethodOptions | None = None,
    shard: tuple[int, int] = (0, 1),
    admitted: Callable[[], None] = lambda: None,
    progress: Callable[[Progress], None] = lambda _: None,
) -> int:
    """Answers every question that no record answers yet, and appends a record for each.

    Items are dealt to shards in turn; a shard reads the records of all, so it can also go on with another number of
    them.

    Args:
        jobs: the tasks.
        methods: the methods, or their names.
        backbone: what answers.
        output: the run's folder. It keeps what the run is in ``run.json``: model, template, options, and of each method
            and task what was trained and which data it is.
        options: of the methods.
        shard: this one's number, from 0, and how many there are.
        admitted: is called before the first question, once it is sure that the folder holds no other run.
        progress: is told after each item and method.

    Returns:
        how many questions were answered now.

    Raises:
        ValueError: a method is not known, a record is damaged, or the folder holds another run.
    """
    number, count = shard
    built = [build_method(one, backbone, options) if isinstance(one, str) else one for one in methods]
    about = _About(backbone, {method.name: method.fingerprint for method in built})
    check_same_run(output, about.run(jobs, options or MethodOptions()))
    admitted()
    done = {record.key for record in read_run(output)} if any(output.glob("records*.jsonl")) else set()
    work = [one for place, one in enumerate(_work(jobs)) if place % count == number]
    total = sum(len(one.item.questions) for one in work for method in built if fits(method, one.item))
    finished, answered, start = 0, 0, time.monotonic()
    with closing(Writer(shard_file(output, number, count))) as writer:
        for one in work:
            for method in (method for method in built if fits(method, one.item)):
                left = [q for q in one.item.questions if _key(one, q, method.name) not in done]
                if left:
                    writer.add(_answer(one, left, method, about))
                finished += len(one.item.questions)
                answered += len(left)
                pace = (time.monotonic() - start) / answered if answered else None
                remaining = None if pace is None else pace * (total - finished)
                progress(Progress(finished, total, remaining, f"{one.job.task.name}, {method.name}"))
    return answered


def fits(method: Method, item: Item) -> bool:
    """Whether a method can be asked about an item."""
    return bool(item.history) or not method.needs_history


class _About:
    """What every record says of the model and the packages, and the run of itself."""

    def __init__(self, backbone: Backbone, fingerprints: Mapping[str, str]) -> None:
        self.backbone = backbone
        self.fingerprints = dict(fingerprints)
        self.model = {"model": backbone.name, "model_revision": backbone.revision, "versions": package_versions()}

    def run(self, jobs: Sequence[Job], options: MethodOptions) -> dict[str, Any]:
        """What must stay the same for records to be of one run; see :func:`check_same_run`."""
        template = json.dumps(self.backbone.template, sort_keys=True)
        return {
            "model": self.backbone.name,
            "revision": self.backbone.revision,
            "weights": backbone_fingerprint(self.backbone.model),
            "template": f"{digest(str(self.backbone.tokenizer.chat_template))} with {template}",
            "options": {
                "window": options.window,
                "turns": options.turns,
                "unit": options.unit,
                "dtype": str(self.backbone.model.dtype).removeprefix("torch."),
                "attention": str(getattr(self.backbone.model.config, "_attn_implementation", None)),
            },
            "methods": self.fingerprints,
            "data": {
                f"{job.task.name}, {job.protocol}, seed {job.seed}": {
                    "revision": job.task.revision,
                    **job.task.settings,
                }
                for job in jobs
            },
        }


def _work(jobs: Sequence[Job]) -> Iterator[_Work]:
    for job in jobs:
        # Strangers come from all items, so that a limit that is raised later changes nobody's.
        items = list(job.task.items(job.protocol))
        for place, item in enumerate(job.items()):
            others = [items[(place + step) % len(items)] for step in range(1, len(items))]
            strangers = [other for other in others if other.history != item.history]
            # One of the same kind, so that it has as much to keep: another number of facts would be another control.
            alike = (other for other in strangers if other.source == item.source)
            yield _Work(job, item, next(alike, strangers[0] if strangers else item))


def _answer(work: _Work, questions: Sequence[Question], method: Method, about: _About) -> list[Record]:
    job, item = work.job, work.item
    if method.stranger and work.stranger is item:
        raise ValueError(
            f"{method.name} needs a second item with another history, and {job.task.name} has none; "
            "leave the method out."
        )
    method.reset(_seed(job.seed, item.id))
    method.observe(work.stranger.history if method.stranger else item.history)
    try:
        answers = method.answer([job.ask(item, question) for question in questions])
    except NoRoomError as error:
        raise ValueError(f"{job.task.name}, item {item.id}, by {method.name}: {error}") from None
    return [
        _record(job, item, question, method.name, answer, about)
        for question, answer in zip(questions, answers, strict=True)
    ]


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
        adapter=about.fingerprints[method],
        axes=dict(question.axes),
        weights=dict(question.weights),
        settings=dict(job.task.settings),
        **model,
    )


def _key(work: _Work, question: Question, method: str) -> tuple[str, str, str, str, str, int]:
    return (work.job.task.name, work.job.protocol, work.item.id, question.id, method, work.job.seed)


def _seed(seed: int, item: str) -> int:
    """A seed for what is random about an item, the same in every shard."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{item}".encode()).digest()[:6], "big")
