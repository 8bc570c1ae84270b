"""How much accuracy each precision may cost."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict

from edgevit.errors import UserError


class Tolerance(BaseModel):
    """What an artifact of one precision may differ from its float reference."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    precision: str
    normalised_error: float
    """Largest max |actual - reference| / max |reference| that passes."""
    same_top1: bool
    """Whether the top class must be the reference's on every input."""
    reason: str


TOLERANCES = {
    tolerance.precision: tolerance
    for tolerance in (
        Tolerance(
            precision="fp32",
            normalised_error=1e-4,
            same_top1=True,
            reason="Another order of summation moves a right fp32 result by some 1e-6 of its range a layer, "
            "a wrong kernel by far more than 1e-4.",
        ),
        Tolerance(
            precision="fp16",
            normalised_error=5e-3,
            same_top1=False,
            reason="Half precision rounds at 2^-11, or 4.9e-4, and errors add up over the layers; on noise "
            "the two best classes can lie closer together than that.",
        ),
        Tolerance(
            precision="int8",
            normalised_error=1e-1,
            same_top1=False,
            reason="A step of an 8-bit tensor is 1/127 of its range, and steps add up over the layers: this "
            "bound catches broken kernels only; a data set decides whether int8 is accurate enough.",
        ),
    )
}


def tolerance_for(precision: str) -> Tolerance:
    """The tolerance of a precision.

    Raises:
        UserError: there is none.
    """
    try:
        return TOLERANCES[precision]
    except KeyError:
        raise UserError(
            f"there is no tolerance for precision {precision!r}.", advice=f"Use {', '.join(TOLERANCES)}."
        ) from None
