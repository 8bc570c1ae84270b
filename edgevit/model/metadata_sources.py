"""Where metadata comes from: the model's own file, a TOML file beside it, the ``--preprocess`` option."""

from __future__ import annotations

import difflib
import re
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from edgevit.errors import UserError
from edgevit.model.metadata import AnchorLevel, Detection, Metadata, Preprocessing, first_fault
from edgevit.model.metadata_labels import read_labels

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

PRESETS = {
    "imagenet": Preprocessing(
        resize=256, crop=224, channel_order="RGB", mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225)
    ),
    "inception": Preprocessing(resize=256, crop=224, channel_order="RGB", mean=(0.5,) * 3, std=(0.5,) * 3),
    "mobilevit": Preprocessing(resize=288, crop=256, channel_order="BGR"),
}
"""What published weights expect: torchvision's and most of timm's; TensorFlow's, in -1 to 1; the MobileViT paper's."""

SYNTAX = "imagenet, inception, mobilevit, FILE.toml, or resize=288,crop=256,order=BGR,scale=1/255,mean=0,std=1"
"""What ``--preprocess`` takes, for messages."""

_S = TypeVar("_S", bound=BaseModel)
_MAX_TOML_BYTES = 16 << 20
_SHORT = {"order": "channel_order"}


def gather(
    own: Metadata, path: Path | None, preprocess: str | Path | Preprocessing | None
) -> tuple[Metadata, str | None]:
    """Merge a model's metadata from all sources; the first that states a field (task, labels, ...) decides it.

    Args:
        own: of the model file itself; asked last.
        path: of the model file; ``model.toml`` beside ``model.onnx`` is asked second.
        preprocess: asked first: the name of a preset, the path of a TOML file, settings, or the settings' object.

    Returns:
        The metadata, and a sentence on what came from elsewhere than the model file, if anything did.

    Raises:
        UserError: a source does not parse, or says nothing of preprocessing where that was asked for.
    """
    sources: list[tuple[str, Metadata]] = []
    if preprocess is not None:
        sources.append(_asked(preprocess))
    if path is not None and (beside := path.with_suffix(".toml")) != path and beside.is_file():
        sources.append((beside.name, read_toml(beside)))
    fields: dict[str, Any] = {}
    origins: dict[str, list[str]] = {}
    for origin, metadata in (*sources, ("", own)):
        for field in Metadata.model_fields:
            value = getattr(metadata, field)
            if field not in fields and value is not None:
                fields[field] = value
                origins.setdefault(origin, []).append(field)
    said = [f"{' and '.join(names)} from {origin}" for origin, names in origins.items() if origin]
    return Metadata(**fields), f"metadata: {', '.join(said)}" if said else None


def parse_preprocessing(text: str) -> Preprocessing:
    """Parse settings: the name of a preset, or ``key=value`` joined by commas, or a preset and what differs from it.

    Keys are the fields of :class:`Preprocessing`; ``order`` is short for ``channel_order``. Numbers may be fractions
    (``1/255``); three numbers are joined by colons (``mean=0.485:0.456:0.406``), and one stands for three alike; a
    resize to height and width, proportions ignored, is ``320x320``; ``none`` takes a resize or crop away.

    Raises:
        UserError: an unknown preset or key, a bad number, a key missing or given twice, a crop larger than the resize.
    """
    where = f"--preprocess {text}"
    first, *others = [part.strip() for part in text.split(",")]
    settings: dict[str, Any] = {}
    if "=" in first:
        others = [first, *others]
    else:
        settings["preset"] = first
    for part in others:
        name, equals, value = (piece.strip() for piece in part.partition("="))
        key = _SHORT.get(name, name)
        if not equals or not value:
            raise UserError(f"{part!r} is not key=value.", where=where, advice=f"Give one of: {SYNTAX}.")
        if key in settings or key == "preset":
            raise UserError(f"{key!r} is given twice, or out of place.", where=where, advice=f"Give one of: {SYNTAX}.")
        settings[key] = value
    return _preprocessing(settings, where)


def read_toml(path: Path) -> Metadata:
    """Read metadata from a TOML file: ``task``, ``labels`` (a list, or the path of a text file), ``[preprocessing]``
    with the keys of :func:`parse_preprocessing` and ``preset``, ``[detection]``.

    Raises:
        UserError: the file cannot be read, is no TOML, or a key or value is wrong; names it.
    """
    content: dict[str, Any] = _parse_toml(path)
    labels = content.get("labels")
    if isinstance(labels, str):
        content["labels"] = read_labels(path.parent / Path(labels).expanduser()).names
    table = content.get("preprocessing")
    if isinstance(table, dict):
        content["preprocessing"] = _preprocessing(table, f"{path}: [preprocessing]")
    return _validated(Metadata, content, str(path))


def _asked(preprocess: str | Path | Preprocessing) -> tuple[str, Metadata]:
    if isinstance(preprocess, Preprocessing):
        return "the call", Metadata(preprocessing=preprocess)
    if isinstance(preprocess, str) and not preprocess.endswith(".toml"):
        return f"--preprocess {preprocess}", Metadata(preprocessing=parse_preprocessing(preprocess))
    path = Path(preprocess).expanduser()
    metadata = read_toml(path)
    if metadata.preprocessing is None:
        raise UserError(
            "the file says nothing of preprocessing.", where=str(path), advice="Add a table [preprocessing]."
        )
    return path.name, metadata


def _preprocessing(settings: dict[str, Any], where: str) -> Preprocessing:
    """From keys and values that text or TOML gave."""
    base: dict[str, Any] = {}
    values = {_SHORT.get(key, key): value for key, value in settings.items()}
    if (preset := values.pop("preset", None)) is not None:
        if not isinstance(preset, str) or preset not in PRESETS:
            raise UserError(
                f"there is no preset {preset!r}.",
                where=where,
                advice=f"{_suggestion(str(preset), list(PRESETS))}Give one of: {SYNTAX}.",
            )
        base = PRESETS[preset].model_dump()
    _refuse_unknown(values, [*Preprocessing.model_fields, "preset"], where)
    given = {key: _value(key, value, where) for key, value in values.items()}
    if "channel_order" not in {**base, **given}:
        raise UserError(
            "no channel order is given, and a wrong one costs accuracy silently.",
            where=where,
            advice="Add order=RGB or order=BGR: what the weights were trained with.",
        )
    return _validated(Preprocessing, {**base, **given}, where)


def _value(key: str, value: Any, where: str) -> Any:
    """A value as the schema takes it; numbers may be text."""
    if key in ("scale", "mean", "std"):
        if isinstance(value, str):
            numbers = [_number(part, f"{where}: {key}") for part in value.split(":")]
            value = numbers[0] if len(numbers) == 1 else numbers
        elif isinstance(value, list):
            value = [_number(part, f"{where}: {key}") if isinstance(part, str) else part for part in value]
        return [value] * 3 if key != "scale" and isinstance(value, (int, float)) else value
    if key in ("resize", "crop") and isinstance(value, str):
        if value.lower() == "none":
            return None
        sides = [_whole(part, f"{where}: {key}") for part in value.lower().split("x")]
        return sides[0] if len(sides) == 1 else sides
    return value


def _number(text: str, where: str) -> float:
    top, slash, bottom = text.partition("/")
    try:
        return float(top) / float(bottom) if slash else float(top)
    except (ValueError, ZeroDivisionError) as error:
        raise UserError(
            f"{text!r} is no number.", where=where, advice="Write 0.5, 1/255, or three joined by colons."
        ) from error


def _whole(text: str, where: str) -> int:
    if not re.fullmatch(r"\s*[0-9]{1,6}\s*", text):
        raise UserError(f"{text!r} is no number of pixels.", where=where, advice="Write 256, or 320x320 for a resize.")
    return int(text)


def _validated(schema: type[_S], content: dict[str, Any], where: str) -> _S:
    try:
        return schema.model_validate(content)
    except ValidationError as error:
        finding = error.errors(include_url=False)[0]
        if finding["type"] == "extra_forbidden":
            *path, key = finding["loc"]
            _refuse_unknown([str(key)], _fields_at(path), where)
        raise UserError(f"{first_fault(error)}.", where=where, advice="Correct that value.") from error


def _refuse_unknown(keys: Iterable[str], known: list[str], where: str) -> None:
    for key in keys:
        if key not in known:
            raise UserError(
                f"there is no key {key!r}.",
                where=where,
                advice=f"{_suggestion(key, known)}Known: {', '.join(known)}.",
            )


def _fields_at(path: list[Any]) -> list[str]:
    """Keys of the part of a metadata file where pydantic found an unknown one."""
    if path[:1] != ["detection"]:
        return list(Metadata.model_fields)
    return list(Detection.model_fields if len(path) == 1 else AnchorLevel.model_fields)


def _suggestion(given: str, known: list[str]) -> str:
    close = difflib.get_close_matches(given, known, n=1)
    return f"Did you mean {close[0]}? " if close else ""


def _parse_toml(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as stream:
            data = stream.read(_MAX_TOML_BYTES + 1)
    except OSError as error:
        raise UserError(
            f"cannot read the file: {error.strerror or error}.", where=str(path), advice=f"Give one of: {SYNTAX}."
        ) from error
    if len(data) > _MAX_TOML_BYTES:
        raise UserError("the file is too large for a model's metadata.", where=str(path), advice="Give a TOML file.")
    try:
        return tomllib.loads(data.decode())
    except (ValueError, RecursionError) as error:
        raise UserError(
            f"it is not valid TOML: {error}.",
            where=str(path),
            advice="Correct it, or rename it if it is not about the model it lies beside.",
        ) from error
