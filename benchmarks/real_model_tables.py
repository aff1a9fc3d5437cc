"""The tables of docs/real-model.md from the results of ``benchmarks/real_model.py``.

python benchmarks/real_model_tables.py benchmarks/results/real_model.json
"""

import argparse
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

Results = Mapping[str, Any]
LABELS = {
    "wide": "**memory, one state of 16×16**",
    "multi": "**memory, four states**",
    "token": "**memory, one state**",
    "none": "question alone",
    "empty": "empty memory",
    "stranger": "another dialogue's memory",
    "static": "static control",
    "bm25": "BM25, best 3 turns",
    "full": "full text in the window",
}
_LOCOMO = LABELS | {"bm25": "BM25, best 10 turns", "window": "the last turns", "full": "all turns that fit"}
_KEPT = {"text": "the last messages, zstd", "bm25": "the same, BM25's best 3 turns shown"}
_CELLS = [(split, facts) for split in ("known", "values", "relations") for facts in ("1", "4", "8")]


def told(results: Results) -> Iterator[str]:
    """Recall by method, what is held out and facts told."""
    found = results["told"]
    cells = [(split, facts) for split, facts in _CELLS if facts in found.get(split, {}).get("none", {})]
    methods = [name for name in LABELS if any(name in found[split] for split, _ in cells)]
    yield from _table(
        ["", *(f"{split}, {facts}" for split, facts in cells)],
        [[LABELS[name], *(percent(found[split][name][facts]) for split, facts in cells)] for name in methods]
        + [["questions", *(str(found[split]["none"][facts]["questions"]) for split, facts in cells)]],
    )


def corrected(results: Results) -> Iterator[str]:
    """Which of a corrected fact's values comes."""
    yield from _by_method(results["corrected"], {"new": "new value", "old": "old value"})


def replies(results: Results) -> Iterator[str]:
    """Recall where the model itself replied, with everything written or only what the user said."""
    both, user = results["replies"]["both"], results["replies"]["user"]
    rows = [
        [label, percent(both[name]), percent(user[name]) if name in user else ""]
        for name, label in LABELS.items()
        if name in both
    ]
    yield from _table(["", "both sides written", "the user's side"], rows)


def absence(results: Results) -> Iterator[str]:
    """How often it says that something was not told."""
    yield from _by_method(
        results["absence"], {"untold": '"not told" where nothing was', "told": '"not told" where something was'}
    )


def formats(results: Results) -> Iterator[str]:
    """What a state loses in fewer bits a number."""
    rows = [[name, f"{found['bytes']:,}", percent(found["recall"])] for name, found in results["formats"].items()]
    yield from _table(["kept as", "bytes", "recall"], rows)


def chat(results: Results) -> Iterator[str]:
    """Recall of facts told in the course of real chat."""
    rows = [[LABELS[name], percent(found)] for name, found in results["chat"].items() if name in LABELS]
    yield from _table(["", "recall"], rows)


def curve(results: Results) -> Iterator[str]:
    """Recall of facts in real chat against the bytes kept of it."""
    found = results["bytes"].get("curve", {})
    rows = [
        [label, point.get("format", ""), f"{point['bytes']:,}", percent(point["recall"])]
        for label, points in ((_KEPT.get(name, LABELS.get(name, name)), points) for name, points in found.items())
        for point in points
    ]
    yield from _table(["kept", "as", "bytes", "recall"], rows)


def forgetting(results: Results) -> Iterator[str]:
    """Recall by tokens of other chat written since."""
    found = results["forgetting"]
    places = sorted(next(iter(found.values())), key=int)
    rows = [[LABELS.get(name, name), *(percent(curve[at]) for at in places)] for name, curve in found.items()]
    yield from _table(["tokens since", *(f"{int(at):,}" for at in places)], rows)


def share(results: Results) -> Iterator[str]:
    """The share of what the text adds that each memory adds."""
    names = {"own": "its own memory", "stranger": "a stranger's", "static": "static control", "memory": "is memory"}
    rows = []
    for name, found in results["share"].items():
        nats = found["nats"]
        rows.append([name, f"{nats['nothing']:.2f}", f"{nats['full']:.2f}", *(_plain(found.get(one)) for one in names)])
    yield from _table(["", "nothing, nats", "full, nats", *names.values()], rows)


def locomo(results: Results) -> Iterator[str]:
    """F1 by method."""
    rows = [[label, percent(results["locomo"][name])] for name, label in _LOCOMO.items() if name in results["locomo"]]
    yield from _table(["", "F1, percent"], rows)


def harm(results: Results) -> Iterator[str]:
    """Loss on plain chats, and recall where the text is in the window."""
    found = results["harm"]
    forms = [name for name in found if isinstance(found[name], dict) and "nats" in found[name]]
    rows = [[form, f"{found[form]['nats']:.3f}", _plain(found[form]["ratio"])] for form in forms]
    rows = [[*row, percent(found["in context"][row[0]])] for row in rows]
    yield from _table(["", "nats a token", "of the bare model's", "recall with the text in the window"], rows)


TABLES: Mapping[str, Callable[[Results], Iterator[str]]] = {
    "told": told,
    "corrected": corrected,
    "replies": replies,
    "absence": absence,
    "formats": formats,
    "chat": chat,
    "bytes": curve,
    "forgetting": forgetting,
    "share": share,
    "locomo": locomo,
    "harm": harm,
}


def percent(found: Results) -> str:
    """A share in percent with its interval."""
    value, low, high = (round(100 * found[name]) for name in ("value", "low", "high"))
    return f"{value} ({low}–{high})"


def _plain(found: Results | None) -> str:
    return "–" if found is None else f"{found['value']:.2f} ({found['low']:.2f}–{found['high']:.2f})"


def _by_method(found: Results, columns: Mapping[str, str]) -> Iterator[str]:
    rows = [[LABELS[name], *(percent(found[name][column]) for column in columns)] for name in LABELS if name in found]
    yield from _table(["", *columns.values()], rows)


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    for row in (head, ["---"] * len(head), *rows):
        yield f"| {' | '.join(row)} |".replace("|  |", "| |")


def main() -> None:
    """Prints the tables of the sections that the file has."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=Path)
    results = json.loads(parser.parse_args().results.read_text("utf-8"))
    for name, table in TABLES.items():
        if name in results:
            print(f"{name}\n", *table(results), "", sep="\n")


if __name__ == "__main__":
    main()
