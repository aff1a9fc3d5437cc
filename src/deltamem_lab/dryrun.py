"""What an evaluation would do: histories, questions and tokens, without the model reading any."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from deltamem_lab.backbone import Backbone
from deltamem_lab.interface import Item, PublishedSize, as_messages
from deltamem_lab.methods import MethodOptions, build_method
from deltamem_lab.methods.base import Size
from deltamem_lab.methods.fitting import NoRoomError, fit
from deltamem_lab.runner import Job, fits


@dataclass(frozen=True)
class Estimate:
    """What a method would do on a task.

    Attributes:
        prompt_tokens: tokens of all prompts, as many for every question as for the first about its history.
        published: whether the data is not here, and its published size was taken.
    """

    task: str
    protocol: str
    method: str
    items: int
    questions: int
    write_tokens: int
    prompt_tokens: int
    new_tokens: int
    published: bool = False


def estimate(
    jobs: Sequence[Job],
    methods: Sequence[str],
    backbone: Backbone,
    options: MethodOptions | None = None,
    too_long: Callable[[str], None] = lambda _: None,
) -> Iterator[Estimate]:
    """What each method would do on each task. Renders prompts and counts tokens; the model reads nothing.

    A question that has no room even alone, and would end a run, is told to ``too_long`` and left out.

    Raises:
        ValueError: a method is not known, or prompts cannot be rendered.
    """
    # Said now and not in the middle of a run, also where there is no data to render.
    backbone.length([{"role": "user", "content": "Is there a chat template?"}])
    built = [build_method(name, backbone, options) for name in methods]
    for job in jobs:
        items = [_with_room(job, item, backbone, too_long) for item in job.items()]
        sizes = {item.id: _size(job, item, backbone) for item in items if item.questions}
        for method in built:
            fitting = [item for item in items if item.id in sizes and fits(method, item)]
            if not fitting:
                continue
            spent = [method.estimate(sizes[item.id]) for item in fitting]
            yield Estimate(
                task=job.task.name,
                protocol=job.protocol,
                method=method.name,
                items=len(fitting),
                questions=sum(len(item.questions) for item in fitting),
                write_tokens=sum(written for written, _ in spent),
                prompt_tokens=sum(read * len(item.questions) for (_, read), item in zip(spent, fitting, strict=True)),
                new_tokens=sum(
                    job.task.decoding(item, question, job.protocol).max_new_tokens
                    for item in fitting
                    for question in item.questions
                ),
            )


def estimate_published(
    task: str,
    protocol: str,
    size: PublishedSize,
    limit: int | None,
    methods: Sequence[str],
    backbone: Backbone,
    options: MethodOptions | None = None,
    most: int | None = None,
) -> Iterator[Estimate]:
    """What each method would do on a task whose data is not here, by its published size: about as much."""
    items = min(size.items, limit or size.items)
    about_each = size.questions / size.items
    questions = round(items * min(about_each, most or about_each))
    full = size.bare if protocol == "no_context" else size.full
    one = Size(size.history, size.bare, min(full, backbone.positions or full))
    for method in (build_method(name, backbone, options) for name in methods):
        if not size.history and method.needs_history:
            continue
        written, read = method.estimate(one)
        yield Estimate(
            task=task,
            protocol=protocol,
            method=method.name,
            items=items,
            questions=questions,
            write_tokens=written * items,
            prompt_tokens=read * questions,
            new_tokens=size.new * questions,
            published=True,
        )


def _with_room(job: Job, item: Item, backbone: Backbone, too_long: Callable[[str], None]) -> Item:
    """An item without the questions that no prompt has room for, each of which is told."""
    fitting = []
    for question in item.questions:
        ask = job.ask(item, question)
        try:
            fit(ask.render, (), backbone.budget(ask.decoding))
            fitting.append(question)
        except NoRoomError as error:
            too_long(f"{job.task.name}, item {item.id}, question {question.id}: {error}")
    return replace(item, questions=tuple(fitting))


def _size(job: Job, item: Item, backbone: Backbone) -> Size:
    """Of the history, and of the prompts of its first question."""
    ask = job.ask(item, item.questions[0])
    budget = backbone.budget(ask.decoding)
    messages = as_messages(item.history)
    # A history is not rendered whole: with many messages that takes as long as to read it.
    first = messages[:1]
    around = backbone.length(first, prompt=False) - backbone.count(first[0]["content"]) if first else 0
    history = sum(backbone.count(message["content"]) + around for message in messages)
    units = sum(not isinstance(entry, Mapping) or entry["role"] == "user" for entry in item.history)
    return Size(
        history=history,
        unit=history / max(1, units),
        bare=backbone.length(ask.render((), budget)),
        full=backbone.length(fit(ask.render, item.history, budget)[0]),
    )
