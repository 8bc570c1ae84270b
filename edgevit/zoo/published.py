"""What papers state of the zoo's models: parameters, multiply-accumulates, accuracy, latency, each with its source.

A figure is kept as it is printed, so that how finely it was rounded is known too. Where the model built here
departs from it by more than 2 % and more than that rounding, the figure says why.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

TOLERANCE = 0.02
"""Part of a published figure by which ours may differ without a reason, where its rounding allows no more."""

_UNITS = {"M": 1e6, "G": 1e9, "%": 1.0, "ms": 1e-3}


@dataclass(frozen=True)
class Source:
    """Where figures are printed.

    Attributes:
        short: name for tables.
        citation: authors, title, year, arXiv number.
    """

    short: str
    citation: str


MOBILEVIT = Source(
    "MobileViT",
    "Mehta and Rastegari, MobileViT: Light-weight, General-purpose, and Mobile-friendly Vision Transformer, ICLR 2022, "
    "arXiv 2110.02178",
)
MOBILEVIT_CODE = Source(
    "MobileViT code", "CVNets, the reference code of MobileViT and MobileViTv2, github.com/apple/ml-cvnets"
)
MOBILEVIT_V2 = Source(
    "MobileViTv2",
    "Mehta and Rastegari, Separable Self-attention for Mobile Vision Transformers, 2022, arXiv 2206.02680",
)
SOURCES = (MOBILEVIT, MOBILEVIT_CODE, MOBILEVIT_V2)


@dataclass(frozen=True)
class Figure:
    """A number as it is printed.

    Attributes:
        text: digits and unit: ``1.3 M``, ``0.4 G``, ``69.0 %``, ``17.86 ms``.
        source: where.
        place: table, figure or section of the source.
        why: why ours differs, where it does by more than :data:`TOLERANCE` and the rounding.
        image_size: side of the image in pixels, where it is not the task's.
    """

    text: str
    source: Source
    place: str
    why: str | None = None
    image_size: int | None = None

    @property
    def value(self) -> float:
        """In parameters, multiply-accumulates, per cent or seconds."""
        digits, unit = self.text.split()
        return float(digits) * _UNITS[unit]

    @property
    def rounding(self) -> float:
        """Half of the last printed digit, in the value's unit."""
        digits, unit = self.text.split()
        return 0.5 * 10.0 ** -len(digits.partition(".")[2]) * _UNITS[unit]

    def as_json(self) -> dict[str, Any]:
        """Plain data."""
        return {
            "text": self.text,
            "value": self.value,
            "source": self.source.short,
            "citation": self.source.citation,
            "place": self.place,
            "image_size": self.image_size,
            "why": self.why,
        }

    def agrees(self, ours: float) -> bool:
        """Whether ``ours`` is the figure, but for its rounding or :data:`TOLERANCE`."""
        # A count just at the end of the interval is in it, whatever binary fractions make of its ends.
        return abs(ours - self.value) <= max(TOLERANCE * self.value, self.rounding) * (1 + 1e-9)


@dataclass(frozen=True)
class Published:
    """All that is printed of one model at one task.

    Attributes:
        parameters: trained ones; the running statistics of batch norms are none.
        macs: multiply-accumulates of one image, which the papers call FLOPs; empty where nobody prints them.
        accuracy: by measure: ``top-1``, ``top-5``, ``mAP`` or ``mIoU``.
    """

    parameters: Figure
    macs: tuple[Figure, ...]
    accuracy: dict[str, Figure]

    def as_json(self) -> dict[str, Any]:
        """Plain data."""
        return {
            "parameters": self.parameters.as_json(),
            "macs": [figure.as_json() for figure in self.macs],
            "accuracy": {measure: figure.as_json() for measure, figure in self.accuracy.items()},
        }


_CUT = (
    "Ours is 1.755 M, which the paper would print as 1.8 M; the same head on XS and S has as many parameters as the "
    "paper says."
)
_NORMS = (
    "Counters of floating-point operations add two for each value of a batch norm and five for each of a layer norm; "
    "with those, ours is 0.86 G."
)
_ATTENTION = (
    "Counters that look at layers miss the two matrix products of attention, which have no weights; without those, "
    "ours is {without} G, with them {whole} G."
)
_SEGMENTATION = (
    "The paper does not say what it counts; ours is 5.29 G without the two matrix products of attention, 7.38 G with "
    "them."
)


def _macs(*texts: str, source: Source, place: str) -> tuple[Figure, ...]:
    return tuple(Figure(f"{text} G", source, place) for text in texts)


def _mobilevit(parameters: str, macs: tuple[Figure, ...], top1: str, top5: str) -> Published:
    accuracy = {
        name: Figure(f"{text} %", MOBILEVIT, "Section 4.1") for name, text in (("top-1", top1), ("top-5", top5))
    }
    return Published(Figure(f"{parameters} M", MOBILEVIT, "Table 4"), macs, accuracy)


def _ssdlite(parameters: str, mean_precision: str, *macs: Figure, why: str | None = None) -> Published:
    accuracy = {"mAP": Figure(f"{mean_precision} %", MOBILEVIT, "Table 1")}
    return Published(Figure(f"{parameters} M", MOBILEVIT, "Table 1", why), macs, accuracy)


def _deeplab(parameters: str, mean_iou: str, *macs: Figure) -> Published:
    accuracy = {"mIoU": Figure(f"{mean_iou} %", MOBILEVIT, "Table 2")}
    return Published(Figure(f"{parameters} M", MOBILEVIT, "Table 2"), macs, accuracy)


def _v2(parameters: str, macs: str, top1: str, *more: Figure) -> Published:
    texts = (f"{parameters} M", f"{macs} G", f"{top1} %")
    count, products, accuracy = (Figure(text, MOBILEVIT_V2, "Table 6") for text in texts)
    return Published(count, (products, *more), {"top-1": accuracy})


def _rival(parameters: str, macs: str, top1: str) -> Published:
    texts = (f"{parameters} M", f"{macs} G", f"{top1} %")
    count, products, accuracy = (Figure(text, MOBILEVIT, "Table 3") for text in texts)
    return Published(count, (products,), {"top-1": accuracy})


_XS_MACS = (
    Figure("1.0 G", MOBILEVIT_CODE, "configuration"),
    Figure("0.7 G", MOBILEVIT, "Tables 3, 10", _ATTENTION.format(without="0.70", whole="0.77"), image_size=224),
)

PUBLISHED: dict[tuple[str, str], Published] = {
    ("mobilevit-xxs", "cls"): _mobilevit("1.3", _macs("0.4", source=MOBILEVIT_V2, place="Table 2"), "69.0", "88.9"),
    ("mobilevit-xs", "cls"): _mobilevit("2.3", _XS_MACS, "74.8", "92.3"),
    ("mobilevit-s", "cls"): _mobilevit("5.6", _macs("2.0", source=MOBILEVIT_V2, place="Table 2"), "78.4", "94.1"),
    ("mobilevit-xxs", "det"): _ssdlite("1.7", "19.9", Figure("0.9 G", MOBILEVIT_V2, "Table 4", _NORMS), why=_CUT),
    ("mobilevit-xs", "det"): _ssdlite(
        "2.7",
        "24.8",
        Figure("1.6 G", MOBILEVIT, "Table 10", _ATTENTION.format(without="1.56", whole="1.85")),
    ),
    ("mobilevit-s", "det"): _ssdlite("5.7", "27.7"),
    ("mobilevit-xxs", "seg"): _deeplab("1.9", "73.6"),
    ("mobilevit-xs", "seg"): _deeplab("2.9", "77.1", Figure("5.7 G", MOBILEVIT, "Table 10", _SEGMENTATION)),
    ("mobilevit-s", "seg"): _deeplab("6.4", "79.1"),
    ("mobilevitv2-0.5", "cls"): _v2("1.4", "0.5", "70.2"),
    ("mobilevitv2-0.75", "cls"): _v2("2.9", "1.0", "75.6"),
    ("mobilevitv2-1.0", "cls"): _v2("4.9", "1.8", "78.1"),
    ("mobilevitv2-1.25", "cls"): _v2("7.5", "2.8", "79.6"),
    ("mobilevitv2-1.5", "cls"): _v2("10.6", "4.0", "80.4"),
    ("mobilevitv2-1.75", "cls"): _v2("14.3", "5.5", "80.8"),
    ("mobilevitv2-2.0", "cls"): _v2(
        "18.5",
        "7.2",
        "81.2",
        Figure("7.5 G", MOBILEVIT_V2, "Table 2", "Table 6 of the same paper says 7.2 G for the same model."),
    ),
    ("mobilenetv2", "cls"): _rival("3.5", "0.3", "73.3"),
    ("deit-tiny", "cls"): _rival("5.7", "1.3", "72.2"),
    ("pit-ti", "cls"): _rival("4.9", "0.7", "73.0"),
}
"""By name in the catalogue and task."""


@dataclass(frozen=True)
class PhoneLatency:
    """What Core ML needs on an iPhone 12: full precision, one image, mean of 100 runs.

    Attributes:
        model: name in the catalogue.
        title: the model as the paper calls it.
        neural_engine: latency there.
        cpu: latency there.
    """

    model: str
    title: str
    neural_engine: Figure
    cpu: Figure


def _phone(model: str, title: str, neural_engine: str, cpu: str) -> PhoneLatency:
    times = (Figure(f"{time} ms", MOBILEVIT, "Table 11") for time in (neural_engine, cpu))
    return PhoneLatency(model, title, *times)


IPHONE_12 = (
    _phone("mobilenetv2", "MobileNetV2 1.0", "0.92", "7.50"),
    _phone("deit-tiny", "DeiT-tiny", "10.99", "28.15"),
    _phone("pit-ti", "PiT-Ti", "10.56", "24.03"),
    _phone("mobilevit-xs", "MobileViT-XS", "7.28", "17.86"),
)
"""The paper's Table 3, with the CPU column of its Table 11. MobileNetV2 first: the others are compared with it."""


@dataclass(frozen=True)
class PatchSizes:
    """What the paper found with other patches in MobileViT-S: accuracy, and latency on an iPhone 12.

    Attributes:
        patches: side of the patches at output strides 8, 16 and 32.
        top1: on ImageNet.
        latency: of one image.
    """

    patches: tuple[int, int, int]
    top1: Figure
    latency: Figure


def _patches(patches: tuple[int, int, int], top1: str, latency: str) -> PatchSizes:
    accuracy, time = (Figure(text, MOBILEVIT, "Table 6") for text in (f"{top1} %", f"{latency} ms"))
    return PatchSizes(patches, accuracy, time)


PATCH_SIZES = (
    _patches((2, 2, 2), "78.4", "9.85"),
    _patches((3, 3, 3), "78.5", "14.69"),
    _patches((4, 4, 4), "77.6", "8.23"),
    _patches((8, 4, 2), "77.3", "8.20"),
)
