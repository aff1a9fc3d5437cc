"""HotpotQA's scores (Yang et al., 2018), as its authors compute them and as the release does."""

from deltamem_lab.metrics.text import exact, first_line, normalise_as_released, strict_f1, token_f1_as_released


def hotpotqa_scores(output: str, gold: str) -> dict[str, float]:
    """Exact match and F1 by the official script: punctuation deleted, a wrong yes or no scores nothing."""
    answer = first_line(output)
    return {"em": exact(answer, gold), "f1": strict_f1(answer, gold)}


def hotpotqa_scores_as_released(output: str, gold: str) -> dict[str, float]:
    """Exact match and F1 of the first line by the release's rules: punctuation to spaces, no rule for yes and no."""
    answer = first_line(output)
    return {
        "em": exact(answer, gold, normalise_as_released),
        "f1": token_f1_as_released(answer, gold),
    }
