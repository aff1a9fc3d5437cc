"""Answers of a given form: which tokens may come next, by a grammar that llguidance follows."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NewType

import torch
from torch import Tensor

from deltamem.extensions import from_extra


class UnsupportedGrammarError(ValueError):
    """A schema, expression or grammar cannot be followed."""


@dataclass(frozen=True)
class CallShape:
    """How a model writes the call of a tool.

    Attributes:
        begin: what comes before the JSON of a call.
        end: what comes after it.
        between: what stands between two calls.
        arguments: what the arguments are called in it.
    """

    begin: str
    end: str
    between: str
    arguments: str


Form = NewType("Form", str)
"""A form that answers can have: a grammar in Lark's notation with llguidance's additions."""


class Forms:
    """Forms of answers for one tokenizer. What takes time is done once, when a form is first used.

    Args:
        tokenizer: the model's.
        ends: its end tokens.

    Raises:
        ImportError: llguidance is not installed; the message names the extra.
    """

    def __init__(self, tokenizer: Any, ends: Sequence[int]) -> None:
        with from_extra("structured", "Answers of a given form need llguidance"):
            import llguidance
        self._library = llguidance
        # Only marks in angle brackets can be named in a grammar.
        self._special = {word for word in tokenizer.get_added_vocab() if word.startswith("<") and word.endswith(">")}
        self._tokens = llguidance.LLTokenizer(
            definition_without_prefix(tokenizer), n_vocab=len(tokenizer), eos_token=ends[0]
        )

    def schema(self, schema: Mapping[str, Any]) -> Form:
        """JSON that a schema describes, written as compactly as ``json.dumps`` does.

        Raises:
            UnsupportedGrammarError: the schema cannot be followed.
        """
        return self.lark(f"start: {_json(schema)}")

    def regex(self, expression: str) -> Form:
        """Text that a regular expression matches as a whole.

        Raises:
            UnsupportedGrammarError: the expression cannot be followed.
        """
        try:
            made = self._library.LLMatcher.grammar_from_regex(expression)
        except ValueError as error:
            raise UnsupportedGrammarError(_first_line(error)) from None
        return self.lark(json.loads(made)["grammars"][0]["lark_grammar"])

    def calls(
        self,
        tools: Mapping[str, Mapping[str, Any]],
        shape: CallShape,
        most: int,
        otherwise: Mapping[str, Any] | None = None,
    ) -> Form:
        """Calls of tools, and nothing else.

        Args:
            tools: the schema of the arguments of each tool that may be called, by name.
            shape: how a call is written.
            most: how many calls.
            otherwise: the schema of an answer that calls none, if there may be one.

        Raises:
            UnsupportedGrammarError: a schema cannot be followed.
        """
        either = [
            {
                "type": "object",
                "properties": {"name": {"const": name}, shape.arguments: {"type": "object", **schema}},
                "required": ["name", shape.arguments],
                "additionalProperties": False,
            }
            for name, schema in tools.items()
        ]
        call = either[0] if len(either) == 1 else {"anyOf": either}
        marked = (self._mark(shape.begin), "obj", self._mark(shape.end))
        rules = [
            f"start: {'calls' if otherwise is None else 'calls | answer'}",
            f"calls: call{f' (sep call){{0,{most - 1}}}' if most > 1 else ''}",
            f"call: {' '.join(part for part in marked if part)}",
            f"obj: {_json(call)}",
        ]
        if most > 1:
            rules.append(f"sep: {json.dumps(shape.between)}")
        if otherwise is not None:
            rules.append(f"answer: {_json(otherwise)}")
        return self.lark("\n".join(rules))

    def _mark(self, text: str) -> str:
        """A mark around a call in a grammar: by its own token where the vocabulary has one."""
        word = text.strip()
        if word in self._special:
            before, after = text.split(word)
            return " ".join(part for part in (before and json.dumps(before), word, after and json.dumps(after)) if part)
        return json.dumps(text) if text else ""

    def choice(self, choices: Sequence[str]) -> Form:
        """One of some texts."""
        options = " | ".join(json.dumps(choice) for choice in choices)
        return self.lark(f"start: {options}")

    def lark(self, grammar: str) -> Form:
        """Text of a context-free grammar, in Lark's notation with llguidance's additions.

        Raises:
            UnsupportedGrammarError: the grammar cannot be followed.
        """
        try:
            made = self._library.LLMatcher.grammar_from_lark(grammar)
        except ValueError as error:
            raise UnsupportedGrammarError(_first_line(error)) from None
        wrong = self._library.LLMatcher.validate_grammar(made, self._tokens)
        if wrong:
            raise UnsupportedGrammarError(_first_line(wrong))
        return Form(grammar)

    def begin(self, form: Form) -> "Constraint":
        """The constraint of one generation."""
        made = self._library.LLMatcher.grammar_from_lark(form)
        return Constraint(form, self._library.LLMatcher(self._tokens, made), self._tokens.vocab_size)


class Constraint:
    """What one generation may say next; it is told every token that was chosen.

    Args:
        form: what it follows, for an engine that follows forms itself.
        matcher: llguidance's, of that form.
        vocabulary: V, how many tokens there are.
    """

    def __init__(self, form: Form, matcher: Any, vocabulary: int) -> None:
        self.form = form
        self._matcher = matcher
        self._vocabulary = vocabulary

    def allowed(self) -> Tensor:
        """``[V]`` bool on the CPU, the tokens that may come next."""
        packed = torch.frombuffer(bytearray(self._matcher.compute_bitmask()), dtype=torch.uint8)
        bits = (packed[:, None] >> torch.arange(8, dtype=torch.uint8)) & 1
        return bits.flatten()[: self._vocabulary].bool()

    def take(self, token: int) -> None:
        """Takes the next token."""
        if not self._matcher.is_stopped():
            self._matcher.consume_token(token)

    @property
    def finished(self) -> bool:
        """Whether nothing may follow."""
        return bool(self._matcher.is_stopped())


def mask(logits: Tensor, constraints: Sequence[Constraint | None]) -> Tensor:
    """Logits ``[B, V]`` with those of the tokens that a row must not say at minus infinity."""
    if not any(constraints):
        return logits
    logits = logits.clone()
    for row, constraint in enumerate(constraints):
        if constraint is not None:
            allowed = constraint.allowed()
            logits[row, : len(allowed)].masked_fill_(~allowed.to(logits.device), float("-inf"))
            logits[row, len(allowed) :] = float("-inf")
    return logits


# Small models go on with spaces for ever where they may.
_SPACES = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}


def _json(schema: Mapping[str, Any]) -> str:
    """The JSON of a schema within a grammar."""
    return f"%json {json.dumps({**schema, 'x-guidance': _SPACES})}"


def definition_without_prefix(tokenizer: Any) -> str:
    """A tokenizer's definition as JSON, without what puts a space before every text: which is not part of the text."""
    return json.dumps(_without_prefix(json.loads(tokenizer.backend_tokenizer.to_str())))


def _without_prefix(part: Any) -> Any:
    if isinstance(part, list):
        return [_without_prefix(one) for one in part]
    if not isinstance(part, dict):
        return part
    found = {name: _without_prefix(value) for name, value in part.items()}
    if found.get("add_prefix_space") is True:
        found["add_prefix_space"] = False
    if "prepend_scheme" in found:
        found["prepend_scheme"] = "never"
    return found


def _first_line(problem: object) -> str:
    return str(problem).strip().splitlines()[0][:300]
