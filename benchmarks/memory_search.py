"""What a search through a session's texts takes: its encrypted log read from SQLite, and ranked by FTS5 in memory.

    python benchmarks/memory_search.py --json benchmarks/results/memory_search.json

Times are CPU time of this process, the median of five searches; the states are not asked.
"""

import argparse
import statistics
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from random import Random

from common import machine
from deltamem.files import write_json
from deltamem.serve.memories import memories_of, new_messages, search
from deltamem.session.retrieval import words
from deltamem.store import Commit, SessionStore, StateKeys

COUNTS = (100, 1_000, 10_000)


def main() -> None:
    """Measures and writes down."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, required=True)
    options = parser.parse_args()
    vocabulary = sorted(set(words((Path(__file__).parents[1] / "docs" / "guide.md").read_text("utf-8"))))
    results = [measure(count, vocabulary) for count in COUNTS]
    for one in results:
        print(f"{one['texts']:6} texts: {one['read_ms']:.1f} ms to read, {one['rank_ms']:.1f} ms to rank")
    found = {"date": datetime.now(UTC).date().isoformat(), "machine": machine(), "results": results}
    write_json(options.json, found)


def measure(count: int, vocabulary: list[str]) -> dict[str, float]:
    """The times of a log of so many texts of twelve words."""
    draw = Random(count)
    texts = [" ".join(draw.choices(vocabulary, k=12)) for _ in range(count)]
    with tempfile.TemporaryDirectory() as folder:
        keys = StateKeys.from_text(StateKeys.generate("k"))
        with SessionStore.open(f"sqlite:///{folder}/sessions.db", keys=keys, keep_messages=True) as store:
            store.create("t", "user:ravi", fingerprint="f", state=b"m")
            said = new_messages([{"role": "user", "content": text} for text in texts], {})
            store.commit(Commit("t", "user:ravi", parent=1, state=b"m", tokens=1, messages=said))
            reading, ranking = [], []
            for _ in range(5):
                query = " ".join(draw.choices(vocabulary, k=6))
                begun = time.process_time()
                memories = memories_of("user:ravi", store.messages("t", "user:ravi", limit=count))
                read = time.process_time()
                search(memories, query, 10)
                reading.append(read - begun)
                ranking.append(time.process_time() - read)
    return {
        "texts": count,
        "read_ms": round(1000 * statistics.median(reading), 2),
        "rank_ms": round(1000 * statistics.median(ranking), 2),
    }


if __name__ == "__main__":
    main()
