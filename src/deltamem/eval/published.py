"""The numbers that have been published, to stand beside ours: arXiv 2605.12357, tables 1 and 2, in percent.

Cells of the textual baselines that the paper fills with the backbone's scores are left empty here, and so are its
averages over all benchmarks: one of them does not follow from its row.
"""

from dataclasses import dataclass

SOURCE = "arXiv 2605.12357, tables 1 and 2"
PROTOCOL = "release"

# The paper's columns, as (task, category); no category is the whole task.
COLUMNS: tuple[tuple[str, str], ...] = (
    ("ifeval", ""),
    ("hotpotqa", ""),
    ("hotpotqa:f1", ""),
    ("gpqa", ""),
    ("memoryagentbench", ""),
    ("memoryagentbench", "Accurate_Retrieval"),
    ("memoryagentbench", "Test_Time_Learning"),
    ("memoryagentbench", "Long_Range_Understanding"),
    ("memoryagentbench", "Conflict_Resolution"),
    ("locomo", ""),
    ("locomo", "multi-hop"),
    ("locomo", "temporal"),
    ("locomo", "open-domain"),
    ("locomo", "single-hop"),
)


@dataclass(frozen=True)
class Published:
    """A row of the paper.

    Attributes:
        model: the backbone.
        label: the method, as the paper calls it.
        method: our name of it; all of them see the full prompt, so δ-mem's rows are memory and context.
        scores: by task and category, in percent.
    """

    model: str
    label: str
    method: str
    scores: dict[tuple[str, str], float]


def published_for(task: str) -> list[Published]:
    """The rows that say something about a task."""
    return [row for row in ROWS if (task, "") in row.scores]


def _scores(*values: float | None) -> dict[tuple[str, str], float]:
    return {column: value for column, value in zip(COLUMNS, values, strict=True) if value is not None}


ROWS: tuple[Published, ...] = (
    Published(
        "Qwen3-4B-Instruct-2507",
        "full context",
        "full",
        _scores(81.89, 42.35, 56.0, 39.39, 29.54, 35.3, 26.14, 47.08, 14.37, 40.79, 38.39, 32.89, 10.77, 48.05),
    ),
    Published(
        "Qwen3-4B-Instruct-2507",
        "BM25 RAG",
        "bm25",
        _scores(None, 40.35, 52.83, None, 24.49, 32.2, 9.74, 37.86, 15.0, 36.68, 38.12, 20.34, 9.99, 45.47),
    ),
    Published(
        "Qwen3-4B-Instruct-2507",
        "LLMLingua-2",
        "llmlingua2",
        _scores(None, 36.93, 50.03, None, 15.63, 21.45, 1.43, 38.45, 8.62, 40.98, 39.07, 30.13, 10.98, 49.19),
    ),
    Published(
        "Qwen3-4B-Instruct-2507",
        "MemoryBank",
        "memorybank",
        _scores(None, None, None, None, 17.65, 22.65, 7.67, 36.36, 9.88, 38.14, 37.88, 21.76, 13.35, 47.31),
    ),
    Published(
        "Qwen3-4B-Instruct-2507",
        "Context2LoRA",
        "context2lora",
        _scores(76.71, 37.85, 50.88, 29.29, 32.53, 40.0, 29.86, 25.15, 17.75, 48.11, 37.95, 34.99, 16.75, 60.11),
    ),
    Published(
        "Qwen3-4B-Instruct-2507",
        "MemGen",
        "memgen",
        _scores(39.37, 5.36, 16.27, 38.89, 29.61, 34.85, 28.45, 44.3, 14.38, 40.05, 32.93, 33.3, 12.67, 48.13),
    ),
    Published(
        "Qwen3-4B-Instruct-2507",
        "MLP Memory",
        "mlp_memory",
        _scores(24.95, 10.94, 25.83, 22.73, 28.8, 35.35, 26.0, 31.19, 14.38, 26.85, 32.87, 16.72, 8.81, 30.75),
    ),
    Published(
        "Qwen3-4B-Instruct-2507",
        "δ-mem SSW",
        "segment+context",
        _scores(81.7, 49.22, 63.43, 41.41, 37.84, 41.5, 50.5, 43.02, 16.5, 47.05, 41.0, 36.48, 14.08, 56.88),
    ),
    Published(
        "Qwen3-4B-Instruct-2507",
        "δ-mem TSW",
        "token+context",
        _scores(82.99, 49.41, 63.66, 40.4, 36.48, 42.45, 40.64, 46.08, 15.88, 46.53, 42.14, 37.2, 13.35, 55.36),
    ),
    Published(
        "Qwen3-4B-Instruct-2507",
        "δ-mem MSW",
        "multi+context",
        _scores(81.52, 46.86, 60.47, 37.37, 38.85, 44.4, 47.29, 41.55, 17.0, 49.12, 42.57, 39.31, 18.12, 58.59),
    ),
    Published(
        "Qwen3-8B",
        "full context",
        "full",
        _scores(79.67, 32.48, 41.42, 44.95, 31.87, 45.1, 12.79, 48.22, 12.0, 47.02, 41.28, 30.43, 14.2, 59.03),
    ),
    Published(
        "Qwen3-8B",
        "δ-mem SSW",
        "segment+context",
        _scores(80.41, 43.81, 56.61, 45.45, 33.63, 45.55, 19.52, 46.11, 13.5, 51.01, 46.46, 35.36, 20.05, 62.05),
    ),
    Published(
        "Qwen3-8B",
        "δ-mem TSW",
        "token+context",
        _scores(82.81, 41.97, 53.61, 44.95, 32.97, 45.65, 16.43, 46.41, 12.88, 50.7, 44.35, 34.76, 17.9, 62.66),
    ),
    Published(
        "Qwen3-8B",
        "δ-mem MSW",
        "multi+context",
        _scores(80.96, 40.15, 51.34, 49.49, 32.66, 45.55, 14.95, 44.6, 13.38, 50.92, 45.52, 34.82, 21.21, 62.27),
    ),
    Published(
        "Qwen3-8B",
        "Context2LoRA",
        "context2lora",
        _scores(77.26, 36.22, 49.19, 38.38, 30.52, 43.15, 10.05, 34.04, 16.13, 47.2, 35.18, 35.05, 20.49, 58.92),
    ),
    Published(
        "SmolLM3-3B",
        "full context",
        "full",
        _scores(67.1, 1.67, 14.4, 23.23, 14.21, 12.57, 5.53, 30.72, 8.0, 24.18, 22.41, 16.49, 10.87, 29.22),
    ),
    Published(
        "SmolLM3-3B",
        "δ-mem SSW",
        "segment+context",
        _scores(70.61, 27.35, 43.26, 26.77, 19.22, 16.8, 6.5, 37.84, 15.75, 39.39, 29.12, 27.09, 22.57, 49.45),
    ),
    Published(
        "SmolLM3-3B",
        "δ-mem TSW",
        "token+context",
        _scores(66.36, 24.9, 41.28, 26.26, 20.74, 17.98, 8.71, 41.63, 15.75, 35.46, 27.48, 25.34, 17.04, 44.1),
    ),
    Published(
        "SmolLM3-3B",
        "δ-mem MSW",
        "multi+context",
        _scores(67.47, 31.61, 46.77, 25.76, 20.54, 18.1, 8.32, 39.63, 16.12, 39.41, 29.78, 27.15, 19.59, 49.59),
    ),
    Published(
        "SmolLM3-3B",
        "Context2LoRA",
        "context2lora",
        _scores(62.29, 30.28, 44.39, 26.77, 17.62, 16.08, 2.86, 36.77, 14.75, 37.74, 26.35, 26.05, 15.41, 48.58),
    ),
)
