"""The numbers that have been published, to stand beside ours, in percent.

From arXiv 2605.12357: tables 1 and 2, the figure of answers without context, the ablations. Cells of the textual
baselines that the paper fills with the backbone's scores are left empty.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

SOURCE = "arXiv 2605.12357"
RELEASE, NO_CONTEXT = "release", "no_context"
# The paper's five benchmarks, each with how many questions it asks.
QUESTIONS = {"ifeval": 541, "hotpotqa": 7405, "gpqa": 198, "memoryagentbench": 3671, "locomo": 1540}
# The categories that it tells apart, by task, each with its share of the questions.
CATEGORIES: Mapping[str, Mapping[str, int]] = {
    "memoryagentbench": {
        "Accurate_Retrieval": 2000,
        "Test_Time_Learning": 700,
        "Long_Range_Understanding": 171,
        "Conflict_Resolution": 800,
    },
    "locomo": {"multi-hop": 282, "temporal": 321, "open-domain": 96, "single-hop": 841},
    "hotpotqa": {"bridge": 5918, "comparison": 1487},
}
# Those that show nothing before the question, so that full context and no context are one.
WITHOUT_HISTORY = frozenset({"ifeval", "gpqa"})
F1 = "f1"
_LABELS = {
    "none": "no context",
    "token": "δ-mem, state alone",
    "full": "full context",
    "bm25": "BM25 RAG",
    "llmlingua2": "LLMLingua-2",
    "memorybank": "MemoryBank",
    "context2lora": "Context2LoRA",
    "memgen": "MemGen",
    "mlp_memory": "MLP Memory",
    "segment+context": "δ-mem SSW",
    "token+context": "δ-mem TSW",
    "multi+context": "δ-mem MSW",
}
# Those whose settings the paper does not tell.
UNSETTLED = frozenset({"bm25", "llmlingua2", "memorybank", "context2lora", "memgen", "mlp_memory"})

Part = tuple[str, str]


@dataclass(frozen=True)
class Published:
    """A row of the paper.

    Attributes:
        model: the backbone.
        method: our name of the method; in the tables all see the full prompt, so δ-mem's are memory and context.
        protocol: ours that it ran by.
        scores: by task and part, which is a category, :data:`F1` or, of the main score of all questions, empty.
        average: over the five benchmarks, as printed.
    """

    model: str
    method: str
    protocol: str
    scores: Mapping[Part, float]
    average: float | None = None

    @property
    def label(self) -> str:
        """The method, as the paper calls it."""
        return _LABELS[self.method]

    def over_questions(self, task: str) -> float | None:
        """The mean of a task's categories by their questions, if they are told."""
        return self._mean(task, CATEGORIES.get(task, {}))

    def over_categories(self, task: str) -> float | None:
        """Their plain mean."""
        return self._mean(task, dict.fromkeys(CATEGORIES.get(task, {}), 1))

    def averaged(self, task: str) -> str:
        """Which of both the task's printed score is nearest to: ``question`` or ``category``."""
        one, other, printed = self.over_questions(task), self.over_categories(task), self.scores.get((task, ""))
        if one is None or other is None or printed is None or abs(printed - one) <= abs(printed - other):
            return "question"
        return "category"

    def _mean(self, task: str, weights: Mapping[str, int]) -> float | None:
        if not weights or any((task, name) not in self.scores for name in weights):
            return None
        return sum(weight * self.scores[task, name] for name, weight in weights.items()) / sum(weights.values())


def published_for(task: str, protocol: str = RELEASE) -> list[Published]:
    """The rows that say something about a task: its figure without context, the tables for any other protocol."""
    wanted = NO_CONTEXT if protocol == NO_CONTEXT else RELEASE
    return [row for row in ROWS if row.protocol == wanted and (task, "") in row.scores]


def mean_of_benchmarks(row: Published) -> float:
    """The mean of a table's five columns; where one is empty the backbone's stands for it, as in the paper."""
    bare = next(other for other in ROWS if (other.model, other.method) == (row.model, "full"))
    return sum(row.scores.get((task, ""), bare.scores[task, ""]) for task in QUESTIONS) / len(QUESTIONS)


_COLUMNS: Sequence[Part] = (
    ("ifeval", ""),
    ("hotpotqa", ""),
    ("hotpotqa", F1),
    ("gpqa", ""),
    *(("memoryagentbench", part) for part in ("", *CATEGORIES["memoryagentbench"])),
    *(("locomo", part) for part in ("", *CATEGORIES["locomo"])),
)
# A line with a backbone, then a line a method: the columns, and the printed average.
_TABLES = """
Qwen3-4B-Instruct-2507
full            81.89 42.35 56.00 39.39 29.54 35.30 26.14 47.08 14.37 40.79 38.39 32.89 10.77 48.05 46.79
bm25                - 40.35 52.83     - 24.49 32.20  9.74 37.86 15.00 36.68 38.12 20.34  9.99 45.47 44.56
llmlingua2          - 36.93 50.03     - 15.63 21.45  1.43 38.45  8.62 40.98 39.07 30.13 10.98 49.19 42.96
memorybank          -     -     -     - 17.65 22.65  7.67 36.36  9.88 38.14 37.88 21.76 13.35 47.31 43.88
context2lora    76.71 37.85 50.88 29.29 32.53 40.00 29.86 25.15 17.75 48.11 37.95 34.99 16.75 60.11 44.90
memgen          39.37  5.36 16.27 38.89 29.61 34.85 28.45 44.30 14.38 40.05 32.93 33.30 12.67 48.13 30.66
mlp_memory      24.95 10.94 25.83 22.73 28.80 35.35 26.00 31.19 14.38 26.85 32.87 16.72  8.81 30.75 22.85
segment+context 81.70 49.22 63.43 41.41 37.84 41.50 50.50 43.02 16.50 47.05 41.00 36.48 14.08 56.88 51.44
token+context   82.99 49.41 63.66 40.40 36.48 42.45 40.64 46.08 15.88 46.53 42.14 37.20 13.35 55.36 51.66
multi+context   81.52 46.86 60.47 37.37 38.85 44.40 47.29 41.55 17.00 49.12 42.57 39.31 18.12 58.59 50.74
Qwen3-8B
full            79.67 32.48 41.42 44.95 31.87 45.10 12.79 48.22 12.00 47.02 41.28 30.43 14.20 59.03 47.20
segment+context 80.41 43.81 56.61 45.45 33.63 45.55 19.52 46.11 13.50 51.01 46.46 35.36 20.05 62.05 50.86
token+context   82.81 41.97 53.61 44.95 32.97 45.65 16.43 46.41 12.88 50.70 44.35 34.76 17.90 62.66 50.68
multi+context   80.96 40.15 51.34 49.49 32.66 45.55 14.95 44.60 13.38 50.92 45.52 34.82 21.21 62.27 50.84
context2lora    77.26 36.22 49.19 38.38 30.52 43.15 10.05 34.04 16.13 47.20 35.18 35.05 20.49 58.92 45.92
SmolLM3-3B
full            67.10  1.67 14.40 23.23 14.21 12.57  5.53 30.72  8.00 24.18 22.41 16.49 10.87 29.22 26.08
segment+context 70.61 27.35 43.26 26.77 19.22 16.80  6.50 37.84 15.75 39.39 29.12 27.09 22.57 49.45 36.67
token+context   66.36 24.90 41.28 26.26 20.74 17.98  8.71 41.63 15.75 35.46 27.48 25.34 17.04 44.10 34.74
multi+context   67.47 31.61 46.77 25.76 20.54 18.10  8.32 39.63 16.12 39.41 29.78 27.15 19.59 49.59 36.96
context2lora    62.29 30.28 44.39 26.77 17.62 16.08  2.86 36.77 14.75 37.74 26.35 26.05 15.41 48.58 34.94
"""
# Answers from the state alone, and with nothing, on Qwen3-4B. Which writes the state had is not told: token is a guess.
_WITHOUT_CONTEXT_COLUMNS: Sequence[Part] = (
    *(("hotpotqa", part) for part in ("", F1, *CATEGORIES["hotpotqa"])),
    *(("locomo", part) for part in ("", *CATEGORIES["locomo"])),
)
_WITHOUT_CONTEXT = """
Qwen3-4B-Instruct-2507
none             0.08  8.27  0.08  0.07  6.89  8.77  1.06 11.97  7.90
token            6.48 15.20  3.97 16.48  9.62  9.52  2.33 18.00 11.48
"""
# δ-mem TSW on Qwen3-4B: where the corrections go, HotpotQA EM, LoCoMo F1, and their mean as printed.
ABLATIONS: tuple[tuple[str, float, float, float], ...] = (
    ("q", 45.87, 43.15, 44.51),
    ("k", 43.39, 40.98, 42.19),
    ("v", 46.12, 42.35, 44.24),
    ("o", 48.94, 45.15, 47.05),
    ("q, k", 45.46, 42.94, 44.20),
    ("q, v", 47.02, 43.24, 45.13),
    ("q, o (the default)", 49.41, 46.53, 47.97),
    ("k, v", 45.67, 42.02, 43.85),
    ("q, k, o", 48.24, 46.01, 47.13),
    ("q, k, v", 47.47, 42.42, 44.95),
    ("q, k, v, o", 49.94, 46.15, 48.05),
    ("q, o in the first 12 layers", 45.52, 43.26, 44.39),
    ("q, o in the middle 12", 47.44, 45.87, 46.66),
    ("q, o in the last 12", 44.58, 43.53, 44.06),
)


def _rows(text: str, columns: Sequence[Part], protocol: str) -> list[Published]:
    rows: list[Published] = []
    model = ""
    for name, *cells in map(str.split, text.strip().splitlines()):
        if not cells:
            model = name
            continue
        values = [None if cell == "-" else float(cell) for cell in cells]
        average = values.pop() if len(values) > len(columns) else None
        scores = {part: value for part, value in zip(columns, values, strict=True) if value is not None}
        rows.append(Published(model, name, protocol, scores, average))
    return rows


ROWS = (*_rows(_TABLES, _COLUMNS, RELEASE), *_rows(_WITHOUT_CONTEXT, _WITHOUT_CONTEXT_COLUMNS, NO_CONTEXT))
