"""Export published architectures to ONNX, with weights drawn from a seed: no download, no data set.

The definitions are those of Hugging Face transformers; edgevit's own environment does not need them. See README.md.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import ModuleType
from typing import Any

# The script also runs from an environment in which edgevit itself is not installed.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from edgevit.errors import EdgevitError, ModelError, ToolchainError, UserError
from edgevit.files import make_folder, staged_file

EXPORTERS = ("torchscript", "dynamo")
_TOLERANCE = 3e-5
"""Largest accepted difference between PyTorch and ONNX Runtime, as a share of the largest output."""
_SENSITIVITY = 1e-2
"""Smallest accepted change of the output between two images, as a share of the largest output."""
_VARIANCE_FLOOR = 0.1
"""Of batch norm: channels that hardly vary would have their rounding magnified."""


@dataclass(frozen=True)
class Recipe:
    """``model_class(config_class(**settings))``, both classes of transformers, on images of ``size`` × ``size``."""

    model_class: str
    config_class: str
    size: int = 224
    settings: dict[str, Any] = field(default_factory=dict)
    exporters: tuple[str, ...] = EXPORTERS
    """Those that can export it; the first is the default."""
    norm_weights: tuple[float, float] = (0.5, 1.0)
    """Range of the weights of normalisations. Larger ones sharpen softmaxes, which can magnify rounding."""
    output: str = "logits"
    """Name of the result in what the model returns."""
    dynamo_settings: dict[str, Any] = field(default_factory=dict)
    """Settings more for the dynamo exporter."""


def _classifier(family: str, size: int = 224, **settings: Any) -> Recipe:
    """A classifier of 1000 classes."""
    settings = {"num_labels": 1000, **settings}
    return Recipe(f"{family}ForImageClassification", f"{family}Config", size, settings)


def _segmenter(family: str, size: int, **settings: Any) -> Recipe:
    return Recipe(f"{family}ForSemanticSegmentation", f"{family}Config", size, settings)


_TINY = {"hidden_size": 192, "num_attention_heads": 3, "intermediate_size": 768}
"""Width of the "tiny" plain transformers (DeiT, arXiv:2012.12877, table 1)."""

RECIPES = {
    # MobileViT (arXiv:2110.02178) and what it is compared with there.
    "mobilevit_xxs": _classifier(
        "MobileViT",
        256,
        hidden_sizes=[64, 80, 96],
        neck_hidden_sizes=[16, 16, 24, 48, 64, 80, 320],
        expand_ratio=2.0,
    ),
    "mobilevit_xs": _classifier(
        "MobileViT", 256, hidden_sizes=[96, 120, 144], neck_hidden_sizes=[16, 32, 48, 64, 80, 96, 384]
    ),
    "mobilevit_s": _classifier("MobileViT", 256),
    "deeplabv3_mobilevit_s": _segmenter("MobileViT", 512, image_size=512, num_labels=21),
    # TorchScript's export loses the shape that its fold (Col2Im) needs.
    "mobilevit_v2": replace(_classifier("MobileViTV2", 256), exporters=("dynamo",), norm_weights=(0.2, 0.5)),
    "mobilenet_v1": _classifier("MobileNetV1"),
    "mobilenet_v2": _classifier("MobileNetV2"),
    "efficientnet_b0": _classifier(
        "EfficientNet", width_coefficient=1.0, depth_coefficient=1.0, hidden_dim=1280, image_size=224
    ),
    "deit_tiny": _classifier("DeiT", **_TINY),
    # Convolutional networks.
    "resnet_18": _classifier("ResNet", hidden_sizes=[64, 128, 256, 512], depths=[2, 2, 2, 2], layer_type="basic"),
    "resnet_50": _classifier("ResNet"),
    "regnet_x": _classifier(
        "RegNet", layer_type="x", hidden_sizes=[32, 64, 160, 400], depths=[1, 2, 7, 12], groups_width=16
    ),
    "regnet_y": _classifier("RegNet"),
    "convnext_tiny": _classifier("ConvNext"),
    "convnext_v2_atto": _classifier("ConvNextV2", hidden_sizes=[40, 80, 160, 320], depths=[2, 2, 6, 2]),
    "hgnet_v2": _classifier(
        "HGNetV2",
        stem_channels=[3, 16, 16],
        stage_in_channels=[16, 64, 256, 512],
        stage_mid_channels=[16, 32, 64, 128],
        stage_out_channels=[64, 256, 512, 1024],
        hidden_sizes=[64, 256, 512, 1024],
        stage_num_blocks=[1, 1, 2, 1],
        stage_numb_of_layers=[3, 3, 3, 3],
        use_learnable_affine_block=True,
    ),
    "pp_lcnet": replace(_classifier("PPLCNet"), output="last_hidden_state"),
    "textnet_tiny": _classifier("TextNet"),
    # Transformers, plain, hierarchical and mixed with convolutions.
    "vit_tiny": _classifier("ViT", **_TINY),
    "beit_tiny": _classifier("Beit", **_TINY, use_relative_position_bias=True),
    "data2vec_tiny": _classifier("Data2VecVision", **_TINY, use_shared_relative_position_bias=True),
    "dinov2_tiny": _classifier("Dinov2", hidden_size=192, num_attention_heads=3, image_size=224),
    # PyTorch's fused attention of windows ends in strides that the dynamo exporter cannot reshape.
    "swin_tiny": replace(_classifier("Swin"), dynamo_settings={"attn_implementation": "eager"}),
    "swin_v2_tiny": _classifier("Swinv2", 256, image_size=256, window_size=8),
    "hiera_tiny": _classifier("Hiera", depths=[1, 2, 7, 2]),
    "pvt_tiny": _classifier("Pvt"),
    "pvt_v2_b0": _classifier("PvtV2"),
    "levit_128s": replace(
        _classifier("Levit", hidden_sizes=[128, 256, 384], num_attention_heads=[4, 6, 8], depths=[2, 3, 4]),
        norm_weights=(0.2, 0.5),
    ),
    "cvt_13": _classifier("Cvt"),
    "poolformer_s12": _classifier("PoolFormer"),
    "focalnet_tiny": _classifier("FocalNet"),
    "swiftformer_xs": _classifier("SwiftFormer"),
    "segformer_b0": _segmenter("Segformer", 512, num_labels=150),
}


def export(name: str, folder: Path, exporter: str | None = None, seed: int = 0) -> Path:
    """Build a model, draw its weights, write ``folder/name.onnx`` and check the file against PyTorch.

    The graph has one input ``pixel_values`` (1 × 3 × size × size, float32) and one output ``logits`` (float32).

    Args:
        name: a key of :data:`RECIPES`.
        folder: where the file goes; made if it is missing.
        exporter: one of :data:`EXPORTERS`; by default the first that can write the model.
        seed: of the weights.

    Raises:
        UserError: the name is unknown, the exporter cannot write that model, or the folder cannot be written.
        ToolchainError: a package is missing, or the model cannot be built or exported with the one installed.
        ModelError: ONNX Runtime cannot run the file, or its results are not those of PyTorch.
    """
    recipe = _recipe(name)
    exporter = exporter or recipe.exporters[0]
    if exporter not in recipe.exporters:
        raise UserError(
            f"the {exporter} exporter cannot write this model.",
            where=name,
            advice=f"Use --exporter {recipe.exporters[0]}.",
        )
    torch, transformers = require("torch"), require("transformers")
    for package in ("onnx", "onnxruntime", *(("onnxscript",) if exporter == "dynamo" else ())):
        require(package)
    make_folder(folder)
    try:
        model, images = _build(torch, transformers, recipe, exporter, seed)
    except (AttributeError, TypeError, ValueError, RuntimeError) as error:
        raise _refused("building it", name, transformers, error) from error
    with torch.no_grad():
        expected = [model(image).numpy() for image in images]
    path = folder / f"{name}.onnx"
    with staged_file(path) as aside:
        try:
            _write(torch, model, images[0], aside, exporter)
        except Exception as error:
            # The exporters raise whatever the operator at fault raises.
            raise _refused(f"exporting it with {exporter}", name, torch, error) from error
        verify(aside, [image.numpy() for image in images], expected, name)
    return path


def verify(path: Path, images: Sequence[Any], expected: Sequence[Any], name: str) -> None:
    """Run an ONNX file on each image, twice, and compare with the results expected.

    Args:
        path: file with one input and one output.
        images: two arrays or more of the input's shape.
        expected: the output for each image, as another implementation computed it.
        name: of the model, for messages.

    Raises:
        ModelError: the file does not run, repeats no result, differs from ``expected`` by more than 3e-5 of the
            largest value, holds infinities, or says the same for each image.
    """
    numpy, runtime = require("numpy"), require("onnxruntime")
    options = runtime.SessionOptions()
    options.log_severity_level = 3
    try:
        session = runtime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        feed = session.get_inputs()[0].name
        first, second = ([session.run(None, {feed: image})[0] for image in images] for _ in range(2))
    except Exception as error:
        # ONNX Runtime's exceptions have no public base class.
        raise ModelError(f"ONNX Runtime cannot run it: {_first_line(error)}", where=name) from error
    if not all(map(numpy.array_equal, first, second)):
        raise ModelError(
            "it is not deterministic: two runs on the same image differ.",
            where=name,
            advice="Look for dropout or a random generator that evaluation mode leaves on.",
        )
    scale = max(float(numpy.abs(value).max()) for value in expected)
    if not numpy.isfinite(scale):
        raise ModelError("its results are not finite.", where=name, advice="Try another --seed.")
    gap = max(float(numpy.abs(a - b).max()) for a, b in zip(first, expected, strict=True))
    if not gap <= _TOLERANCE * scale:
        raise ModelError(
            f"ONNX Runtime and PyTorch differ by {gap:.2g}, where the largest value is {scale:.2g}.",
            where=name,
            advice="Try the other --exporter.",
        )
    if float(numpy.abs(first[0] - first[1]).max()) <= _SENSITIVITY * scale:
        raise ModelError("its results do not depend on the image.", where=name, advice="Try another --seed.")


def require(package: str) -> ModuleType:
    """Import a package that only the exporter needs.

    Raises:
        ToolchainError: it is not installed.
    """
    from importlib import import_module

    try:
        return import_module(package)
    except ImportError as error:
        raise ToolchainError(
            f"the Python package {package} cannot be imported.",
            where=Path(__file__).name,
            advice="Make an environment for exporting, as recipes/README.md says.",
        ) from error


def _recipe(name: str) -> Recipe:
    if name not in RECIPES:
        raise UserError("no model of that name.", where=name, advice="See the names with --list.")
    return RECIPES[name]


def _build(torch: Any, transformers: Any, recipe: Recipe, exporter: str, seed: int) -> tuple[Any, list[Any]]:
    """The model in evaluation mode, as a module from image to logits, and two images."""
    torch.manual_seed(seed)
    settings = {**recipe.settings, **(recipe.dynamo_settings if exporter == "dynamo" else {})}
    inner = getattr(transformers, recipe.model_class)(getattr(transformers, recipe.config_class)(**settings))

    class Logits(torch.nn.Module):  # type: ignore[misc]
        """Drops the dictionary that transformers wraps results in."""

        def __init__(self) -> None:
            super().__init__()
            self.inner = inner

        def forward(self, pixel_values: Any) -> Any:
            return getattr(self.inner(pixel_values=pixel_values), recipe.output)

    model = Logits().eval()
    images = _images(torch, 4, recipe.size)
    with torch.no_grad():
        _draw_weights(torch, model, recipe.norm_weights)
        _calibrate(torch, model, images)
    return model, list(images[:2].split(1))


def _images(torch: Any, count: int, size: int) -> Any:
    """``count`` × 3 × ``size`` × ``size`` of mean 0 and scale 1: white noise, which tools feed, and blobs in turn.

    A network normalised to only one of the two would leave its range on the other.
    """
    images = torch.randn(count, 3, size, size)
    blobs = torch.randn(len(images[1::2]), 3, 8, 8)
    images[1::2] = torch.nn.functional.interpolate(blobs, size=(size, size), mode="bilinear") + 0.3 * images[1::2]
    return images


def _draw_weights(torch: Any, model: Any, norm_weights: tuple[float, float]) -> None:
    """Replace every weight: published initialisation leaves zeros and ones behind which errors would hide."""
    nn, init = torch.nn, torch.nn.init
    norms = (nn.modules.batchnorm._BatchNorm, nn.LayerNorm, nn.GroupNorm)
    for module in model.modules():
        bias = getattr(module, "bias", None)
        if isinstance(module, norms):
            if module.weight is not None:
                module.weight.uniform_(*norm_weights)
        elif isinstance(module, nn.Conv2d):
            init.kaiming_normal_(module.weight)
        elif isinstance(module, nn.Linear):
            init.xavier_normal_(module.weight)
        else:
            for parameter in module.parameters(recurse=False):
                _draw_if_constant(parameter)
            continue
        if bias is not None:
            bias.normal_(0, 0.1)


def _draw_if_constant(parameter: Any) -> None:
    """Spread layer scales, which start near zero or at one, and embeddings and bias tables, which start at zero."""
    first = parameter.flatten()[0]
    if bool((parameter != first).any()):
        return
    if float(first) == 0:
        parameter.normal_(0, 0.1)
    else:
        parameter.uniform_(0.2, 1.0)


def _calibrate(torch: Any, model: Any, images: Any) -> None:
    """Set the statistics of each batch norm to those of its input, spread by a third, as training would.

    Random statistics let activations grow or vanish over fifty layers. Hooks run in the order of the forward pass,
    so that each layer sees inputs that the layers before it have already normalised.
    """

    def measure(norm: Any, arguments: tuple[Any, ...]) -> None:
        rows = arguments[0].transpose(0, 1).flatten(1)
        spread = rows.std(1)
        norm.running_mean.copy_(rows.mean(1) + 0.1 * spread * torch.randn_like(spread))
        jitter = torch.empty_like(spread).uniform_(0.67, 1.5)
        norm.running_var.copy_((spread.square() * jitter).clamp_min(_VARIANCE_FLOOR))

    norms = [m for m in model.modules() if isinstance(m, torch.nn.modules.batchnorm._BatchNorm)]
    handles = [norm.register_forward_pre_hook(measure) for norm in norms]
    if handles:
        model(images)
    for handle in handles:
        handle.remove()


def _write(torch: Any, model: Any, image: Any, path: Path, exporter: str) -> None:
    options: dict[str, Any] = {"opset_version": 17, "dynamo": False}
    if exporter == "dynamo":
        # 18 is the least that this exporter writes.
        options = {"opset_version": 18, "dynamo": True, "external_data": False, "verbose": False}
    torch.onnx.export(model, (image,), str(path), input_names=["pixel_values"], output_names=["logits"], **options)


def _refused(what: str, name: str, package: Any, error: Exception) -> ToolchainError:
    return ToolchainError(
        f"{what} failed in {package.__name__} {package.__version__}: {_first_line(error)}",
        where=name,
        advice="Compare its version with the one in recipes/README.md.",
    )


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0].rstrip(". ") + "."


def _arguments(given: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog=Path(__file__).name, description="Export published architectures to ONNX.")
    parser.add_argument("names", nargs="*", metavar="NAME", help="models to export, or 'all'")
    parser.add_argument("-o", "--output", type=Path, default=Path(), help="folder of the files (default: this one)")
    parser.add_argument("--exporter", choices=EXPORTERS, help="of PyTorch (default: torchscript, where it can)")
    parser.add_argument("--seed", type=int, default=0, help="of the weights (default: 0)")
    parser.add_argument("--list", action="store_true", help="print the names and stop")
    return parser.parse_args(given)


@contextmanager
def _quiet() -> Iterator[None]:
    """Both exporters warn of each Python branch that they pass: no news for a network of fixed shape."""
    for noisy in ("transformers", "torch.onnx", "onnxscript", "onnx_ir"):
        logging.getLogger(noisy).setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def main(given: Sequence[str] | None = None) -> int:
    """Run the command line; the exit code is the highest of the models', 0 where all went well."""
    arguments = _arguments(given)
    if arguments.list:
        print("\n".join(f"{name:24}{recipe.size:4}  {recipe.model_class}" for name, recipe in RECIPES.items()))
        return 0
    # Configurations and weights are made here; a look at the network would be an error.
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    try:
        names = list(RECIPES) if "all" in arguments.names else arguments.names
        if not names:
            raise UserError("no model named.", advice="Name some, or 'all'; see the names with --list.")
        for name in names:
            _recipe(name)
        require("torch")
    except EdgevitError as error:
        return _report(error)
    return max([_attempt(name, arguments) for name in names])


def _attempt(name: str, arguments: argparse.Namespace) -> int:
    """Export one of several: a failure is told and does not keep the others from being tried."""
    try:
        with _quiet():
            path = export(name, arguments.output, arguments.exporter, arguments.seed)
    except EdgevitError as error:
        return _report(error)
    print(path, flush=True)
    return 0


def _report(error: EdgevitError) -> int:
    print(f"error: {error}", file=sys.stderr, flush=True)
    return error.exit_code


if __name__ == "__main__":
    sys.exit(main())
