"""What a search through a session's texts takes, in each kind of store, without asking the states.

    python benchmarks/memory_search.py --json benchmarks/results/memory_search.json

Times are CPU time of this process and of PostgreSQL's: of the first search, which makes what the store keeps for later
ones, and the mean of ten later ones.
"""

import argparse
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from random import Random

from common import machine
from deltamem.demo.adapters import load_demo_adapter
from deltamem.demo.backbone import load_backbone
from deltamem.encoder import Encoder
from deltamem.files import write_json
from deltamem.serve.access import Caller
from deltamem.serve.memories import new_messages, search
from deltamem.serve.schema.memories import Whose
from deltamem.serve.server import Server
from deltamem.serve.settings import Settings
from deltamem.session.retrieval import words
from deltamem.store import Commit, SessionStore, StateKeys

COUNTS = (100, 1_000, 10_000)
SEARCHES = 10


def main() -> None:
    """Measures and writes down."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, required=True)
    options = parser.parse_args()
    pages = sorted((Path(__file__).parents[1] / "docs").glob("*.md"))
    vocabulary = sorted({word for page in pages for word in words(page.read_text("utf-8"))})
    encoder = Encoder("minilm")
    results = []
    for kind, opened, used, counts in (
        ("sqlite, encrypted", sqlite, None, COUNTS),
        ("postgresql", postgresql, None, COUNTS),
        ("sqlite, encrypted, with vectors", sqlite, encoder, COUNTS[:2]),
    ):
        for count in counts:
            with opened() as (store, seconds):
                first, later = measure(store, seconds, count, vocabulary, used)
            results.append({"store": kind, "texts": count, "first_ms": round(first), "later_ms": round(later, 1)})
            print(results[-1], flush=True)
    found = {"date": datetime.now(UTC).date().isoformat(), "machine": machine(), "results": results}
    write_json(options.json, found)


def measure(
    store: SessionStore, seconds: Callable[[], float], count: int, vocabulary: list[str], encoder: Encoder | None
) -> tuple[float, float]:
    """Milliseconds of the first search of a log of so many texts of twelve words, and of later ones."""
    model, tokenizer = load_backbone()
    load_demo_adapter(model, "multi")
    server = Server(model, tokenizer, store, Settings(secret=b"for one benchmark"), encoder=encoder)
    draw = Random(count)
    texts = [" ".join(draw.choices(vocabulary, k=12)) for _ in range(count)]
    store.create("t", "user:ravi", fingerprint="f", state=b"m")
    said = new_messages([{"role": "user", "content": text} for text in texts], {})
    store.commit(Commit("t", "user:ravi", parent=1, state=b"m", tokens=1, messages=said))

    def searched() -> None:
        found, _ = search(server, Caller("t"), Whose(user_id="ravi"), " ".join(draw.choices(vocabulary, k=6)), 10)
        assert found

    begun = seconds()
    searched()
    first = seconds()
    for _ in range(SEARCHES):
        searched()
    later = seconds()
    server.close()
    return 1000 * (first - begun), 1000 * (later - first) / SEARCHES


@contextmanager
def sqlite() -> Iterator[tuple[SessionStore, Callable[[], float]]]:
    """An encrypted store in a file."""
    keys = StateKeys.from_text(StateKeys.generate("k"))
    with tempfile.TemporaryDirectory() as folder:
        yield SessionStore.open(f"sqlite:///{folder}/sessions.db", keys=keys, keep_messages=True), own_seconds


@contextmanager
def postgresql() -> Iterator[tuple[SessionStore, Callable[[], float]]]:
    """A store on a server, as the tests of the store start it."""
    sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "store"))
    import postgres

    binaries = postgres.find_binaries()
    if binaries is None:
        raise SystemExit("PostgreSQL is not installed: neither initdb on the path nor anything in /usr/lib/postgresql.")
    cluster = postgres.Server(binaries)

    def every_second() -> float:
        return own_seconds() + _seconds_of(int((cluster.folder / "data" / "postmaster.pid").read_text().split()[0]))

    try:
        yield SessionStore.open(cluster.empty_database(), keep_messages=True), every_second
    finally:
        cluster.remove()


def own_seconds() -> float:
    """CPU time of this process."""
    spent = os.times()
    return spent.user + spent.system


def _seconds_of(main: int) -> float:
    """CPU time of a process, and of those that it started and that still run."""
    spent = 0
    for place in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):  # it has ended
            fields = place.read_text().rpartition(")")[2].split()
            if main in (int(place.parent.name), int(fields[1])):
                spent += int(fields[11]) + int(fields[12])
    return spent / os.sysconf("SC_CLK_TCK")


if __name__ == "__main__":
    main()
