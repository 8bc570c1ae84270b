"""Reading shapes from the command line."""

from __future__ import annotations

import pytest

from edgevit.errors import UserError
from edgevit.model import parse_shape, parse_shapes


@pytest.mark.parametrize(
    ("text", "want"),
    [
        ("1x3x256x256", (None, (1, 3, 256, 256))),
        ("7", (None, (7,))),
        ("pixel_values=1x3x256x256", ("pixel_values", (1, 3, 256, 256))),
        ("a=b=2x2", ("a=b", (2, 2))),
        ("input.1=2", ("input.1", (2,))),
        ("factor=scalar", ("factor", ())),
    ],
)
def test_parse(text: str, want: tuple[str | None, tuple[int, ...]]) -> None:
    assert parse_shape(text) == want


@pytest.mark.parametrize(
    "text",
    [
        "",
        "x",
        "1x",
        "x1",
        "1xx2",
        "1,3,256,256",
        "1x3x-1x256",
        "0x3",
        "=1x3",
        "a=",
        "a=b",
        "1x3x?",
        "1X3",
        "1x99999999999",
    ],
)
def test_malformed(text: str) -> None:
    with pytest.raises(UserError, match="cannot read the shape") as caught:
        parse_shape(text)
    assert repr(text) in caught.value.message


def test_parse_several() -> None:
    assert parse_shapes([]) is None
    assert parse_shapes(["1x3"]) == (1, 3)
    assert parse_shapes(["a=1x3", "b=2"]) == {"a": (1, 3), "b": (2,)}


@pytest.mark.parametrize("texts", [["1x3", "2"], ["a=1x3", "2"], ["a=1", "a=2"]])
def test_several_shapes_need_distinct_names(texts: list[str]) -> None:
    with pytest.raises(UserError):
        parse_shapes(texts)
