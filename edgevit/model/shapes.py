"""Static input shapes: parsing what the user asks for, and settling every dimension."""

from __future__ import annotations

import operator
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from edgevit.errors import ModelError, UserError

if TYPE_CHECKING:
    import onnx

Shapes = Mapping[str, Sequence[int]] | Sequence[int] | None
"""Shapes by input name, one shape for a model with one input, or nothing."""

MAX_DIMENSION = (1 << 31) - 1
"""Largest extent of one dimension: index arithmetic on devices is 32 bits wide."""


def parse_shape(text: str) -> tuple[str | None, tuple[int, ...]]:
    """Parse ``1x3x256x256`` or ``name=1x3x256x256``; ``name=scalar`` is a shape without dimensions.

    Returns:
        The input's name, or None where the text has none, and the shape.

    Raises:
        UserError: the text is neither, or a dimension is not positive.
    """
    name, equals, dims = text.rpartition("=")
    if equals and not name:
        raise _bad_shape(text, "there is no input name before '='")
    if equals and dims == "scalar":
        return name, ()
    if not re.fullmatch(r"-?\d+(x-?\d+)*", dims):
        raise _bad_shape(text, "dimensions are whole numbers joined by 'x'")
    shape = tuple(int(dim) for dim in dims.split("x"))
    if not all(0 < dim <= MAX_DIMENSION for dim in shape):
        raise _bad_shape(text, f"dimensions lie between 1 and {MAX_DIMENSION}")
    return (name if equals else None), shape


def parse_shapes(texts: Sequence[str]) -> dict[str, tuple[int, ...]] | tuple[int, ...] | None:
    """Parse all ``--shape`` options of a command into what :func:`edgevit.model.load` takes.

    Raises:
        UserError: one does not parse, two name the same input, or an unnamed one is not alone.
    """
    parsed = [parse_shape(text) for text in texts]
    if not parsed:
        return None
    if len(parsed) == 1 and parsed[0][0] is None:
        return parsed[0][1]
    shapes: dict[str, tuple[int, ...]] = {}
    for text, (name, shape) in zip(texts, parsed, strict=True):
        if name is None:
            raise _bad_shape(text, "with several shapes each needs its input's name")
        if name in shapes:
            raise _bad_shape(text, f"input {name!r} is given twice")
        shapes[name] = shape
    return shapes


def parse_resolutions(texts: Sequence[str]) -> list[Shapes]:
    """Parse the ``--shape`` options of a command that takes several resolutions, one item for each.

    Every option is a resolution; one of several inputs joins them by commas. Options that name different inputs, one
    each, are a single resolution too.

    Raises:
        UserError: one does not parse, or they leave open which inputs belong together.
    """
    groups = [text.split(",") for text in texts]
    names = [parse_shape(text)[0] for group in groups for text in group]
    if all(len(group) == 1 for group in groups) and None not in names and len(set(names)) > 1:
        if len(set(names)) < len(names):
            raise _bad_shape(texts[0], "with several inputs, join those of one resolution by commas")
        return [parse_shapes(texts)]
    return [parse_shapes(group) for group in groups] or [None]


def settle_shapes(proto: onnx.ModelProto, shapes: Shapes, where: str | None) -> dict[str, tuple[int, ...]]:
    """Static shape of every input, from the file where it says so and from ``shapes`` where it does not.

    Args:
        proto: the model; inputs that merely name an initializer are not inputs.
        shapes: what the user asked for.
        where: the model's file, for messages.

    Raises:
        ModelError: an unknown input name, a wrong rank, a dimension that contradicts the file or is not
            positive, or a dimension that nobody gave.
    """
    inputs = real_inputs(proto)
    wanted = _by_name(inputs, shapes, where)
    settled = {}
    missing: list[tuple[str, list[int | str | None]]] = []
    for value in inputs:
        stated = _stated_dims(value)
        asked = wanted.get(value.name)
        if asked is not None:
            settled[value.name] = _merge(value.name, stated, asked, where)
        elif stated is None or not all(isinstance(dim, int) for dim in stated):
            missing.append((value.name, stated or []))
        else:
            settled[value.name] = _check_positive(value.name, tuple(d for d in stated if isinstance(d, int)), where)
    if missing:
        raise _dynamic(missing, where, named=len(inputs) > 1)
    return settled


def real_inputs(proto: onnx.ModelProto) -> list[onnx.ValueInfoProto]:
    """Graph inputs without those that only name an initializer (as IR versions before 4 demanded)."""
    initializers = {tensor.name for tensor in proto.graph.initializer}
    return [value for value in proto.graph.input if value.name not in initializers]


def _by_name(inputs: Sequence[onnx.ValueInfoProto], shapes: Shapes, where: str | None) -> dict[str, tuple[int, ...]]:
    if shapes is None:
        return {}
    names = [value.name for value in inputs]
    if not isinstance(shapes, Mapping):
        if len(names) != 1:
            raise ModelError(
                f"one unnamed shape does not say which of the {len(names)} inputs it is for.",
                where=where,
                advice=f"Name it: {names[0] if names else 'input'}=1x3x256x256.",
            )
        shapes = {names[0]: shapes}
    for name in shapes:
        if name not in names:
            raise ModelError(
                f"there is no input {name!r} to give a shape to.",
                where=where,
                advice=f"The inputs are {', '.join(names)}.",
            )
    try:
        return {name: tuple(operator.index(dim) for dim in shape) for name, shape in shapes.items()}
    except TypeError as error:
        raise ModelError(
            "a shape holds something else than whole numbers.",
            where=where,
            advice="Write it like (1, 3, 256, 256).",
        ) from error


def _stated_dims(value: onnx.ValueInfoProto) -> list[int | str | None] | None:
    tensor = value.type.tensor_type
    if not tensor.HasField("shape"):
        return None
    dims: list[int | str | None] = []
    for dim in tensor.shape.dim:
        # Some exporters write -1 where they mean "any".
        if dim.HasField("dim_value") and dim.dim_value >= 0:
            dims.append(dim.dim_value)
        else:
            dims.append(dim.dim_param or None)
    return dims


def _merge(
    name: str, stated: list[int | str | None] | None, asked: tuple[int, ...], where: str | None
) -> tuple[int, ...]:
    _check_positive(name, asked, where)
    if stated is None:
        return asked
    if len(stated) != len(asked):
        raise ModelError(
            f"input {name!r} has {len(stated)} dimensions, the given shape {_text(asked)} has {len(asked)}.",
            where=where,
            advice=f"Pass a shape like {_text(_guess(stated))}.",
        )
    for index, (fixed, dim) in enumerate(zip(stated, asked, strict=True)):
        if isinstance(fixed, int) and fixed != dim:
            raise ModelError(
                f"the file fixes dimension {index} of input {name!r} at {fixed}, the given shape says {dim}.",
                where=where,
                advice="Export it with that dimension dynamic ('edgevit zoo --dynamic' does), or at the wanted size.",
            )
    return asked


def _check_positive(name: str, shape: tuple[int, ...], where: str | None) -> tuple[int, ...]:
    for index, dim in enumerate(shape):
        if not 0 < dim <= MAX_DIMENSION:
            raise ModelError(
                f"dimension {index} of input {name!r} is {dim}; it must lie between 1 and {MAX_DIMENSION}.",
                where=where,
                advice="Give a shape of positive dimensions.",
            )
    return shape


def _dynamic(missing: list[tuple[str, list[int | str | None]]], where: str | None, *, named: bool) -> ModelError:
    parts = []
    for name, dims in missing:
        unknown = [
            f"{index} ({dim})" if dim else str(index) for index, dim in enumerate(dims) if not isinstance(dim, int)
        ]
        parts.append(
            f"input {name!r} has no fixed dimension {', '.join(unknown)}" if dims else f"input {name!r} has no shape"
        )
    options = " ".join(
        f"--shape {name + '=' if named else ''}{_text(_guess(dims)) if dims else '?'}" for name, dims in missing
    )
    return ModelError(f"{'; '.join(parts)}.", where=where, advice=f"Pass {options} (adjust the numbers).")


def _guess(dims: Sequence[int | str | None]) -> list[int | str]:
    """Likely static shape of an image input: batch 1, three channels, 256 pixels a side."""
    image = dict(enumerate((1, 3, 256, 256))) if len(dims) == 4 else {0: 1}
    if len(dims) == 4 and dims[3] == 3:
        image = dict(enumerate((1, 256, 256, 3)))
    return [dim if isinstance(dim, int) else image.get(index, "?") for index, dim in enumerate(dims)]


def _text(shape: Sequence[int | str]) -> str:
    return "x".join(map(str, shape)) or "scalar"


def _bad_shape(text: str, why: str) -> UserError:
    return UserError(
        f"cannot read the shape {text!r}: {why}.",
        advice="Write it like 1x3x256x256, or pixel_values=1x3x256x256.",
    )
