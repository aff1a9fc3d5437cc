"""Which methods a run has: those that were named, those of the suite, or all that can run here."""

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from deltamem_lab.backbone import Backbone
    from deltamem_lab.methods import MethodOptions
    from deltamem_lab.suites import Suite


def choose_methods(
    suite: "Suite",
    named: Sequence[str],
    backbone: "Backbone",
    options: "MethodOptions",
    untrained: Collection[str] = (),
) -> tuple[list[str], dict[str, str]]:
    """The methods of a run, controls last, and those of its suite that cannot run here, each with the reason.

    Args:
        suite: what is run.
        named: by the user; then these, and no others.
        backbone: with all adapters.
        options: of the methods.
        untrained: the methods of the suite of which is said elsewhere whether they will be trained.
    """
    from deltamem_lab.methods import default_methods, is_control, lacking

    if named or suite.methods:
        return list(dict.fromkeys(named or suite.methods)), {}
    wanted = dict.fromkeys((*default_methods(backbone, options), *suite.more))
    reasons = {name: lacking(name, backbone, options) for name in wanted}
    absent = {name: reason for name, reason in reasons.items() if reason and name not in untrained}
    return sorted((name for name, reason in reasons.items() if not reason), key=is_control), absent
