"""What the bodies of requests share."""

from collections.abc import Callable
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Discriminator, Field, model_validator

from deltamem.files import is_text
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


def _whole(text: Any) -> Any:
    if isinstance(text, str) and not is_text(text):
        raise ValueError("it holds half of a surrogate pair, which is not a character")
    return text


def by_form(otherwise: str, form: Callable[[Any], str] = lambda value: type(value).__name__) -> Discriminator:
    """Checks a value that may have several forms as the one that it resembles, so that an error is about that form.

    Args:
        otherwise: the error for a value of no such form.
        form: the tag of a value's form; by default the name of its type.
    """
    return Discriminator(form, custom_error_type="wrong_form", custom_error_message=otherwise)


def only_type(*types: str, otherwise: str) -> Any:
    """A validator that refuses an object of another ``type`` before its fields are looked at.

    Args:
        types: those that there are.
        otherwise: the error; ``{}`` is the other type.
    """

    def check(data: Any) -> Any:
        found = data.get("type") if isinstance(data, dict) else None
        if isinstance(found, str) and found not in types:
            raise ValueError(otherwise.format(repr(found)))
        return data

    return model_validator(mode="before")(check)


Role = Literal["user", "assistant", "tool"]
Roles = Annotated[list[Role], Field(min_length=1)]
WHOLE = BeforeValidator(_whole)  # first, as limits of length refuse such texts with other words
WholeText = Annotated[str, WHOLE]
SomeText = Annotated[str, Field(min_length=1), WHOLE]
SessionName = Annotated[str, Field(pattern=f"^{NAME_PATTERN}$", max_length=128, examples=["ravi"])]
Label = Annotated[str, Field(min_length=1, max_length=200)]
Seconds = Annotated[float, Field(gt=0, le=10 * 366 * 86400)]
Version = Annotated[int, Field(ge=1, lt=2**31)]
Question = Annotated[str, Field(min_length=1, max_length=500), WHOLE]
