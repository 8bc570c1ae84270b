"""Replaces the seeded parameters of a zoo model by trained ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from edgevit.errors import ModelError
from edgevit.zoo.seeding import Array
from edgevit.zoo.weights.detect import detect
from edgevit.zoo.weights.naming import Naming, Origin
from edgevit.zoo.weights.positions import resized, resized_tokens

if TYPE_CHECKING:
    import onnx

_SPELLED = 10
"""Tensors of one kind that an error names."""

_ENDINGS = (".weight", ".bias", ".mean", ".var")
_TABLES = ("class_token", "positions")


@dataclass(frozen=True)
class Report:
    """What an import did.

    Attributes:
        source: whose names the tensors had: ``cvnets``, ``transformers`` or ``timm``.
        architecture: of the model.
        used: tensors that parameters were taken from.
        unused: tensors that inference does without.
        resized: parameters that were interpolated to the model's image size.
    """

    source: str
    architecture: str
    used: tuple[str, ...]
    unused: tuple[str, ...]
    resized: tuple[str, ...]


def import_weights(
    proto: onnx.ModelProto, tensors: Mapping[str, Array], *, source: str | None = None, where: str | None = None
) -> Report:
    """Replace the parameters of a model of the zoo, in place.

    Linear layers are transposed, fused query-key-value layers split, numbers converted to float32. Positions of
    another image size are interpolated bicubically. Either all parameters are replaced or, on an error, none.

    Args:
        proto: as a builder of the zoo returned it, not changed since.
        tensors: by name, as :func:`~edgevit.zoo.weights.read_tensors` returns them.
        source: whose names they have (``cvnets``, ``transformers`` or ``timm``); None to find out.
        where: the file they are from, for errors.

    Raises:
        ModelError: the naming is unknown, the tensors are of another architecture, or some are missing, unknown, of
            another shape, or hold no finite floating-point numbers.
    """
    naming = detect(tensors, source=source, architecture=_architecture(proto), where=where)
    taken = _take(proto, tensors, naming)
    if taken.problems:
        raise taken.error(naming, where)
    _replace(proto, taken.arrays)
    return Report(
        naming.source,
        naming.architecture,
        tuple(sorted(taken.used)),
        tuple(name for name in tensors if name not in taken.used),
        tuple(taken.resized),
    )


@dataclass
class _Taken:
    """Parameters found so far, and what stands in the way, by kind."""

    arrays: dict[str, Array] = field(default_factory=dict)
    used: set[str] = field(default_factory=set)
    resized: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    unknown: list[str] = field(default_factory=list)
    shapes: list[str] = field(default_factory=list)
    numbers: list[str] = field(default_factory=list)

    @property
    def problems(self) -> bool:
        """Whether anything stands in the way."""
        return bool(self.missing or self.unknown or self.shapes or self.numbers)

    def error(self, naming: Naming, where: str | None) -> ModelError:
        """Everything at once."""
        kinds = (
            ("missing", self.missing),
            ("unknown", self.unknown),
            ("of another shape", self.shapes),
            ("not of finite floating-point numbers", self.numbers),
        )
        text = "; ".join(f"{len(names)} {kind}: {_spelled(names)}" for kind, names in kinds if names)
        return ModelError(
            f"the weights ({naming.title}, names of {naming.source}) do not fit the model: {text}.",
            where=where,
            advice="Check the variant, the task and the number of classes that the model is built with.",
        )


def _take(proto: onnx.ModelProto, tensors: Mapping[str, Array], naming: Naming) -> _Taken:
    taken = _Taken()
    linear = {node.input[1] for node in proto.graph.node if node.op_type == "MatMul"}
    for initializer in proto.graph.initializer:
        name, shape = initializer.name, tuple(initializer.dims)
        if not name.endswith(_ENDINGS) and name not in _TABLES:
            continue
        origin = naming.origin(name)
        tensor = tensors.get(origin.name)
        if tensor is None:
            _note(taken.missing, origin.name)
            continue
        taken.used.add(origin.name)
        array = _fitted(tensor, origin, shape, transposed=name in linear)
        if array is None and name == "positions":
            array = _moved(tensor, shape, proto)
            taken.resized.append(name)
        if array is None:
            theirs = _theirs(shape, origin, transposed=name in linear)
            _note(taken.shapes, f"{origin.name} ({_text(tensor.shape)}, the model's is {_text(theirs)})")
        elif (numbers := _numbers(array)) is None:
            _note(taken.numbers, origin.name)
        else:
            taken.arrays[name] = numbers
    taken.unknown = [name for name in tensors if name not in taken.used and not naming.needless(name)]
    return taken


def _fitted(tensor: Array, origin: Origin, shape: Sequence[int], *, transposed: bool) -> Array | None:
    """The parameter in the model's layout; None where the numbers of elements differ along an axis."""
    if origin.parts > 1:
        if not tensor.ndim or tensor.shape[0] % origin.parts:
            return None
        tensor = np.split(tensor, origin.parts)[origin.part]
    if transposed:
        # A convolution of one pixel is a linear layer too.
        if tensor.ndim < 2 or tensor.shape[2:] != (1,) * (tensor.ndim - 2):
            return None
        tensor = tensor.reshape(tensor.shape[:2]).T
    if _squeezed(tensor.shape) != _squeezed(shape):
        return None
    return tensor.reshape(shape)


def _moved(tensor: Array, shape: tuple[int, ...], proto: onnx.ModelProto) -> Array | None:
    """Positions of another image size, for a model's of ``shape``; None where they are of another model."""
    if tensor.ndim != len(shape) or tensor.dtype.kind != "f":
        return None
    if len(shape) == 4:
        return resized(tensor, *shape[2:]) if tensor.shape[:2] == shape[:2] else None
    if tensor.shape[2] != shape[2] or tensor.shape[1] < 2:
        return None
    (patches,) = (node for node in proto.graph.node if node.name == "patches")
    kernel = next(attribute.ints for attribute in patches.attribute if attribute.name == "kernel_shape")
    height, width = (dim.dim_value for dim in proto.graph.input[0].type.tensor_type.shape.dim[2:])
    rows, columns = height // kernel[0], width // kernel[1]
    return resized_tokens(tensor, rows, columns, extra=shape[1] - rows * columns)


def _numbers(array: Array) -> Array | None:
    """As float32, contiguous; None where there is something that is no finite floating-point number."""
    if array.dtype.kind != "f":
        return None
    with np.errstate(over="ignore"):
        numbers = np.ascontiguousarray(array, np.float32)
    return numbers if np.isfinite(numbers).all() else None


def _replace(proto: onnx.ModelProto, arrays: Mapping[str, Array]) -> None:
    from onnx import numpy_helper

    for initializer in proto.graph.initializer:
        array = arrays.get(initializer.name)
        if array is not None:
            initializer.CopyFrom(numpy_helper.from_array(array, initializer.name))


def _architecture(proto: onnx.ModelProto) -> str:
    known = ("mobilevit_v2", "mobilevit", "mobilenet_v2", "deit", "pit")
    for name in known:
        if proto.graph.name == name or proto.graph.name.startswith(f"{name}_"):
            return name
    raise ModelError(
        f"the graph {proto.graph.name!r} is no model of the zoo.",
        advice="Import weights into a model that edgevit zoo built.",
    )


def _theirs(shape: tuple[int, ...], origin: Origin, *, transposed: bool) -> tuple[int, ...]:
    """The shape that the tensor should have had."""
    first, *rest = shape[::-1] if transposed else shape
    return (first * origin.parts, *rest)


def _squeezed(shape: Sequence[int]) -> tuple[int, ...]:
    return tuple(size for size in shape if size != 1)


def _note(names: list[str], name: str) -> None:
    """Add a name, which parts of one tensor share."""
    if name not in names:
        names.append(name)


def _text(shape: Sequence[int]) -> str:
    return "x".join(str(size) for size in shape) or "one number"


def _spelled(names: Sequence[str]) -> str:
    more = len(names) - _SPELLED
    return ", ".join(names[:_SPELLED]) + (f" and {more} more" if more > 0 else "")
