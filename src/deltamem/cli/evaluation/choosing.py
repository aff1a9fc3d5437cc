"""Which methods a run has: those that were named, those of the suite, or all that can run here."""

from collections.abc import Sequence
from importlib.util import find_spec
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from deltamem.eval.registry import Suite

_ENCODED = ("dense", "memorybank", "memorybank_keep")


def choose_methods(
    suite: "Suite", named: Sequence[str], adapters: Sequence[str], trained: Sequence[str], compressor: str
) -> tuple[list[str], dict[str, str]]:
    """The methods of a run, controls last, and those of its suite that cannot run here, each with the reason.

    Args:
        suite: what is run.
        named: by the user; then these, and no others.
        adapters: on the backbone.
        trained: the methods that the suite has trained.
        compressor: of ``llmlingua2``; empty if none was given.
    """
    from deltamem.eval.methods import default_methods, is_control

    if named or suite.methods:
        return list(named or suite.methods), {}
    by_default = default_methods(adapters)
    if not suite.trainings:
        return list(by_default), {}
    wanted = dict.fromkeys((*by_default, "dense", "memorybank", *suite.more, *trained))
    absent = {name: reason for name in wanted if (reason := _lacking(name, compressor))}
    return sorted((name for name in wanted if name not in absent), key=is_control), absent


def _lacking(method: str, compressor: str) -> str:
    """Why a method cannot run here, if it cannot."""
    from deltamem.eval.methods.vectors import dense_installed

    if method in _ENCODED and not dense_installed():
        return 'needs a sentence encoder: pip install "deltamem[dense]"'
    if method == "context2lora_fitted" and find_spec("peft") is None:
        return 'needs peft: pip install "deltamem[lora]"'
    if method == "llmlingua2" and not compressor:
        return "needs the classifier that compresses; name one with --compressor"
    return ""
