"""What every block of a config is built of."""

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, field_validator
from pydantic_core import PydanticCustomError

Positive = Annotated[int, Field(gt=0)]
NonNegative = Annotated[int, Field(ge=0)]
PositiveFloat = Annotated[float, Field(gt=0)]
NonNegativeFloat = Annotated[float, Field(ge=0)]
Share = Annotated[float, Field(gt=0, le=1)]
Probability = Annotated[float, Field(ge=0, lt=1)]
LARGEST, LARGEST_INT = 1e30, 2**32 - 1


class Block(BaseModel):
    """What every block has in common: no unknown keys, no conversions between types, no NaN or infinity.

    Nor numbers that torch has no room for.
    """

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False, frozen=True)

    @field_validator("*")
    @classmethod
    def _has_room(cls, value: Any) -> Any:
        for number in value if isinstance(value, list) else [value]:
            if isinstance(number, int) and abs(number) > LARGEST_INT:
                raise ValueError(f"must be at most {LARGEST_INT}, got {number:.3g}")
            if isinstance(number, float) and abs(number) > LARGEST:
                raise ValueError(f"must be at most {LARGEST:g}, got {number:g}")
        return value


def wrong(key: str, text: str) -> PydanticCustomError:
    """An error of the key ``key``, a dotted path from the block whose validator raises it."""
    return PydanticCustomError("wrong_key", "{text}", {"key": key, "text": text})
