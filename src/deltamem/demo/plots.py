"""The demo's pictures: recall by number of facts, the forgetting curve, and a state."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deltamem.demo.lessons import WINDOW
from deltamem.demo.measure import LABELS
from deltamem.demo.results import Curve, Rate, Results
from deltamem.figures import figure_class, write_png

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Colours that stay apart for the colour-blind (M. Okabe and K. Ito, 2008).
STYLES = {
    "full": (LABELS["full"], "#000000", "--"),
    "bm25": (LABELS["bm25"], "#999999", "--"),
    "multi": (LABELS["multi"], "#0072B2", "-"),
    "token": (LABELS["token"], "#E69F00", "-"),
    "segment": (LABELS["segment"], "#009E73", "-"),
    "shuffled": (LABELS["shuffled"], "#CC79A7", ":"),
    "none": (LABELS["none"], "#999999", ":"),
}


def draw_plots(results: Results, state_file: Path, folder: Path) -> dict[str, Path]:
    """Draws ``recall.png``, ``forgetting.png`` and ``state.png`` in ``folder`` and says where they lie.

    Raises:
        ImportError: matplotlib is not installed.
        OSError: the folder cannot be written.
    """
    from deltamem.formats.inspect import draw, open_file

    paths = {name: folder / f"{name}.png" for name in ("recall", "forgetting", "state")}
    write_png(_recall_figure(results.recall), paths["recall"])
    write_png(_forgetting_figure(results.forgetting), paths["forgetting"])
    draw(open_file(state_file), paths["state"])
    return paths


def _recall_figure(recall: Mapping[str, Mapping[int, Rate]]) -> "Figure":
    figure, axes = _figure("facts told in the dialogue")
    facts = list(recall["full"])
    _draw_curves(axes, {method: list(enumerate(rates.values())) for method, rates in recall.items()})
    axes.set_xticks(range(len(facts)), [str(number) for number in facts])
    axes.set_title("Recall on held-out dialogues (shaded: 95 % intervals)")
    return figure


def _forgetting_figure(curves: Mapping[str, Curve]) -> "Figure":
    figure, axes = _figure("tokens of small talk since the facts were told")
    _draw_curves(axes, curves)
    axes.axvline(WINDOW, color="#999999", linewidth=0.8)
    axes.annotate(
        " the window ends", (WINDOW, 1.01), xycoords=("data", "axes fraction"), ha="center", fontsize=8, color="#666666"
    )
    axes.set_title("Recall of four facts while the conversation moves on", pad=18)
    return figure


def _figure(x_label: str) -> tuple["Figure", Any]:
    figure = figure_class("demo")(figsize=(9, 4.5), layout="constrained")
    axes = figure.subplots()
    axes.set_xlabel(x_label)
    axes.set_ylabel("answers right to the letter")
    axes.set_ylim(-0.02, 1.02)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color="#eeeeee")
    return figure, axes


def _draw_curves(axes: Any, curves: Mapping[str, Curve]) -> None:
    for method, (label, colour, dashes) in STYLES.items():
        if method in curves:
            x, rates = zip(*curves[method], strict=True)
            low, high = zip(*(rate.interval for rate in rates), strict=True)
            axes.plot(x, [rate.value for rate in rates], dashes, color=colour, label=label, marker="o", markersize=4)
            axes.fill_between(x, low, high, color=colour, alpha=0.12, linewidth=0)
    axes.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False)
