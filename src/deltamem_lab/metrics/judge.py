"""Answers judged by a language model behind any endpoint of OpenAI's protocol.

LongMemEval's prompts are its authors'. LoCoMo's authors ask no judge, and of the prompts that others ask none is the
usual one: ours asks for what mem0's does, in our words. InfBench's summaries are judged by the rubric of
MemoryAgentBench's authors, in our words or, from a file of theirs, in theirs.
"""

import ast
import hashlib
import json
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from deltamem.extensions import from_extra

_COMPARE = "I will give you a question, a correct answer, and a response from a model. "
_CONTAINS = "Please answer yes if the response contains the correct answer. Otherwise, answer no. "
_EQUIVALENT = (
    "If the response is equivalent to the correct answer or contains all the intermediate steps to get the correct "
    "answer, you should also answer yes. If the response only contains a subset of the information required by the "
    "answer, answer no. "
)
_OFF_BY_ONE = (
    "In addition, do not penalize off-by-one errors for the number of days. If the question asks for the number of "
    "days/weeks/months, etc., and the model makes off-by-one errors (e.g., predicting 19 days when the answer is "
    "18), the model's response is still correct. "
)
_UPDATED = (
    "If the response contains some previous information along with an updated answer, the response should be "
    "considered as correct as long as the updated answer is the required answer."
)
_FIELDS = "\n\nQuestion: {question}\n\nCorrect Answer: {gold}\n\nModel Response: {response}\n\n"
_CORRECT = "Is the model response correct? Answer yes or no only."
_PREFERENCE = (
    "I will give you a question, a rubric for desired personalized response, and a response from a model. Please "
    "answer yes if the response satisfies the desired response. Otherwise, answer no. The model does not need to "
    "reflect all the points in the rubric. The response is correct as long as it recalls and utilizes the user's "
    "personal information correctly.\n\nQuestion: {question}\n\nRubric: {gold}\n\nModel Response: {response}\n\n"
)
_UNANSWERABLE = (
    "I will give you an unanswerable question, an explanation, and a response from a model. Please answer yes if the "
    "model correctly identifies the question as unanswerable. The model could say that the information is incomplete, "
    "or some other information is given but the asked information is not.\n\nQuestion: {question}\n\nExplanation: "
    "{gold}\n\nModel Response: {response}\n\nDoes the model correctly identify the question as unanswerable? Answer "
    "yes or no only."
)
_TEMPLATES = {
    "single-session-user": _COMPARE + _CONTAINS + _EQUIVALENT + _FIELDS + _CORRECT,
    "single-session-assistant": _COMPARE + _CONTAINS + _EQUIVALENT + _FIELDS + _CORRECT,
    "multi-session": _COMPARE + _CONTAINS + _EQUIVALENT + _FIELDS + _CORRECT,
    "temporal-reasoning": _COMPARE + _CONTAINS + _EQUIVALENT + _OFF_BY_ONE + _FIELDS + _CORRECT,
    "knowledge-update": _COMPARE + _CONTAINS + _UPDATED + _FIELDS + _CORRECT,
    "single-session-preference": _PREFERENCE + _CORRECT,
}
QUESTION_TYPES = tuple(_TEMPLATES)
LONGMEMEVAL_PROMPTS = (*_TEMPLATES.values(), _UNANSWERABLE)
_LOCOMO = (
    "Two people have talked over several months. One of them was asked something that follows from their talks. Decide "
    "whether the answer says the same as the right one. It may be longer, in other words, or in another form of a date "
    "or number; a relative time counts if it means the same time. It is wrong if it leaves out or contradicts what the "
    "right answer says, or does not answer.\n\nQuestion: {question}\nRight answer: {gold}\nAnswer: {response}\n\n"
    "Reply with one word: CORRECT or WRONG."
)
LOCOMO_PROMPTS = (_LOCOMO,)
_TRIES = 3


class SummaryPrompts(NamedTuple):
    """The three prompts that judge a summary of a novel, as templates of :meth:`str.format`.

    Attributes:
        fluency: has ``{text}``; the reply ends with JSON such as ``{"fluency": 1}``.
        recall: has ``{keypoints}``, one a line, and ``{summary}``; ``{"recall": 3}``.
        precision: has ``{expert_summary}`` and ``{summary}``; ``{"precision": 7, "sentence_count": 20}``.
    """

    fluency: str
    recall: str
    precision: str


SUMMARY_PROMPTS = SummaryPrompts(
    fluency=(
        "Judge whether a text reads well. Give 1 if it is coherent, grammatical and does not repeat itself; that its "
        "last sentence is cut off does not matter. Give 0 if it is incoherent, says the same again and again, breaks "
        'off before it has said anything, or is no text at all.\n\nText: "{text}"\n\n'
        'Reply with JSON alone, such as {{"fluency": 1}}.'
    ),
    recall=(
        "Judge how much a summary of a novel tells. Count the key points below that it supports: what a point says of "
        "people and events must be there, in whatever words. What supports only a part of a point does not count. Do "
        "not mind what else the summary says.\n\nKey points:\n{keypoints}\n\nSummary: {summary}\n\nGo through the "
        'points one by one, then end with JSON such as {{"recall": 3}}.'
    ),
    precision=(
        "Judge how much of a summary of a novel is true. Count its sentences, and those of them that the summary of an "
        "expert supports. A sentence is supported if all that it says follows from the expert's; what the expert does "
        "not mention does not.\n\nExpert's summary: {expert_summary}\n\nSummary: {summary}\n\nGo through the sentences "
        'one by one, then end with JSON such as {{"precision": 7, "sentence_count": 20}}.'
    ),
)


def judge_prompt(kind: str, question: str, gold: str, response: str, *, abstention: bool = False) -> str:
    """The authors' prompt to the judge for a type of question.

    Args:
        kind: one of :data:`QUESTION_TYPES`.
        question: what was asked.
        gold: the right answer, the rubric of a preference, or why the question cannot be answered.
        response: what the model said.
        abstention: the question cannot be answered, and the answer should say so.

    Raises:
        ValueError: there is no such type.
    """
    if kind not in _TEMPLATES:
        raise ValueError(f"There is no judge's prompt for {kind!r}; there is one for {', '.join(QUESTION_TYPES)}.")
    template = _UNANSWERABLE if abstention else _TEMPLATES[kind]
    return template.format(question=question, gold=gold, response=response)


def summary_prompts(path: Path) -> SummaryPrompts:
    """The authors' own prompts out of MemoryAgentBench's ``summarization_evaluate.py``, which is read and never run.

    Raises:
        ValueError: the file has none.
    """
    texts: dict[str, str] = {}
    try:
        for node in ast.parse(path.read_text("utf-8")).body:
            if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
                value = node.value.value if isinstance(node.value, ast.Constant) else None
                if isinstance(value, str):
                    texts[node.targets[0].id] = value
        return SummaryPrompts(*(texts[f"{name}_prompt_book"] for name in SummaryPrompts._fields))
    except (SyntaxError, UnicodeDecodeError, KeyError) as error:
        raise ValueError(
            f"{path} is not MemoryAgentBench's llm_based_eval/summarization_evaluate.py, from which the judge's "
            f"prompts come ({error})."
        ) from None


@dataclass(frozen=True)
class Judge:
    """A language model behind an endpoint that speaks OpenAI's protocol.

    Attributes:
        model: its name there; the authors use ``gpt-4o-2024-08-06``, and scores by another are not theirs.
        base_url: the endpoint; OpenAI's by default.
        key_variable: the environment variable with the key. An endpoint without keys takes any value.
    """

    model: str
    base_url: str | None = None
    key_variable: str = "OPENAI_API_KEY"

    def settings(self, prompts: Sequence[str]) -> dict[str, str]:
        """What scores depend on: the model, its endpoint, and the SHA-256 of the prompts' templates."""
        return {
            "judge": self.model,
            "judge_url": self.base_url or "OpenAI's",
            "judge_prompts": hashlib.sha256("\n".join(prompts).encode()).hexdigest(),
        }

    def says_yes(self, prompt: str) -> bool:
        """Whether the judge's answer, at temperature 0 and of at most ten tokens, contains "yes".

        Raises:
            ImportError: openai is not installed.
            ValueError: the key's variable is not set.
            openai.OpenAIError: the endpoint cannot be reached or refuses, after its client's own retries.
        """
        return "yes" in self._reply(prompt, 10).lower()

    def says_correct(self, question: str, gold: str, response: str) -> bool:
        """Whether the judge finds an answer to one of LoCoMo's questions right; a reply without a verdict is a no.

        It fails as :meth:`says_yes` does.
        """
        reply = self._reply(_LOCOMO.format(question=question, gold=gold, response=response), 200)
        verdicts = re.findall(r"\b(?:CORRECT|WRONG|INCORRECT)\b", reply.upper())
        return verdicts[-1:] == ["CORRECT"]

    def summary_scores(
        self, summary: str, expert: str, points: Sequence[str], prompts: SummaryPrompts = SUMMARY_PROMPTS
    ) -> dict[str, float]:
        """A summary's ``fluency`` (0 or 1), ``recall`` of key points and ``precision`` of sentences, in [0, 1].

        ``score`` is fluency times the harmonic mean of the other two, as MemoryAgentBench's authors have it. It fails
        as :meth:`says_yes` does, and by a ``ValueError`` where the judge's replies have no numbers to read.
        """
        text, listed = summary.strip(), "\n".join(f"{number}. {point}" for number, point in enumerate(points, start=1))
        fluency = self._numbers(prompts.fluency.format(text=text), "fluency")
        told = self._numbers(prompts.recall.format(keypoints=listed, summary=text), "recall")
        true = self._numbers(
            prompts.precision.format(expert_summary=expert, summary=text), "precision", "sentence_count"
        )
        recall = _share(told["recall"], len(points))
        precision = _share(true["precision"], true["sentence_count"])
        fluent = _share(fluency["fluency"], 1)
        both = 2 * recall * precision / (recall + precision) if recall + precision else 0.0
        return {"score": fluent * both, "fluency": fluent, "recall": recall, "precision": precision}

    def _numbers(self, prompt: str, *names: str) -> dict[str, float]:
        """What the last JSON object of a reply says, at the authors' temperature of 0.1; asked again if it has none."""
        reply = ""
        for _ in range(_TRIES):
            reply = self._reply(prompt, 4096, temperature=0.1)
            for found in reversed(re.findall(r"\{[^{}]*\}", reply)):
                try:
                    data = json.loads(found)
                    return {name: float(data[name]) for name in names}
                except (ValueError, KeyError, TypeError):
                    continue
        wanted = " and ".join(names)
        raise ValueError(f"{self.model} gave no JSON with {wanted} in {_TRIES} replies; the last: {reply!r}.")

    def _reply(self, prompt: str, tokens: int, *, temperature: float = 0) -> str:
        reply = self._client().chat.completions.create(
            model=self.model,
            messages=[{"role": "user", "content": prompt}],
            temperature=temperature,
            max_tokens=tokens,
        )
        return reply.choices[0].message.content or ""

    def _client(self) -> Any:
        key = os.environ.get(self.key_variable)
        if not key:
            raise ValueError(f"Set {self.key_variable} to the judge's key (any text if the endpoint asks for none).")
        with from_extra("eval", "A judge needs openai"):
            import openai
        return openai.OpenAI(api_key=key, base_url=self.base_url, max_retries=5)


def _share(part: float, whole: float) -> float:
    """A judge that counts more than there is has found all of it."""
    return min(1.0, max(0.0, part / whole)) if whole > 0 else 0.0
