"""``deltamem eval``: methods of memory on benchmarks, with controls, one record a question."""

from pathlib import Path
from typing import Annotated

import typer


def eval(
    suite: Annotated[
        str, typer.Option(help="embedded, smoke, paper, real or module:SUITE; or name tasks with --task.")
    ] = "",
    task: Annotated[
        list[str] | None,
        typer.Option(
            help="A task: world, locomo, memoryagentbench, hotpotqa, gpqa, ifeval, longmemeval, or module:Class."
        ),
    ] = None,
    harness: Annotated[str, typer.Option(help="Tasks of lm-evaluation-harness instead, such as ifeval.")] = "",
    protocol: Annotated[str, typer.Option(help="One of the task's protocols; its first by default.")] = "",
    method: Annotated[
        list[str] | None,
        typer.Option(help="A method, or module:Class; all that the adapters allow, and the controls, by default."),
    ] = None,
    model: Annotated[
        str, typer.Option(help="smollm2, or a Hub id, folder or GGUF file; the embedded toy if left out.")
    ] = "",
    adapter: Annotated[
        list[str] | None, typer.Option(help="An adapter or LoRA: FOLDER, Hub id or NAME=FOLDER; for smollm2 its name.")
    ] = None,
    static_adapter: Annotated[
        list[str] | None,
        typer.Option(help="The control, trained on strangers' memories: FOLDER, or ADAPTER=FOLDER for one of several."),
    ] = None,
    output: Annotated[Path, typer.Option(help="The run's folder; a run that stopped goes on.")] = Path("runs/eval"),
    data: Annotated[list[str] | None, typer.Option(help="The data, as FILE for one task, or TASK=FILE.")] = None,
    option: Annotated[
        list[str] | None,
        typer.Option(help="NAME=VALUE for the tasks that have it, or TASK.NAME=VALUE: locomo.categories=1,2,3,4,5."),
    ] = None,
    revision: Annotated[
        list[str] | None, typer.Option(help="Of the data on the Hub, as REVISION for one task, or TASK=REVISION.")
    ] = None,
    model_revision: Annotated[str | None, typer.Option(help="Of the backbone on the Hub.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="The most items a task.")] = None,
    questions: Annotated[int | None, typer.Option(min=1, help="The most questions about each item.")] = None,
    seeds: Annotated[str, typer.Option(help="Seeds, such as 0,1,2: other dialogues, other samples.")] = "0",
    shard: Annotated[str, typer.Option(help="i/n: only every n-th item, from the i-th (1/n … n/n).")] = "",
    batch: Annotated[int, typer.Option(min=1, help="The most questions answered at once.")] = 16,
    dtype: Annotated[
        str, typer.Option(help="Of --model: float32, bfloat16, float16 or auto; bfloat16 on a GPU by default.")
    ] = "",
    attention: Annotated[
        str, typer.Option(help="Of --model: eager, sdpa, flash_attention_2, as transformers has.")
    ] = "",
    device_map: Annotated[str, typer.Option(help="Of --model: auto, cpu, cuda:1, as transformers has.")] = "",
    window: Annotated[int | None, typer.Option(min=1, help="Prompt tokens of the method window.")] = None,
    turns: Annotated[int, typer.Option(min=1, help="How many units retrieval brings back.")] = 3,
    unit: Annotated[
        int, typer.Option(min=0, help="Tokens of a unit of retrieval; by default it is a turn or a passage.")
    ] = 0,
    compressor: Annotated[str, typer.Option(help="Hub id or folder of the classifier that compresses.")] = "",
    no_train: Annotated[
        bool, typer.Option("--no-train", help="Train nothing for the suite; what is not trained is left out.")
    ] = False,
    thinking: Annotated[bool, typer.Option(help="Let backbones that can think do so; the paper does not.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only tell what would run; loads no weights.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Evaluate ways to remember, side by side, with the controls that tell memory from habit.

    Answers go to records.jsonl in --output as they come; run the same command again to go on. Start several
    processes by accelerate launch, torchrun or --shard; they share the folder. Then: deltamem report FOLDER.
    The suite embedded first trains what is compared with the memory into --output/trained, and says how long it takes.

    Example: deltamem eval --suite embedded --output runs/embedded
    """
    from deltamem_lab.commands.evaluation import arguments, planning, preparing, real, running
    from deltamem_lab.commands.evaluation import harness as harness_tasks
    from deltamem_lab.methods import MethodOptions
    from deltamem_lab.methods.registry import import_methods
    from deltamem_lab.suites import REAL

    asked, model = model, "" if model == "embedded" else model
    placing = arguments.read_placing(dtype, attention, device_map, has_model=bool(model))
    if suite == REAL:
        real.refuse(
            {
                "--task": task,
                "--harness": harness,
                "--protocol": protocol,
                "--method": method,
                "--revision": revision or model_revision,
                "--limit": limit,
                "--seeds": seeds != "0",
                "--shard": shard,
                "--window": window,
                "--turns": turns != 3,
                "--unit": unit,
                "--compressor": compressor,
                "--attention": attention,
                "--device-map": device_map,
            }
        )
        real.run(
            asked or "smollm2",
            adapter or [],
            static_adapter or [],
            output,
            data or [],
            option or [],
            questions,
            dtype,
            dry_run=dry_run,
            as_json=as_json,
        )
        return
    if harness:
        others: dict[str, object] = {"--suite": suite, "--task": task, "--protocol": protocol}
        others |= {
            "--static-adapter": static_adapter,
            "--option": option,
            "--revision": revision,
            "--seeds": seeds != "0",
            "--questions": questions,
            "--shard": shard,
            "several processes": not shard and arguments.read_shard(shard)[1] > 1,
            "--no-train": no_train,
        }
        others |= {
            "--window": window,
            "--turns": turns != 3,
            "--unit": unit,
            "--compressor": compressor,
            "--dry-run": dry_run,
        }
        harness_tasks.refuse(others, adapter or [])
        names = harness.split(",")
        sources = arguments.read_sources(data or [], (), (), names)
        backbone = running.load(
            model, adapter or [], (), model_revision, batch, weights=True, thinking=thinking, placing=placing
        )
        chosen_methods = harness_tasks.choose_methods(method or [], backbone.adapters)
        answered = harness_tasks.run(names, chosen_methods, backbone, output, sources.files, limit)
        running.take_notes(output, {}, list(chosen_methods))
        running.finish(output, answered, as_json, quiet=False)
        return
    chosen = arguments.choose_suite(suite, task or [], protocol, has_model=bool(model))
    part = arguments.read_shard(shard)
    seeded = arguments.read_seeds(seeds)
    sources = arguments.read_sources(data or [], revision or [], option or [], [one.task for one in chosen.tasks])
    import_methods(method or chosen.methods)
    preparation = preparing.find_preparation(
        chosen, output, method or [], adapter or [], static_adapter or [], compressor, train=not no_train
    )
    if chosen.seconds and not (method or limit or questions):
        running.tell_time(chosen.seconds, len(seeded))
    if preparation.left and not dry_run:
        preparation = preparing.train(preparation, shared=part[1] > 1)
    backbone = running.load(
        model,
        preparation.adapters,
        preparation.statics,
        model_revision,
        batch,
        weights=not dry_run,
        thinking=thinking,
        placing=placing,
    )
    options = MethodOptions(window=window, turns=turns, unit=unit, compressor=preparation.compressor)
    untrained = {*preparation.absent, *(one.method for one in preparation.left)}
    names, lacking = planning.choose_methods(chosen, method or [], backbone, options, untrained)
    absent = {**preparation.absent, **lacking}
    most = limit or chosen.limit
    jobs, missing = arguments.make_jobs(chosen, sources, seeded, most, questions, skip=dry_run)
    if dry_run:
        plan = planning.make_plan(jobs, missing, chosen, len(seeded), most, questions, names, backbone, options)
        planning.print_plan(plan[0], missing, preparation, absent, plan[1], as_json)
        return

    def take_notes() -> None:
        if not part[0]:
            running.take_notes(output, absent, names)

    answered = running.run(jobs, names, backbone, output, options, part, take_notes)
    running.finish(output, answered, as_json, quiet=part[1] > 1)
