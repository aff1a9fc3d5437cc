"""Answers judged by a language model, as LongMemEval's authors do, behind any endpoint of OpenAI's protocol."""

import hashlib
import os
from dataclasses import dataclass
from typing import Any

from deltamem.extensions import how_to_install

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

    @property
    def settings(self) -> dict[str, str]:
        """What scores depend on: the model, its endpoint, and the SHA-256 of all prompts."""
        prompts = "\n".join([*_TEMPLATES.values(), _UNANSWERABLE])
        return {
            "judge": self.model,
            "judge_url": self.base_url or "OpenAI's",
            "judge_prompts": hashlib.sha256(prompts.encode()).hexdigest(),
        }

    def says_yes(self, prompt: str) -> bool:
        """Whether the judge's answer, at temperature 0 and of at most ten tokens, contains "yes".

        Raises:
            ImportError: openai is not installed.
            ValueError: the key's variable is not set.
            openai.OpenAIError: the endpoint cannot be reached or refuses, after its client's own retries.
        """
        reply = self._client().chat.completions.create(
            model=self.model, messages=[{"role": "user", "content": prompt}], temperature=0, max_tokens=10
        )
        return "yes" in (reply.choices[0].message.content or "").lower()

    def _client(self) -> Any:
        key = os.environ.get(self.key_variable)
        if not key:
            raise ValueError(f"Set {self.key_variable} to the judge's key (any text if the endpoint asks for none).")
        try:
            import openai
        except ImportError:
            raise ImportError(f"A judge needs openai: {how_to_install('eval')}") from None
        return openai.OpenAI(api_key=key, base_url=self.base_url, max_retries=5)
