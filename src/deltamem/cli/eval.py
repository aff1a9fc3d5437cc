"""``deltamem eval``: methods of memory on benchmarks, with controls, one record a question."""

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from deltamem.eval.backbone import Backbone
    from deltamem.eval.registry import Suite
    from deltamem.eval.runner import Job, Progress


def eval(
    suite: Annotated[str, typer.Option(help="embedded, smoke or paper; or name tasks with --task.")] = "",
    task: Annotated[
        list[str] | None, typer.Option(help="A task: world, locomo, memoryagentbench, hotpotqa, longmemeval.")
    ] = None,
    harness: Annotated[str, typer.Option(help="Tasks of lm-evaluation-harness instead, such as ifeval.")] = "",
    protocol: Annotated[str, typer.Option(help="One of the task's protocols; its first by default.")] = "",
    method: Annotated[
        list[str] | None, typer.Option(help="A method; all that the adapters allow, and the controls, by default.")
    ] = None,
    model: Annotated[str, typer.Option(help="Hub id or folder of the backbone; the embedded one if left out.")] = "",
    adapter: Annotated[
        list[str] | None, typer.Option(help="An adapter or LoRA: FOLDER, Hub id or NAME=FOLDER.")
    ] = None,
    static_adapter: Annotated[
        Path | None, typer.Option(help="The control: an adapter trained on strangers' memories.")
    ] = None,
    output: Annotated[Path, typer.Option(help="The run's folder; a run that stopped goes on.")] = Path("runs/eval"),
    data: Annotated[list[str] | None, typer.Option(help="The data, as FILE for one task, or TASK=FILE.")] = None,
    option: Annotated[
        list[str] | None, typer.Option(help="NAME=VALUE for the tasks that have it, such as categories=1,2,3,4,5.")
    ] = None,
    revision: Annotated[str | None, typer.Option(help="Of the data on the Hub, for one task.")] = None,
    model_revision: Annotated[str | None, typer.Option(help="Of the backbone on the Hub.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="The most items a task.")] = None,
    seeds: Annotated[str, typer.Option(help="Seeds, such as 0,1,2: other dialogues, other samples.")] = "0",
    shard: Annotated[str, typer.Option(help="i/n: only every n-th item, from the i-th (1/n … n/n).")] = "",
    batch: Annotated[int, typer.Option(min=1, help="The most questions answered at once.")] = 16,
    window: Annotated[int | None, typer.Option(min=1, help="Prompt tokens of the method window.")] = None,
    turns: Annotated[int, typer.Option(min=1, help="Turns or passages that retrieval brings back.")] = 3,
    compressor: Annotated[str, typer.Option(help="Hub id or folder of the classifier of llmlingua2.")] = "",
    thinking: Annotated[bool, typer.Option(help="Let backbones think that can; the paper does not.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only tell what would run; loads no weights.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Evaluate ways to remember, side by side, with the controls that tell memory from habit.

    Answers go to records.jsonl in --output as they come; run the same command again to go on. Start several
    processes by accelerate launch, torchrun or --shard; they share the folder. Then: deltamem report FOLDER.

    Example: deltamem eval --suite embedded --output runs/embedded
    """
    from deltamem.eval.methods import MethodOptions

    if harness:
        if suite or task or dry_run:
            raise typer.BadParameter("--harness runs alone; leave out --suite, --task and --dry-run.")
        backbone = _backbone(model, adapter or [], None, model_revision, batch, weights=True, thinking=thinking)
        _run_harness(harness.split(","), backbone, output, data, limit, batch, thinking=thinking)
        return
    chosen = _chosen(suite, task or [], protocol, bool(model))
    backbone = _backbone(
        model, adapter or [], static_adapter, model_revision, batch, weights=not dry_run, thinking=thinking
    )
    options = MethodOptions(window=window, turns=turns, **({"compressor": compressor} if compressor else {}))
    names = method or list(chosen.methods) or _default_methods(backbone)
    sources = _Sources(_data(data or [], [one.task for one in chosen.tasks]), revision, _options(option or []))
    jobs, missing = _jobs(chosen, sources, _seeds(seeds), limit or chosen.limit, skip=dry_run)
    if dry_run:
        _plan(jobs, missing, chosen, names, backbone, options, as_json)
        return
    part = _shard(shard)
    _describe_run(output, backbone, options)
    answered = _run(jobs, names, backbone, output, options, part)
    _finish(output, answered, as_json, quiet=part[1] > 1)


@dataclass(frozen=True)
class _Sources:
    """Where the tasks' data comes from: files by task, a revision of the Hub's, and the tasks' options."""

    files: dict[str, Path]
    revision: str | None
    options: dict[str, str]


def _chosen(suite: str, tasks: Sequence[str], protocol: str, has_model: bool) -> "Suite":
    from deltamem.eval.registry import SUITES, Suite, SuiteTask

    if bool(suite) == bool(tasks):
        raise typer.BadParameter("Give a --suite, or one or more of --task.")
    if tasks:
        return Suite(tuple(SuiteTask(name, protocol) for name in tasks), embedded=not has_model)
    if suite not in SUITES:
        raise typer.BadParameter(f"There is no suite {suite!r}; there are: {', '.join(SUITES)}.")
    if protocol:
        raise typer.BadParameter("A suite has its own protocols; give --protocol with --task.")
    if not SUITES[suite].embedded and not has_model:
        raise typer.BadParameter(f"The suite {suite} needs a --model.")
    return SUITES[suite]


def _backbone(
    model: str,
    adapters: Sequence[str],
    static: Path | None,
    revision: str | None,
    batch: int,
    *,
    weights: bool,
    thinking: bool,
) -> "Backbone":
    from transformers.utils import logging

    from deltamem.eval.loading import embedded_backbone, load_backbone

    logging.set_verbosity_error()
    if not model:
        return embedded_backbone(static, batch=batch, adapters=adapters)
    template = {} if thinking else {"enable_thinking": False}
    return load_backbone(model, adapters, static, revision=revision, batch=batch, weights=weights, template=template)


def _default_methods(backbone: "Backbone") -> list[str]:
    from deltamem.eval.methods import default_methods

    return list(default_methods(backbone.adapters))


def _data(given: Sequence[str], tasks: Sequence[str]) -> dict[str, Path]:
    places: dict[str, Path] = {}
    for one in given:
        name, found, place = one.partition("=")
        if not found and len(set(tasks)) == 1:
            name, place = tasks[0], one
        elif name not in tasks:
            raise typer.BadParameter(f"--data {one}: write TASK=FILE with one of {', '.join(tasks)}.")
        places[name] = Path(place)
    return places


def _options(given: Sequence[str]) -> dict[str, str]:
    pairs = [one.partition("=") for one in given]
    if wrong := [name for name, found, _ in pairs if not found]:
        raise typer.BadParameter(f"--option {wrong[0]}: write NAME=VALUE.")
    return {name: value for name, _, value in pairs}


def _seeds(text: str) -> list[int]:
    try:
        return [int(seed) for seed in text.split(",")]
    except ValueError:
        raise typer.BadParameter(f"--seeds {text!r}: give whole numbers with commas between them.") from None


def _jobs(
    suite: "Suite",
    sources: "_Sources",
    seeds: Sequence[int],
    limit: int | None,
    *,
    skip: bool,
) -> tuple[list["Job"], dict[str, str]]:
    """The jobs, and if ``skip`` the tasks whose data is not here, each with the reason."""
    from deltamem.eval.registry import build_task, pick_protocol
    from deltamem.eval.runner import Job
    from deltamem.eval.tasks.rows import BadDataError

    jobs: list[Job] = []
    missing: dict[str, str] = {}
    for one in suite.tasks:
        for seed in seeds:
            try:
                built = build_task(
                    one.task,
                    sources.files.get(one.task),
                    revision=sources.revision,
                    seed=seed,
                    options=sources.options,
                )
            except (OSError, ImportError, BadDataError) as error:
                if not skip or one.task in sources.files:
                    raise
                missing[one.task] = " ".join(str(error).split())
                continue
            jobs.append(Job(built, pick_protocol(built, one.protocol), seed, limit))
    return jobs, missing


def _shard(text: str) -> tuple[int, int]:
    """This process's number, from 0, and how many there are: as given, or as the launcher says."""
    if not text:
        return int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    number, _, count = text.partition("/")
    if not (number.isdigit() and count.isdigit() and 1 <= int(number) <= int(count)):
        raise typer.BadParameter(f"--shard {text!r}: write i/n with i from 1 to n.")
    return int(number) - 1, int(count)


def _describe_run(output: Path, backbone: "Backbone", options: Any) -> None:
    from dataclasses import asdict

    from deltamem.adapters import adapter_fingerprint
    from deltamem.eval.records import check_same_run

    adapters = {name: adapter_fingerprint(backbone.model, name) for name in backbone.adapters}
    check_same_run(
        output,
        {"model": backbone.name, "revision": backbone.revision, "adapters": adapters, "options": asdict(options)},
    )


def _run(
    jobs: Sequence["Job"],
    methods: Sequence[str],
    backbone: "Backbone",
    output: Path,
    options: Any,
    shard: tuple[int, int],
) -> int:
    from rich.console import Console
    from rich.progress import BarColumn, TextColumn
    from rich.progress import Progress as Bars

    from deltamem.eval.runner import run_jobs

    columns = (TextColumn("{task.description:32}"), BarColumn(), TextColumn("{task.completed:,.0f}/{task.total:,.0f}"))
    with Bars(*columns, TextColumn("{task.fields[left]}"), console=Console(stderr=True), transient=True) as bar:
        shown = bar.add_task("", total=0, left="")

        def tell(now: "Progress") -> None:
            bar.update(shown, completed=now.done, total=now.total, description=now.label, left=_left(now))

        return run_jobs(jobs, methods, backbone, output, options=options, shard=shard, progress=tell)


def _run_harness(
    tasks: Sequence[str],
    backbone: "Backbone",
    output: Path,
    data: Sequence[str] | None,
    limit: int | None,
    batch: int,
    *,
    thinking: bool,
) -> None:
    """Runs tasks of lm-evaluation-harness with the active adapter and keeps the harness's own results."""
    from deltamem.eval.tasks.harness import HarnessOptions, run_harness
    from deltamem.files import write_atomically

    options = HarnessOptions(
        tasks=tuple(tasks), data=Path(data[0]) if data else None, limit=limit, batch_size=batch, samples=True
    )
    found = run_harness(backbone.model, backbone.tokenizer, options, enable_thinking=thinking)
    path = output / "harness.json"
    write_atomically(path, (json.dumps(found, indent=2, default=str) + "\n").encode())
    print(json.dumps(found["results"], indent=2, default=str))
    print(f"Everything, with the samples: {path}")


def _left(now: "Progress") -> str:
    if now.seconds_left is None:
        return ""
    minutes, seconds = divmod(round(now.seconds_left), 60)
    return f"about {minutes}:{seconds:02} left"


def _finish(output: Path, answered: int, as_json: bool, *, quiet: bool) -> None:
    from deltamem.eval.records import read_run
    from deltamem.eval.report.data import as_data
    from deltamem.eval.report.terminal import print_summary
    from deltamem.eval.summary import summarise

    if quiet:
        print(f"Answered {answered:,} questions. When all shards are done: deltamem report {output}")
        return
    tasks = summarise(read_run(output))
    if as_json:
        print(json.dumps({"answered": answered, "tasks": [as_data(one) for one in tasks]}, indent=2))
        return
    print_summary(tasks)
    print(f"\nAnswered {answered:,} questions now; records in {output}. A page of it: deltamem report {output}")


def _plan(
    jobs: Sequence["Job"],
    missing: dict[str, str],
    suite: "Suite",
    methods: Sequence[str],
    backbone: "Backbone",
    options: Any,
    as_json: bool,
) -> None:
    from dataclasses import asdict

    from deltamem.eval.registry import TASKS
    from deltamem.eval.report.terminal import print_estimates
    from deltamem.eval.runner import estimate

    rows = list(estimate(jobs, methods, backbone, options))
    if as_json:
        harness = [{"task": name, "prompts": prompts} for name, prompts in suite.harness]
        print(json.dumps({"runs": [asdict(row) for row in rows], "missing": missing, "harness": harness}, indent=2))
        return
    print_estimates(rows)
    for name, reason in missing.items():
        size = TASKS[name].size
        print(f"{name}: {size or 'its size is not known'}, by each of {len(methods)} methods; not counted: {reason}")
    for name, prompts in suite.harness:
        print(f"{name}: {prompts:,} prompts by lm-evaluation-harness: deltamem eval --harness {name}")
