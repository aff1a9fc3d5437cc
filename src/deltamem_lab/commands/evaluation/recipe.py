"""What an evaluation is, typed: the YAML of ``deltamem eval --recipe``, which options of the command line change."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import Field, NonNegativeInt, PositiveInt

from deltamem.files import write_atomically
from deltamem.train.recipe import Section
from deltamem.train.recipefile import parse_section, read_values, set_value

RECIPE_FILE = "evaluation.yaml"
Places = dict[str, str] | tuple[str, ...]


class TaskSection(Section):
    """One task: what it reads, and how.

    Attributes:
        protocol: one of the task's; its first by default. A suite has its own.
        data: its file; the data on the Hub by default.
        revision: of the data on the Hub.
        options: the task's own, such as ``categories: [1, 4]``.
    """

    protocol: str = ""
    data: Path | None = None
    revision: str | None = None
    options: dict[str, Any] = Field(default_factory=dict)


class ModelSection(Section):
    """The backbone.

    Attributes:
        name: ``smollm2``, a Hub id, a folder or a GGUF file; the embedded toy by default. ``model: smollm2`` says it
            in short.
        revision: on the Hub.
        dtype: of its weights; by default bfloat16 on a GPU and float32 elsewhere.
        attention: the kernel, as transformers names it.
        device_map: where its parts run, as transformers has it.
        thinking: let a backbone think that can; the paper does not.
    """

    name: str = ""
    revision: str | None = None
    dtype: Literal["auto", "float32", "bfloat16", "float16"] | None = None
    attention: str | None = None
    device_map: str | None = None
    thinking: bool = False


class EvalRecipe(Section):
    """An evaluation.

    Attributes:
        suite: what is run together, by its name or as ``module:SUITE``. Then ``tasks`` only says more of its tasks.
        tasks: by name or ``module:Class``.
        harness: tasks of lm-evaluation-harness instead.
        lengths: of the texts of RULER and BABILong in the harness, in tokens.
        methods: by name or ``module:Class``; by default all that the adapters allow, and the controls.
        model: the backbone.
        adapters: folders or Hub ids by name, or a list that names them by what they write.
        static_adapters: the static controls by the adapter that each controls, or a list with that of the last one.
        output: the run's folder.
        limit: the most items a task.
        questions: the most questions about each item.
        seeds: other dialogues, other samples.
        batch: the most questions answered at once.
        window: prompt tokens of the method ``window``.
        turns: how many units retrieval brings back.
        unit: tokens of such a unit; 0 takes turns and passages as they are.
        compressor: Hub id or folder of the classifier for compression.
        product: of the method ``product``: ``module:function``, or a JSON file with mem0's configuration.
        train: train first what the suite compares with.
    """

    suite: str = ""
    tasks: dict[str, TaskSection] = Field(default_factory=dict)
    harness: tuple[str, ...] = ()
    lengths: tuple[PositiveInt, ...] = ()
    methods: tuple[str, ...] = ()
    model: ModelSection = Field(default_factory=ModelSection)
    adapters: Places = ()
    static_adapters: Places = ()
    output: Path = Path("runs/eval")
    limit: PositiveInt | None = None
    questions: PositiveInt | None = None
    seeds: Annotated[tuple[int, ...], Field(min_length=1)] = (0,)
    batch: PositiveInt = 16
    window: PositiveInt | None = None
    turns: PositiveInt = 3
    unit: NonNegativeInt = 0
    compressor: str = ""
    product: str = ""
    train: bool = True

    @property
    def has_model(self) -> bool:
        """Whether the backbone is another than the embedded toy."""
        return self.model.name not in ("", "embedded")


def read_recipe(
    file: Path | None, changes: Mapping[str, Any], tasks: Sequence[str] = (), protocol: str = ""
) -> EvalRecipe:
    """The recipe of a file, if one is given, with what the command line changes.

    Args:
        file: YAML; its key ``extends`` may name another.
        changes: values by key, with dots between the keys of sections.
        tasks: those to run instead of the file's, of which it may say more.
        protocol: theirs, if one is asked for.

    Raises:
        RecipeError: the file is missing or no YAML, a key is unknown, or a value is impossible.
    """
    values = {} if file is None else read_values(file)
    if isinstance(values.get("model"), str):
        values["model"] = {"name": values["model"]}
    if tasks:
        values.pop("suite", None)
        said, asked = values.get("tasks") or {}, {"protocol": protocol} if protocol else {}
        values["tasks"] = {name: {**(said.get(name) or {}), **asked} for name in tasks}
    for key, value in changes.items():
        set_value(values, key, value)
    return parse_section(values, EvalRecipe, "the options" if file is None else str(file))


def save_recipe(recipe: EvalRecipe) -> None:
    """Writes the recipe into its run's folder, so that ``deltamem eval --recipe`` can repeat it."""
    values = recipe.model_dump(mode="json", exclude_defaults=True)
    text = yaml.safe_dump(values, sort_keys=False, allow_unicode=True)
    write_atomically(recipe.output / RECIPE_FILE, text.encode())


def placed(places: Places) -> Sequence[str]:
    """Adapters as ``NAME=PLACE``, or ``PLACE`` where they have no name."""
    return [f"{name}={place}" for name, place in places.items()] if isinstance(places, dict) else places
