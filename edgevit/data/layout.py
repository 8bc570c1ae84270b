"""What a scene consists of: objects, decoys, clutter and light, drawn by lot before any pixel is."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, get_args

from edgevit.data.draws import Draws
from edgevit.data.shapes import SHAPES, TEXTURES

Task = Literal["cls", "det", "seg"]
Split = Literal["train", "val", "test"]
Colour = tuple[float, float, float]

TASKS: tuple[Task, ...] = get_args(Task)
SPLITS: tuple[Split, ...] = get_args(Split)

_KINDS = (
    ("checked", "cross"),
    ("checked", "square"),
    ("checked", "triangle"),
    ("dotted", "ring"),
    ("dotted", "star"),
    ("dotted", "triangle"),
    ("plain", "cross"),
    ("plain", "disc"),
    ("plain", "star"),
    ("striped", "disc"),
    ("striped", "ring"),
    ("striped", "square"),
)
"""Texture and shape of each class. Every shape has two textures and every texture three shapes: knowing the shape
alone is right half the time, the texture alone one time in three. In alphabetical order, which is that of folders."""

_DECOYS = tuple((texture, shape) for texture in TEXTURES for shape in SHAPES if (texture, shape) not in _KINDS)
"""The other combinations belong to no class. They lie about as background."""

CLASSES: tuple[str, ...] = tuple(f"{texture} {shape}" for texture, shape in _KINDS)
"""Names of the classes, by index, without a background."""

_TRIES = 24
"""For a free place."""


@dataclass(frozen=True)
class Item:
    """One object or decoy. Lengths are shares of the image's short side.

    Attributes:
        kind: index of its class, None for a decoy.
        texture: of its surface.
        shape: of its outline.
        x: of the centre, from the left.
        y: of the centre, from the top.
        radius: of the outline.
        turn: cosine and sine of the outline's rotation.
        stretch: extent of its first axis, and of its second, as shares of the radius.
        grain: cosine and sine of the texture's rotation.
        phase: of the texture, in periods.
        period: of the texture.
        colours: of the surface, 0 to 255.
        shade: change of brightness over one radius, along x and y.
    """

    kind: int | None
    texture: str
    shape: str
    x: float
    y: float
    radius: float
    turn: tuple[float, float]
    stretch: tuple[float, float]
    grain: tuple[float, float]
    phase: tuple[float, float]
    period: float
    colours: tuple[Colour, Colour]
    shade: tuple[float, float]


@dataclass(frozen=True)
class Bar:
    """A straight piece of clutter. Lengths are shares of the image's short side."""

    x: float
    y: float
    half_length: float
    half_width: float
    turn: tuple[float, float]
    colour: Colour


@dataclass(frozen=True)
class Ground:
    """What everything lies on.

    Attributes:
        colours: it varies between these two.
        cells: of the variation, along the short side.
        texture: laid over it, ``plain`` for none.
        strength: of that texture, 0 to 1.
        grain: cosine and sine of the texture's rotation.
        period: of the texture.
    """

    colours: tuple[Colour, Colour]
    cells: int
    texture: str
    strength: float
    grain: tuple[float, float]
    period: float


@dataclass(frozen=True)
class Light:
    """What happens to the finished picture.

    Attributes:
        slope: change of brightness over the short side, along x and y.
        tint: factor of each channel.
        blur: standard deviation, a share of the short side.
        noise: standard deviation, of 255.
    """

    slope: tuple[float, float]
    tint: Colour
    blur: float
    noise: float


@dataclass(frozen=True)
class Layout:
    """A whole scene; later items lie on earlier ones."""

    ground: Ground
    litter: tuple[Bar, ...]
    items: tuple[Item, ...]
    twigs: tuple[Bar, ...]
    light: Light


@dataclass
class _Table:
    """Where items were put so far."""

    width: float
    height: float
    taken: list[tuple[float, float, float]] = field(default_factory=list)

    def place(self, draws: Draws, radius: float) -> tuple[float, float] | None:
        """A place where the item hides at most a part of any other, and no other hides more than a part of it."""
        for _ in range(_TRIES):
            # The outline leaves the image by a third of its radius at most.
            margin = 0.67 * radius
            x = draws.uniform(margin, self.width - margin)
            y = draws.uniform(margin, self.height - margin)
            if all(_apart(x - left, y - top, radius, other) for left, top, other in self.taken):
                self.taken.append((x, y, radius))
                return x, y
        return None


def lay_out(task: Task, index: int, draws: Draws, width: float, height: float) -> Layout:
    """Draw a scene by lot.

    Args:
        task: ``cls`` has one large object, the others up to six of any size.
        index: of the scene; for ``cls`` it settles the class, so that classes are equally frequent.
        draws: the scene's stream.
        width: of the image, as a multiple of the short side.
        height: of the image, likewise.
    """
    ground = _ground(draws)
    litter = tuple(_bar(draws, width, height, 0.25) for _ in range(draws.below(7)))
    if task == "cls":
        radius = draws.uniform(0.15, 0.40)
        wanted: list[tuple[int | None, float]] = [(index % len(CLASSES), radius)]
        wanted += [(draws.below(len(CLASSES)), radius * draws.uniform(0.25, 0.42)) for _ in range(draws.below(3))]
        decoy = radius * draws.uniform(0.25, 0.5)
    else:
        wanted = [(draws.below(len(CLASSES)), _radius(draws)) for _ in range(draws.between(1, 6))]
        decoy = draws.uniform(0.08, 0.2)
    if draws.chance(0.4):
        wanted.append((None, decoy))
    table = _Table(width, height)
    items = [item for kind, size in wanted if (item := _item(draws, table, kind, size, ground))]
    # The large object of a classified scene lies on top as often as below.
    if draws.chance(0.5):
        items.reverse()
    twigs = tuple(_bar(draws, width, height, 0.7) for _ in range(max(0, draws.below(4) - 1)))
    return Layout(ground, litter, tuple(items), twigs, _light(draws))


def _item(draws: Draws, table: _Table, kind: int | None, radius: float, ground: Ground) -> Item | None:
    place = table.place(draws, radius)
    if place is None:
        return None
    texture, shape = draws.pick(_DECOYS) if kind is None else _KINDS[kind]
    first = _colour_apart(draws, ground.colours, 90)
    return Item(
        kind=kind,
        texture=texture,
        shape=shape,
        x=place[0],
        y=place[1],
        radius=radius,
        turn=draws.direction(),
        stretch=(1.0, draws.uniform(0.7, 1.0)),
        grain=draws.direction(),
        phase=(draws.uniform(), draws.uniform()),
        period=max(0.024, radius * draws.uniform(0.32, 0.5)),
        colours=(first, _colour_apart(draws, (first,), 130)),
        shade=_vector(draws, 0.3),
    )


def _radius(draws: Draws) -> float:
    # One in eight is so small that its texture is hard to see.
    return draws.uniform(0.045, 0.08) if draws.chance(0.125) else draws.uniform(0.08, 0.26)


def _ground(draws: Draws) -> Ground:
    first = _colour(draws)
    return Ground(
        colours=(first, _colour(draws)),
        cells=draws.between(2, 9),
        texture=draws.pick(TEXTURES),
        strength=draws.uniform(0.1, 0.5),
        grain=draws.direction(),
        period=draws.uniform(0.04, 0.16),
    )


def _bar(draws: Draws, width: float, height: float, longest: float) -> Bar:
    return Bar(
        x=draws.uniform(0, width),
        y=draws.uniform(0, height),
        half_length=longest * draws.uniform(0.3, 1.0),
        half_width=draws.uniform(0.006, 0.022),
        turn=draws.direction(),
        colour=_colour(draws),
    )


def _light(draws: Draws) -> Light:
    return Light(
        slope=_vector(draws, 0.5),
        tint=(draws.uniform(0.6, 1.1), draws.uniform(0.6, 1.1), draws.uniform(0.6, 1.1)),
        blur=max(0.0, draws.uniform(-0.004, 0.008)),
        noise=draws.uniform(0, 18),
    )


def _vector(draws: Draws, longest: float) -> tuple[float, float]:
    x, y = draws.direction()
    length = draws.uniform(0, longest)
    return x * length, y * length


def _colour(draws: Draws) -> Colour:
    return draws.uniform(0, 256), draws.uniform(0, 256), draws.uniform(0, 256)


def _colour_apart(draws: Draws, others: tuple[Colour, ...], distance: float) -> Colour:
    """A colour whose channels differ from every other's by so much, summed up; or the last one tried."""
    colour = _colour(draws)
    for _ in range(_TRIES):
        if all(sum(abs(a - b) for a, b in zip(colour, other, strict=True)) >= distance for other in others):
            break
        colour = _colour(draws)
    return colour


def _apart(x: float, y: float, radius: float, other: float) -> bool:
    """Whether the smaller of two items has its centre well outside the larger."""
    reach = max(radius, other) + 0.35 * min(radius, other)
    return x * x + y * y >= reach * reach
