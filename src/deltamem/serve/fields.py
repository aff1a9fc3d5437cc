"""What the fields of requests' bodies may be."""

from collections.abc import Callable
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Discriminator, Field, Tag, model_validator

from deltamem.store import NAME_PATTERN


class Body(BaseModel):
    """A request's body: unknown fields are errors, and so are values of another type."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


class Options(Body):
    """A body in which null is the same as leaving a field out."""

    @model_validator(mode="before")
    @classmethod
    def _without_nulls(cls, data: Any) -> Any:
        return {name: value for name, value in data.items() if value is not None} if isinstance(data, dict) else data


def _whole(text: str) -> str:
    if any("\ud800" <= character <= "\udfff" for character in text):
        raise ValueError("it holds half of a surrogate pair, which is no character")
    return text


def _type(value: Any) -> str:
    return type(value).__name__


def _type_of_first(values: list[Any]) -> str:
    return _type(values[0]) if values else "str"


def _judged_by(choose: Callable[[Any], str], otherwise: str) -> Discriminator:
    """Has a value of several forms judged as the one that it looks like, so that the reason is about that one."""
    return Discriminator(choose, custom_error_type="wrong_form", custom_error_message=otherwise)


Role = Literal["user", "assistant", "tool"]
Roles = Annotated[list[Role], Field(min_length=1)]
Text = Annotated[str, AfterValidator(_whole)]
SessionName = Annotated[str, Field(pattern=f"^{NAME_PATTERN}$", max_length=128, examples=["ravi"])]
Label = Annotated[str, Field(min_length=1, max_length=200)]
Seconds = Annotated[float, Field(gt=0, le=10 * 366 * 86400)]
MaxTokens = Annotated[int, Field(ge=1, le=2**20)]
Zero = Annotated[float, Field(ge=0, le=0)]
Nothing = Annotated[list[Any], Field(max_length=0)]

StopText = Annotated[str, Field(min_length=1, max_length=200), AfterValidator(_whole)]
Stop = Annotated[
    Annotated[StopText, Tag("str")] | Annotated[list[StopText], Field(max_length=16), Tag("list")],
    _judged_by(_type, "Input should be a text or a list of texts"),
]


class TextPart(Body):
    """A part of a message's content."""

    type: Literal["text"]
    text: Text


Content = Annotated[
    Annotated[Text, Tag("str")] | Annotated[list[TextPart], Tag("list")],
    _judged_by(_type, "Input should be a text or a list of text parts"),
]

TokenIds = Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=1)]
PromptList = Annotated[
    Annotated[list[Text], Field(min_length=1, max_length=64), Tag("str")]
    | Annotated[TokenIds, Tag("int")]
    | Annotated[list[TokenIds], Field(min_length=1, max_length=64), Tag("list")],
    _judged_by(_type_of_first, "Input should be a list of texts, of token ids, or of lists of token ids"),
]
Prompt = Annotated[
    Annotated[Text, Tag("str")] | Annotated[PromptList, Tag("list")],
    _judged_by(_type, "Input should be a text or a list"),
]
