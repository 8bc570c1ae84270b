"""Whose names a set of tensors has, and what it says of the model it belongs to."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import Any

from edgevit.errors import ModelError
from edgevit.zoo.seeding import Array
from edgevit.zoo.weights.mobilenet_names import MOBILENET_V2
from edgevit.zoo.weights.mobilevit_names import MOBILEVIT, MOBILEVIT_V2
from edgevit.zoo.weights.naming import Naming
from edgevit.zoo.weights.vit_names import DEIT, DISTILLED, PIT

NAMINGS = (*MOBILEVIT, *MOBILEVIT_V2, *MOBILENET_V2, *DEIT, *PIT)

_ANCHORS = 6
"""Of each cell of a detector's first map."""

_COORDINATES = 4


def detect(
    names: Collection[str], *, source: str | None = None, architecture: str | None = None, where: str | None = None
) -> Naming:
    """The naming that tensors follow.

    Args:
        names: of the tensors.
        source: ``cvnets``, ``transformers`` or ``timm``, if it shall be no other.
        architecture: of the model they are for, if it shall be no other.
        where: the file they are from, for errors.

    Raises:
        ModelError: it is none of the known ones, or the tensors are of a model that is not wanted or not in the zoo.
    """
    found = [naming for naming in NAMINGS if naming.matches(names) and source in (None, naming.source)]
    if not found:
        some = ", ".join(name[:80] for name in sorted(names)[:3])
        raise ModelError(
            f"these tensors are not named as in {source or 'any source that is known'}; they are called {some}, …",
            where=where,
            advice="Known are MobileViT, MobileViTV2 and MobileNetV2 of the reference code (cvnets), of Hugging Face "
            "transformers and of timm, DeiT of transformers and timm, and PiT of timm.",
        )
    naming = found[0]
    if architecture not in (None, naming.architecture):
        raise ModelError(
            f"these are weights of {naming.title} ({naming.source}), and the model is {architecture}.",
            where=where,
            advice="Choose the model that the weights are of.",
        )
    if any(re.fullmatch(DISTILLED, name) for name in names):
        raise ModelError(
            f"this is a {naming.title} with a distillation token; the zoo has the one without.",
            where=where,
            advice="Take facebook/deit-tiny-patch16-224, or timm's deit_tiny_patch16_224 or pit_ti_224.",
        )
    return naming


def classes_in(tensors: Mapping[str, Array], *, where: str | None = None) -> int | None:
    """Number of classes of the model that the tensors are of; None where there is no head.

    Args:
        tensors: by name.
        where: the file they are from, for errors.

    Raises:
        ModelError: the naming is unknown.
    """
    return _classes(tensors, detect(tensors, where=where))


def builder_options(
    tensors: Mapping[str, Array], *, architecture: str | None = None, where: str | None = None
) -> dict[str, Any]:
    """What a builder must be told for the tensors to fit: ``classes``, and ``padding`` for MobileNetV2.

    Epsilons need no option: MobileNetV2's goes with its padding; DeiT's is 1e-12 in transformers and 1e-6 here and in
    timm, and neither shows in float32 beside the variance of real activations.

    Args:
        tensors: by name.
        architecture: of the builder, ``mobilevit``, ``mobilevit_v2``, ``mobilenet_v2``, ``deit`` or ``pit``.
        where: the file they are from, for errors.

    Raises:
        ModelError: the naming is unknown, or of another architecture.
    """
    naming = detect(tensors, architecture=architecture, where=where)
    options: dict[str, Any] = {}
    classes = _classes(tensors, naming)
    if classes is not None:
        options["classes"] = classes
    if naming.padding is not None:
        options["padding"] = naming.padding
    return options


def _classes(tensors: Mapping[str, Array], naming: Naming) -> int | None:
    for name in ("head.classifier.bias", "seg.classifier.bias"):
        head = tensors.get(naming.origin(name).name)
        if head is not None:
            return int(head.size)
    head = tensors.get(naming.origin("det.head16.predict.bias").name)
    return None if head is None else int(head.size) // _ANCHORS - _COORDINATES
