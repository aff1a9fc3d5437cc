"""``deltamem eval``: methods of memory on benchmarks, with controls, one record a question."""

from pathlib import Path
from typing import Annotated

import typer


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
    no_train: Annotated[
        bool, typer.Option("--no-train", help="Train nothing for the suite; what is not trained is left out.")
    ] = False,
    thinking: Annotated[bool, typer.Option(help="Let backbones think that can; the paper does not.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only tell what would run; loads no weights.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Evaluate ways to remember, side by side, with the controls that tell memory from habit.

    Answers go to records.jsonl in --output as they come; run the same command again to go on. Start several
    processes by accelerate launch, torchrun or --shard; they share the folder. Then: deltamem report FOLDER.
    The suite embedded first trains what is compared with the memory, in minutes, into --output/trained.

    Example: deltamem eval --suite embedded --output runs/embedded
    """
    from deltamem.cli.evaluation import arguments, choosing, planning, preparing, running
    from deltamem.eval.methods import MethodOptions

    if harness:
        if suite or task or dry_run:
            raise typer.BadParameter("--harness runs alone; leave out --suite, --task and --dry-run.")
        backbone = running.load(model, adapter or [], None, model_revision, batch, weights=True, thinking=thinking)
        running.run_harness(harness.split(","), backbone, output, data, limit, batch, thinking=thinking)
        return
    chosen = arguments.choose_suite(suite, task or [], protocol, has_model=bool(model))
    part = arguments.read_shard(shard)
    seeded = arguments.read_seeds(seeds)
    files = arguments.read_data(data or [], [one.task for one in chosen.tasks])
    sources = arguments.Sources(files, revision, arguments.read_options(option or []))
    preparation = preparing.find_preparation(
        chosen, output, method or [], adapter or [], static_adapter, train=not no_train
    )
    if chosen.seconds and not (method or limit):
        running.tell_time(chosen.seconds, len(seeded))
    if preparation.left and not dry_run:
        preparation = preparing.train(preparation, shared=part[1] > 1)
    backbone = running.load(
        model,
        preparation.adapters,
        preparation.static,
        model_revision,
        batch,
        weights=not dry_run,
        thinking=thinking,
    )
    names, lacking = choosing.choose_methods(chosen, method or [], backbone.adapters, preparation.methods, compressor)
    absent = {**preparation.absent, **lacking}
    options = MethodOptions(window=window, turns=turns, **({"compressor": compressor} if compressor else {}))
    jobs, missing = arguments.make_jobs(chosen, sources, seeded, limit or chosen.limit, skip=dry_run)
    if dry_run:
        planning.print_plan(jobs, missing, chosen, names, backbone, options, preparation, absent, as_json)
        return
    running.describe_run(output, backbone, options)
    if not part[0]:
        running.take_notes(output, absent, names)
    answered = running.run(jobs, names, backbone, output, options, part)
    running.finish(output, answered, as_json, quiet=part[1] > 1)
