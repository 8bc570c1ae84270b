"""Names of MobileNetV2 in the reference code of MobileViT, in Hugging Face transformers and in timm."""

from __future__ import annotations

import re
from collections.abc import Sequence

from edgevit.zoo.weights.mobilevit_names import CVNETS_RESIDUAL
from edgevit.zoo.weights.naming import STATISTICS, Naming, Rule, unit

_TIMM_STAGES = (1, 2, 3, 4, 3, 3, 1)
"""Blocks between changes of the channels."""

_CVNETS_STAGES = (1, 2, 3, 7, 4)
"""Blocks between changes of the image size."""


def _place(stages: Sequence[int], block: int) -> tuple[int, int]:
    """Stage of a block, and its place in the stage, both from 0."""
    stage = 0
    while block >= stages[stage]:
        block -= stages[stage]
        stage += 1
    return stage, block


def _timm_block(match: re.Match[str]) -> str:
    stage, block = _place(_TIMM_STAGES, int(match[1]))
    return f"blocks.{stage}.{block}."


def _cvnets_block(match: re.Match[str]) -> str:
    stage, block = _place(_CVNETS_STAGES, int(match[1]))
    return f"layer_{stage + 1}.mv2_block_{block}."


def _transformers_block(match: re.Match[str]) -> str:
    return f"layer.{int(match[1]) - 1}." if match[1] != "0" else "conv_stem."


def _timm_units(*triples: tuple[str, str, str]) -> tuple[Rule, ...]:
    return tuple(
        rule
        for ours, conv, norm in triples
        for rule in ((rf"{ours}\.conv\.", f"{conv}."), (rf"{ours}\.norm\.", f"{norm}."))
    )


_CVNETS: tuple[Rule, ...] = (
    (r"^block(\d+)\.", _cvnets_block),
    *unit("stem", "conv_1.block", "conv", "norm"),
    *unit(r"head\.expand", "conv_1x1_exp.block", "conv", "norm"),
    *CVNETS_RESIDUAL,
    (r"^head\.classifier\.", "classifier.classifier_fc."),
    *STATISTICS,
)
_TRANSFORMERS: tuple[Rule, ...] = (
    (r"^block(\d+)\.", _transformers_block),
    *unit("stem", "conv_stem.first_conv", "convolution", "normalization"),
    *unit(r"head\.expand", "conv_1x1", "convolution", "normalization"),
    *unit("expand", "expand_1x1", "convolution", "normalization"),
    *unit("depthwise", "conv_3x3", "convolution", "normalization"),
    *unit("project", "reduce_1x1", "convolution", "normalization"),
    (r"^(conv_|layer\.)", r"mobilenet_v2.\1"),
    (r"^head\.classifier\.", "classifier."),
    *STATISTICS,
)
_TIMM: tuple[Rule, ...] = (
    # The first block does not expand, and counts its layers from the next.
    *_timm_units(
        ("^stem", "conv_stem", "bn1"),
        (r"^head\.expand", "conv_head", "bn2"),
        (r"^block0\.depthwise", "block0.conv_dw", "block0.bn1"),
        (r"^block0\.project", "block0.conv_pw", "block0.bn2"),
        ("expand", "conv_pw", "bn1"),
        ("depthwise", "conv_dw", "bn2"),
        ("project", "conv_pwl", "bn3"),
    ),
    (r"^block(\d+)\.", _timm_block),
    (r"^head\.classifier\.", "classifier."),
    *STATISTICS,
)

MOBILENET_V2 = (
    Naming("mobilenet_v2", "cvnets", "MobileNetV2", r"layer_1\.mv2_block_0\..*", _CVNETS),
    Naming(
        "mobilenet_v2",
        "transformers",
        "MobileNetV2",
        r"mobilenet_v2\.conv_stem\..*",
        _TRANSFORMERS,
        padding="tensorflow",
    ),
    Naming("mobilenet_v2", "timm", "MobileNetV2", r"blocks\.1\.0\.conv_pwl\..*", _TIMM),
)
