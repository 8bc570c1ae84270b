"""Names of DeiT and PiT in Hugging Face transformers and in timm, whose names are those of the authors' code."""

from __future__ import annotations

from edgevit.zoo.weights.naming import FUSED, Naming, Rule

_TIMM_LAYERS: tuple[Rule, ...] = (
    *FUSED,
    (r"\.attention\.qkv\.", ".attn.qkv."),
    (r"\.attention\.out\.", ".attn.proj."),
    (r"\.expand\.", ".mlp.fc1."),
    (r"\.project\.", ".mlp.fc2."),
    (r"^class_token$", "cls_token"),
    (r"^positions$", "pos_embed"),
    (r"^head\.classifier\.", "head."),
)
_TIMM_DEIT: tuple[Rule, ...] = (
    *_TIMM_LAYERS,
    (r"^patches\.", "patch_embed.proj."),
    (r"^layer(\d+)\.", r"blocks.\1."),
)
_TIMM_PIT: tuple[Rule, ...] = (
    *_TIMM_LAYERS,
    (r"^patches\.", "patch_embed.conv."),
    (r"^stage(\d)\.", r"transformers.\1."),
    (r"\.layer(\d+)\.", r".blocks.\1."),
    (r"\.pool\.linear\.", ".pool.fc."),
)


def _transformers(prefix: str, *, modern: bool) -> tuple[Rule, ...]:
    """Rules for what ``save_pretrained`` writes, or for the state dict of release 5 and later."""
    layers: tuple[Rule, ...] = (
        (
            (r"^layer(\d+)\.", rf"{prefix}.layers.\1."),
            (r"\.attention\.out\.", ".attention.o."),
            (r"\.attention\.([qkvo])\.", r".attention.\1_proj."),
            (r"\.expand\.", ".mlp.fc1."),
            (r"\.project\.", ".mlp.fc2."),
        )
        if modern
        else (
            (r"^layer(\d+)\.", rf"{prefix}.encoder.layer.\1."),
            (r"\.attention\.out\.", ".attention.output.dense."),
            (r"\.attention\.q\.", ".attention.attention.query."),
            (r"\.attention\.k\.", ".attention.attention.key."),
            (r"\.attention\.v\.", ".attention.attention.value."),
            (r"\.expand\.", ".intermediate.dense."),
            (r"\.project\.", ".output.dense."),
        )
    )
    return (
        *layers,
        (r"\.norm1\.", ".layernorm_before."),
        (r"\.norm2\.", ".layernorm_after."),
        (r"^norm\.", f"{prefix}.layernorm."),
        (r"^class_token$", f"{prefix}.embeddings.cls_token"),
        (r"^positions$", f"{prefix}.embeddings.position_embeddings"),
        (r"^patches\.", f"{prefix}.embeddings.patch_embeddings.projection."),
        (r"^head\.classifier\.", "classifier."),
    )


# The published DeiT without a distillation token is a ViT in transformers; its DeiT always has the token.
DEIT = (
    *(
        Naming(
            "deit",
            "transformers",
            "DeiT",
            rf"{prefix}\.{layer}\.0\.layernorm_before\..*",
            _transformers(prefix, modern=modern),
            rf".*\.num_batches_tracked|{prefix}\.pooler\..*",
        )
        for prefix in ("vit", "deit")
        for modern, layer in ((False, r"encoder\.layer"), (True, "layers"))
    ),
    Naming("deit", "timm", "DeiT", r"patch_embed\.proj\..*", _TIMM_DEIT),
)
PIT = (Naming("pit", "timm", "PiT", r"transformers\.0\.blocks\.0\.attn\.qkv\..*", _TIMM_PIT),)

DISTILLED = r"(.*\.)?(distillation_token|dist_token)"
"""A tensor that only DeiT and PiT with a distillation token have."""
