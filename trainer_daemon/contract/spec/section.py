"""What every section of the spec is made of: frozen, without room for unknown keys, a docstring under each field."""

from typing import Annotated, Any, Literal, get_args

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

Interval = Annotated[
    Annotated[int, Field(ge=1)] | Literal["off"],
    BeforeValidator(lambda value: "off" if value is None else value),
]
"""Steps from one time to the next; off: never for the number of the step."""
Minutes = Annotated[
    Annotated[float, Field(gt=0, le=1e6, allow_inf_nan=False)] | Literal["off"],
    BeforeValidator(lambda value: "off" if value is None else value),
]
"""Wall time since it was last done, for whatever reason, until it is due; off: never for the time. The main rank's clock
decides and all ranks act at the same step. What is due by the clock falls on other steps in every run; nothing that has
an interval touches the weights, so losses and weights are the same bits all the same."""
PositiveRate = Annotated[float, Field(gt=0, le=100, allow_inf_nan=False)]
Weight = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Fraction = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
Decay = Annotated[float, Field(ge=0, lt=1, allow_inf_nan=False)]
"""Share of a running mean that one step keeps."""
Betas = tuple[Decay, Decay]
"""Of AdamW's first and second moment."""


class AddedLater:
    """`family: Annotated[Family, AddedLater()]`: a key that is not in the hash while it has its default, so that specs from
    before there was such a key keep their hash. Every key from now on wears it."""


class Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=False)


def section_of(annotation: Any) -> type[Section] | None:
    """The section that a field of this type holds; None for a plain value."""
    among = (annotation, *get_args(annotation))
    return next((t for t in among if isinstance(t, type) and issubclass(t, Section)), None)
