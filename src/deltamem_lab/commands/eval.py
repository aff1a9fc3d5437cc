"""``deltamem eval``: methods of memory on benchmarks, with controls, one record a question."""

from pathlib import Path
from typing import Annotated

import typer

from deltamem.extensions import from_extra
from deltamem.models.catalog import find_source
from deltamem_lab.names import REAL


def eval(
    recipe: Annotated[
        Path | None, typer.Option(help="A YAML file that says what to run; other options change it.")
    ] = None,
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
    lengths: Annotated[str, typer.Option(help="Tokens of the texts of RULER and BABILong: 4096,8192.")] = "",
    protocol: Annotated[str, typer.Option(help="One of the task's protocols; the first by default.")] = "",
    method: Annotated[
        list[str] | None,
        typer.Option(help="A method, or module:Class; by default all that the adapters allow, and the controls."),
    ] = None,
    model: Annotated[
        str, typer.Option(help="smollm2, or a Hub id, folder or GGUF file; the embedded toy by default.")
    ] = "",
    adapter: Annotated[
        list[str] | None, typer.Option(help="An adapter or LoRA: FOLDER, Hub id or NAME=FOLDER; for smollm2 its name.")
    ] = None,
    static_adapter: Annotated[
        list[str] | None,
        typer.Option(help="The control, trained on strangers' memories: FOLDER, or ADAPTER=FOLDER for one of several."),
    ] = None,
    output: Annotated[
        Path | None, typer.Option(help="The run's folder, runs/eval by default; a stopped run continues.")
    ] = None,
    data: Annotated[list[str] | None, typer.Option(help="The data: FILE for one task, or TASK=FILE.")] = None,
    option: Annotated[
        list[str] | None,
        typer.Option(help="NAME=VALUE for the tasks that have it, or TASK.NAME=VALUE: locomo.categories=1,2,3,4,5."),
    ] = None,
    revision: Annotated[
        list[str] | None, typer.Option(help="Revision of the data on the Hub: REVISION for one task, or TASK=REVISION.")
    ] = None,
    model_revision: Annotated[str | None, typer.Option(help="Revision of the backbone on the Hub.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="The most items of each task.")] = None,
    questions: Annotated[int | None, typer.Option(min=1, help="The most questions about each item.")] = None,
    seeds: Annotated[str, typer.Option(help="Seeds, such as 0,1,2: other dialogues and samples; 0 by default.")] = "",
    shard: Annotated[str, typer.Option(help="i/n: only every n-th item, from the i-th (1/n … n/n).")] = "",
    batch: Annotated[
        int | None, typer.Option(min=1, help="The most questions answered at once; 16 by default.")
    ] = None,
    dtype: Annotated[
        str,
        typer.Option(help="Precision of --model: float32, bfloat16, float16 or auto; bfloat16 on a GPU by default."),
    ] = "",
    attention: Annotated[
        str, typer.Option(help="Attention of --model, as in transformers: eager, sdpa, flash_attention_2.")
    ] = "",
    device_map: Annotated[str, typer.Option(help="Where --model runs, as in transformers: auto, cpu, cuda:1.")] = "",
    window: Annotated[int | None, typer.Option(min=1, help="How many prompt tokens the method window shows.")] = None,
    turns: Annotated[
        int | None, typer.Option(min=1, help="How many units retrieval brings back; 3 by default.")
    ] = None,
    unit: Annotated[
        int | None, typer.Option(min=0, help="Tokens in a unit of retrieval; by default a unit is a turn or a passage.")
    ] = None,
    compressor: Annotated[str, typer.Option(help="Hub id or folder of the classifier for compression.")] = "",
    product: Annotated[
        str,
        typer.Option(
            help="The product of the method product: module:function, or a JSON file with mem0's configuration."
        ),
    ] = "",
    no_train: Annotated[
        bool, typer.Option("--no-train", help="Train nothing for the suite, and leave out what is not trained.")
    ] = False,
    thinking: Annotated[bool | None, typer.Option(help="Let backbones think if they can; the paper does not.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only print what would run; load no weights.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Evaluate ways to remember, side by side, with the controls that tell memory from habit.

    Answers go to records.jsonl in --output as they come; run the same command again to continue. evaluation.yaml there
    is the recipe that repeats the run. Start several processes with accelerate launch, torchrun or --shard; they share
    the folder. Then run deltamem report FOLDER. The suite embedded first trains what the memory is compared with, into
    --output/trained, and says how long it takes.

    Example: deltamem eval --suite embedded --output runs/embedded
    """
    if recipe is not None and not recipe.is_file():
        raise FileNotFoundError(f"There is no recipe {recipe}.")
    if model:
        find_source(model)
    if bool(suite) == bool(task) and (suite or not (recipe or harness)):
        raise typer.BadParameter("Give a --suite, or one or more of --task.")
    if protocol and not (task or harness):
        raise typer.BadParameter("A suite has its own protocols; give --protocol with --task.")
    with from_extra("eval", "Evaluation needs {}"):
        from deltamem_lab.commands.evaluation.recipe import placed, read_recipe
    from deltamem_lab.commands.evaluation import arguments

    changes = {
        "suite": suite,
        "harness": harness.split(",") if harness else (),
        "lengths": lengths.split(",") if lengths else (),
        "methods": method,
        "model.name": model,
        "model.revision": model_revision,
        "model.dtype": dtype,
        "model.attention": attention,
        "model.device_map": device_map,
        "model.thinking": thinking,
        "adapters": adapter,
        "static_adapters": static_adapter,
        "output": output,
        "limit": limit,
        "questions": questions,
        "seeds": arguments.read_seeds(seeds) if seeds else (),
        "batch": batch,
        "window": window,
        "turns": turns,
        "unit": unit,
        "compressor": compressor,
        "product": product,
        "train": False if no_train else None,
    }
    given = {key: value for key, value in changes.items() if value not in (None, "", [], ())}
    asked, part = read_recipe(recipe, given, task or (), protocol), arguments.read_shard(shard)
    arguments.check_names(asked)
    from deltamem_lab.commands.evaluation import harness as harness_tasks
    from deltamem_lab.commands.evaluation import planning, preparing, real, running
    from deltamem_lab.methods import MethodOptions
    from deltamem_lab.methods.registry import import_methods

    besides: dict[str, object] = {"--protocol": protocol, "--revision": revision, "--shard": shard}
    if asked.suite == REAL:
        arguments.refuse(asked, real.WITHOUT_EFFECT, besides | {"--task": task}, "--suite real")
        real.run(asked, data or (), option or (), dry_run=dry_run, as_json=as_json)
        return
    if asked.harness:
        besides |= {"--option": option, "several processes": not shard and part[1] > 1, "--dry-run": dry_run}
        arguments.refuse(asked, harness_tasks.WITHOUT_EFFECT, besides, "--harness")
        harness_tasks.check_adapters(placed(asked.adapters))
    asked = arguments.with_sources(asked, data or (), revision or (), option or ())
    arguments.check_placing(asked)
    if asked.harness:
        backbone = running.load(asked, placed(asked.adapters))
        chosen_methods = harness_tasks.choose_methods(asked.methods, backbone.adapters)
        answered = harness_tasks.run(chosen_methods, backbone, asked)
        running.take_notes(asked, {}, list(chosen_methods))
        running.finish(asked.output, answered, as_json, quiet=False)
        return
    chosen = arguments.choose_suite(asked.suite, asked.tasks, has_model=asked.has_model)
    import_methods(asked.methods or chosen.methods)
    preparation = preparing.find_preparation(chosen, asked)
    if chosen.seconds and not (asked.methods or asked.limit or asked.questions):
        running.tell_time(chosen.seconds, len(asked.seeds))
    if preparation.left and not dry_run:
        preparation = preparing.train(preparation, shared=part[1] > 1)
    backbone = running.load(asked, preparation.adapters, preparation.statics, weights=not dry_run)
    options = MethodOptions(
        window=asked.window,
        turns=asked.turns,
        unit=asked.unit,
        compressor=preparation.compressor,
        product=asked.product,
    )
    untrained = {*preparation.absent, *(one.method for one in preparation.left)}
    names, lacking = planning.choose_methods(chosen, asked.methods, backbone, options, untrained)
    absent = {**preparation.absent, **lacking}
    most = asked.limit or chosen.limit
    jobs, missing = arguments.make_jobs(chosen, asked, most, skip=dry_run)
    if dry_run:
        plan = planning.make_plan(
            jobs, missing, chosen, len(asked.seeds), most, asked.questions, names, backbone, options
        )
        planning.print_plan(plan[0], missing, preparation, absent, plan[1], as_json)
        return

    def take_notes() -> None:
        if not part[0]:
            running.take_notes(asked, absent, names)

    answered = running.run(jobs, names, backbone, asked.output, options, part, take_notes)
    running.finish(asked.output, answered, as_json, quiet=part[1] > 1)
