"""Names of MobileViT and MobileViTV2 in the reference code, in Hugging Face transformers and in timm."""

from __future__ import annotations

from edgevit.zoo.weights.naming import FUSED, STATISTICS, Naming, Rule, unit

_UNUSED = r".*\.num_batches_tracked|seg_head\.aux_head\..*"
"""Counters of batch norms; a second segmentation head that only training has."""


def _cvnets_units(*pairs: tuple[str, str]) -> tuple[Rule, ...]:
    return tuple(rule for ours, theirs in pairs for rule in unit(ours, f"{theirs}.block", "conv", "norm"))


def _transformers_units(*pairs: tuple[str, str]) -> tuple[Rule, ...]:
    return tuple(rule for ours, theirs in pairs for rule in unit(ours, theirs, "convolution", "normalization"))


def _timm_units(*pairs: tuple[str, str]) -> tuple[Rule, ...]:
    return tuple(rule for ours, theirs in pairs for rule in unit(ours, theirs, "conv", "bn"))


CVNETS_RESIDUAL = _cvnets_units(
    ("expand", "block.exp_1x1"), ("depthwise", "block.conv_3x3"), ("project", "block.red_1x1")
)
"""Inverted residuals, which MobileNetV2 shares."""

_CVNETS_STAGES: tuple[Rule, ...] = (
    # The block's last norm follows its transformer layers, of which there are 2, 4 and 3.
    (r"^stage3\.block\.norm\.", "layer_3.1.global_rep.2."),
    (r"^stage4\.block\.norm\.", "layer_4.1.global_rep.4."),
    (r"^stage5\.block\.norm\.", "layer_5.1.global_rep.3."),
    (r"^stage(\d)\.down\.", r"layer_\1.0."),
    (r"^stage(\d)\.block\.", r"layer_\1.1."),
    (r"^stage(\d)\.", r"layer_\1."),
)
_CVNETS_SSD: tuple[Rule, ...] = (
    *(
        rule
        for index, level in enumerate(("16", "32", "64", "128", "256"))
        for rule in (
            *_cvnets_units(
                (rf"det\.head{level}\.project", f"ssd_heads.{index}.proj_layer"),
                (rf"det\.head{level}\.depthwise", f"ssd_heads.{index}.loc_cls_layer.dw_conv"),
                (rf"det\.extra{level}\.depthwise", f"extra_layers.os_{level}.dw_conv"),
                (rf"det\.extra{level}\.point", f"extra_layers.os_{level}.pw_conv"),
            ),
            (rf"^det\.head{level}\.predict\.", f"ssd_heads.{index}.loc_cls_layer.pw_conv.block.conv."),
        )
    ),
    (r"^det\.head_global\.predict\.", "ssd_heads.5.loc_cls_layer.block.conv."),
    (r"^det\.extra_global\.conv\.", "extra_layers.os_-1.1.block.conv."),
)
_CVNETS_DEEPLAB: tuple[Rule, ...] = (
    *_cvnets_units(
        (r"seg\.aspp\.point", "seg_head.aspp.aspp_layer.convs.0"),
        (r"seg\.aspp\.rate6", "seg_head.aspp.aspp_layer.convs.1"),
        (r"seg\.aspp\.rate12", "seg_head.aspp.aspp_layer.convs.2"),
        (r"seg\.aspp\.rate18", "seg_head.aspp.aspp_layer.convs.3"),
        (r"seg\.aspp\.pool", "seg_head.aspp.aspp_layer.convs.4.aspp_pool.conv_1x1"),
        (r"seg\.aspp\.project", "seg_head.aspp.aspp_layer.project"),
    ),
    (r"^seg\.classifier\.", "seg_head.classifier.block.conv."),
)
_CVNETS: tuple[Rule, ...] = (
    *_CVNETS_STAGES,
    *_cvnets_units(
        (r"stem", "conv_1"),
        (r"head\.expand", "conv_1x1_exp"),
        (r"local", "local_rep.conv_3x3"),
        (r"from_tokens", "conv_proj"),
        (r"fuse", "fusion"),
    ),
    *CVNETS_RESIDUAL,
    (r"\.to_tokens\.", ".local_rep.conv_1x1.block.conv."),
    (r"\.layer(\d+)\.", r".global_rep.\1."),
    *FUSED,
    (r"\.attention\.qkv\.", ".pre_norm_mha.1.qkv_proj."),
    (r"\.attention\.out\.", ".pre_norm_mha.1.out_proj."),
    (r"\.norm1\.", ".pre_norm_mha.0."),
    (r"\.norm2\.", ".pre_norm_ffn.0."),
    (r"\.expand\.(weight|bias)$", r".pre_norm_ffn.1.\1"),
    (r"\.project\.(weight|bias)$", r".pre_norm_ffn.4.\1"),
    (r"^head\.classifier\.", "classifier.fc."),
    *STATISTICS,
)
_CVNETS_V2: tuple[Rule, ...] = (
    *_CVNETS_STAGES,
    *_cvnets_units((r"stem", "conv_1"), (r"local", "local_rep.0"), (r"from_tokens", "conv_proj")),
    *CVNETS_RESIDUAL,
    (r"\.to_tokens\.", ".local_rep.1.block.conv."),
    (r"\.layer(\d+)\.", r".global_rep.\1."),
    (r"\.attention\.(qkv|out)\.", r".pre_norm_attn.1.\1_proj.block.conv."),
    (r"\.norm1\.", ".pre_norm_attn.0."),
    (r"\.norm2\.", ".pre_norm_ffn.0."),
    (r"\.expand\.(weight|bias)$", r".pre_norm_ffn.1.block.conv.\1"),
    (r"\.project\.(weight|bias)$", r".pre_norm_ffn.3.block.conv.\1"),
    (r"^head\.classifier\.", "classifier.1."),
    *STATISTICS,
)

_TRANSFORMERS_BACKBONE: tuple[Rule, ...] = (
    (r"\.block\.norm\.", ".layernorm."),
    (r"^stage1\.", "encoder.layer.0.layer."),
    (r"^stage2\.", "encoder.layer.1.layer."),
    (r"^stage3\.", "encoder.layer.2."),
    (r"^stage4\.", "encoder.layer.3."),
    (r"^stage5\.", "encoder.layer.4."),
    (r"\.down\.", ".downsampling_layer."),
    (r"\.block\.", "."),
    *_transformers_units(
        (r"stem", "conv_stem"),
        (r"head\.expand", "conv_1x1_exp"),
        (r"local", "conv_kxk"),
        (r"from_tokens", "conv_projection"),
        (r"fuse", "fusion"),
        (r"expand", "expand_1x1"),
        (r"depthwise", "conv_3x3"),
        (r"project", "reduce_1x1"),
    ),
    (r"\.to_tokens\.", ".conv_1x1.convolution."),
    (r"\.layer(\d+)\.", r".transformer.layer.\1."),
    (r"\.norm1\.", ".layernorm_before."),
    (r"\.norm2\.", ".layernorm_after."),
)
_TRANSFORMERS: tuple[Rule, ...] = (
    *_transformers_units(
        (r"seg\.aspp\.point", "segmentation_head.aspp.convs.0"),
        (r"seg\.aspp\.rate6", "segmentation_head.aspp.convs.1"),
        (r"seg\.aspp\.rate12", "segmentation_head.aspp.convs.2"),
        (r"seg\.aspp\.rate18", "segmentation_head.aspp.convs.3"),
        (r"seg\.aspp\.pool", "segmentation_head.aspp.convs.4.conv_1x1"),
        (r"seg\.aspp\.project", "segmentation_head.aspp.project"),
    ),
    (r"^seg\.classifier\.", "segmentation_head.classifier.convolution."),
    *_TRANSFORMERS_BACKBONE,
    (r"\.attention\.q\.", ".attention.attention.query."),
    (r"\.attention\.k\.", ".attention.attention.key."),
    (r"\.attention\.v\.", ".attention.attention.value."),
    (r"\.attention\.out\.", ".attention.output.dense."),
    (r"\.expand\.(weight|bias)$", r".intermediate.dense.\1"),
    (r"\.project\.(weight|bias)$", r".output.dense.\1"),
    (r"^(conv_|encoder\.)", r"mobilevit.\1"),
    (r"^head\.classifier\.", "classifier."),
    *STATISTICS,
)
_TRANSFORMERS_V2: tuple[Rule, ...] = (
    *_TRANSFORMERS_BACKBONE,
    (r"\.attention\.(qkv|out)\.", r".attention.\1_proj.convolution."),
    (r"\.expand\.(weight|bias)$", r".ffn.conv1.convolution.\1"),
    (r"\.project\.(weight|bias)$", r".ffn.conv2.convolution.\1"),
    (r"^(conv_|encoder\.)", r"mobilevitv2.\1"),
    (r"^head\.classifier\.", "classifier."),
    *STATISTICS,
)

_TIMM_BACKBONE: tuple[Rule, ...] = (
    (r"^stage1\.", "stages.0."),
    (r"^stage2\.", "stages.1."),
    (r"^stage3\.", "stages.2."),
    (r"^stage4\.", "stages.3."),
    (r"^stage5\.", "stages.4."),
    (r"\.down\.", ".0."),
    (r"\.block\.", ".1."),
    *_timm_units(
        (r"stem", "stem"),
        (r"head\.expand", "final_conv"),
        (r"local", "conv_kxk"),
        (r"from_tokens", "conv_proj"),
        (r"fuse", "conv_fusion"),
        (r"expand", "conv1_1x1"),
        (r"depthwise", "conv2_kxk"),
        (r"project", "conv3_1x1"),
    ),
    (r"\.to_tokens\.", ".conv_1x1."),
    (r"\.layer(\d+)\.", r".transformer.\1."),
    (r"\.expand\.(weight|bias)$", r".mlp.fc1.\1"),
    (r"\.project\.(weight|bias)$", r".mlp.fc2.\1"),
    (r"^head\.classifier\.", "head.fc."),
    *STATISTICS,
)
_TIMM: tuple[Rule, ...] = (
    *FUSED,
    *_TIMM_BACKBONE,
    (r"\.attention\.qkv\.", ".attn.qkv."),
    (r"\.attention\.out\.", ".attn.proj."),
)
_TIMM_V2: tuple[Rule, ...] = (*_TIMM_BACKBONE, (r"\.attention\.(qkv|out)\.", r".attn.\1_proj."))

_ENCODER: tuple[Rule, ...] = ((r"^(conv_|layer_)", r"encoder.\1"),)
"""The backbone inside a detector or a segmentation network."""

MOBILEVIT = (
    Naming(
        "mobilevit",
        "cvnets",
        "MobileViT",
        r"layer_3\.1\.global_rep\.0\.pre_norm_mha\..*",
        _CVNETS,
        _UNUSED,
    ),
    # The first release of the reference code wraps the last layer of the segmentation head once more.
    Naming(
        "mobilevit",
        "cvnets",
        "MobileViT with a segmentation head",
        r"seg_head\.classifier\.classifier\..*",
        ((r"^seg\.classifier\.", "seg_head.classifier.classifier.block.conv."), *_CVNETS_DEEPLAB, *_CVNETS, *_ENCODER),
        _UNUSED,
    ),
    Naming(
        "mobilevit",
        "cvnets",
        "MobileViT with a head for detection or segmentation",
        r"encoder\.layer_3\.1\.global_rep\.0\.pre_norm_mha\..*",
        (*_CVNETS_SSD, *_CVNETS_DEEPLAB, *_CVNETS, *_ENCODER),
        _UNUSED,
    ),
    Naming("mobilevit", "transformers", "MobileViT", r"mobilevit\.conv_stem\..*", _TRANSFORMERS, _UNUSED),
    Naming("mobilevit", "timm", "MobileViT", r"stages\.2\.1\.transformer\.0\.attn\.qkv\..*", _TIMM),
)
MOBILEVIT_V2 = (
    Naming("mobilevit_v2", "cvnets", "MobileViTV2", r"layer_3\.1\.global_rep\.0\.pre_norm_attn\..*", _CVNETS_V2),
    Naming("mobilevit_v2", "transformers", "MobileViTV2", r"mobilevitv2\.conv_stem\..*", _TRANSFORMERS_V2),
    Naming("mobilevit_v2", "timm", "MobileViTV2", r"stages\.2\.1\.transformer\.0\.attn\.qkv_proj\..*", _TIMM_V2),
)
