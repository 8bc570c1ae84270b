"""Finding a target: a shipped preset, the machine itself, or a TOML file of one's own."""

from __future__ import annotations

import difflib
import json
import os
import re
import sys
from functools import cache
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from edgevit.errors import TargetError, UserError
from edgevit.host import detect_host
from edgevit.resources import resource_folder
from edgevit.target_schema import Caches, Cluster, Gpu, Linking, Reach, Target, Vector

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

__all__ = [
    "Caches",
    "Cluster",
    "Gpu",
    "Linking",
    "Reach",
    "Target",
    "Vector",
    "get_target",
    "list_targets",
    "validate_for_compiler",
]

_HOST_NAMES = ("host", "native")
_MAX_BYTES = 1 << 20
_TABLES: dict[str, type[BaseModel]] = {
    "caches": Caches,
    "vector": Vector,
    "clusters": Cluster,
    "gpu": Gpu,
    "linking": Linking,
    "reach": Reach,
}


def get_target(name_or_path: str | Path) -> Target:
    """The target of that name, alias or TOML file.

    A string that ends in ``.toml`` or holds a path separator is a file, anything else a name. ``host`` asks
    TVM's LLVM for the exact CPU, which imports TVM.

    Raises:
        TargetError: there is no such target, or its file does not parse; names the file and the key.
    """
    if isinstance(name_or_path, Path) or _is_path(name_or_path):
        return _load_file(Path(name_or_path).expanduser())
    if name_or_path in _HOST_NAMES:
        return detect_host()
    presets = _presets()
    for target in presets.values():
        if name_or_path == target.name or name_or_path in target.aliases:
            return target
    raise _unknown(name_or_path, presets)


def list_targets() -> list[Target]:
    """``host`` first, then all presets by name.

    TVM is not imported: ``host`` carries the CPU level that the operating system reports (``x86-64-v4``)
    where ``get_target("host")`` has LLVM's exact name.

    Raises:
        TargetError: a shipped file is damaged.
    """
    presets = sorted(_presets().values(), key=lambda target: target.name)
    try:
        return [detect_host(exact=False), *presets]
    except TargetError:
        # A machine that cannot be a target can still list those that can.
        return presets


def runs_here(target: Target) -> bool:
    """Whether this machine's CPU has everything the target's code may use, and its system loads the libraries."""
    return get_target("host").system == target.system and executes_here(target)


def executes_here(target: Target) -> bool:
    """Whether this machine's CPU and kernel run the target's code, if only in edgevit's server.

    The server loads Android's libraries on Linux too: they ask nothing of the kernel that Linux does not have.
    """
    host = get_target("host")
    same = (host.architecture, host.os_kernel) == (target.architecture, target.os_kernel)
    return same and (target.cpu == host.cpu or {f for f in target.features if f[0] == "+"} <= set(host.features))


def require_cpu(target: Target, doing: str) -> None:
    """Refuse what is done with kernels for CPUs only.

    Args:
        target: the user's.
        doing: what is asked for, as the subject of a sentence: ``Tuning``.

    Raises:
        UserError: kernels of this target run on a GPU.
    """
    if target.gpu is not None:
        raise UserError(
            f"{doing} is for kernels that run on a CPU; those of {target.name} run on its GPU.",
            where="--target",
            advice="GPU kernels take their shapes from the target's [gpu] table; compile without records.",
        )


def validate_for_compiler(target: Target) -> None:
    """Refuse CPU and feature names that LLVM does not know: it would only ignore them.

    Raises:
        TargetError: an unknown name, with the closest ones LLVM has.
    """
    import tvm
    from tvm.target import codegen

    if not codegen.llvm_is_valid_cpu(target.cpu, target.triple):
        bare = tvm.target.Target({"kind": "llvm", "mtriple": target.triple})
        known = [str(cpu) for cpu in codegen.llvm_get_cpu_archlist(bare)]
        raise TargetError(
            f"LLVM has no CPU {target.cpu!r} for {target.triple}.",
            where=f"{target.name}: cpu",
            advice=_closest(target.cpu, known) or "Use one of: " + ", ".join(known) + ".",
        )
    for feature in target.features:
        enabled = {"kind": "llvm", "mtriple": target.triple, "mcpu": target.cpu, "mattr": [f"+{feature[1:]}"]}
        if feature[1:] not in codegen.llvm_get_cpu_features(tvm.target.Target(enabled)):
            raise TargetError(
                f"LLVM has no feature {feature[1:]!r} for {target.triple}.",
                where=f"{target.name}: features",
                advice="See the names in LLVM's documentation, or leave it out: the CPU implies its own.",
            )


def _is_path(name: str) -> bool:
    return name.endswith(".toml") or os.sep in name or "/" in name


@cache
def _presets() -> dict[str, Target]:
    files = sorted(resource_folder("targets").glob("*.toml"))
    return {path.stem: _load_file(path) for path in files}


def _unknown(name: str, presets: dict[str, Target]) -> TargetError:
    names = ["host", *sorted(presets)]
    aliases = [alias for target in presets.values() for alias in target.aliases]
    listed = f"Known: {', '.join(names)}; or give the path of a TOML file."
    suggestion = _closest(name, names + aliases)
    return TargetError(f"there is no target {name!r}.", advice=f"{suggestion} {listed}" if suggestion else listed)


def _closest(name: str, known: list[str]) -> str | None:
    matches = difflib.get_close_matches(name, known, n=3, cutoff=0.6)
    return f"Did you mean {' or '.join(matches)}?" if matches else None


def _load_file(path: Path) -> Target:
    content = _with_base(path, seen=())
    content.setdefault("name", re.sub(r"[^a-z0-9._-]+", "-", path.stem.lower()))
    try:
        # Through JSON, because strict mode (no 4 from "4" or true) then still takes arrays for tuples.
        return Target.model_validate_json(json.dumps(content, default=str), strict=True)
    except ValidationError as error:
        raise _invalid(path, error) from error


def _with_base(path: Path, *, seen: tuple[Path, ...]) -> dict[str, Any]:
    """The file's keys over those of its ``base``, tables merged key by key."""
    content = _parse(path)
    base = content.pop("base", None)
    if base is None:
        return content
    if not isinstance(base, str):
        raise TargetError(
            "the value is not a string.",
            where=f"{path}: base",
            advice="Name a preset, or the path of another file.",
        )
    seen = (*seen, path.resolve())
    shipped = resource_folder("targets") / f"{base}.toml"
    if _is_path(base) or shipped.is_file():
        # Presets stand on each other, so one's file is read here without the table of all of them.
        origin = path.parent / Path(base).expanduser() if _is_path(base) else shipped
        if origin.resolve() in seen:
            raise TargetError(f"{base} leads back to this file.", where=f"{path}: base", advice="Break the circle.")
        inherited = _with_base(origin, seen=seen)
    else:
        try:
            inherited = get_target(base).model_dump(exclude_unset=True)
        except TargetError as error:
            raise TargetError(error.message, where=f"{path}: base", advice=error.advice) from error
    # What names the base does not name its descendant.
    for key in ("name", "aliases"):
        inherited.pop(key, None)
    return _merge(inherited, content)


def _merge(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in over.items():
        old = merged.get(key)
        merged[key] = _merge(old, value) if isinstance(old, dict) and isinstance(value, dict) else value
    return merged


def _parse(path: Path) -> dict[str, Any]:
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise TargetError(
                "the file is too large for a target.", where=str(path), advice="Give a target's TOML file."
            )
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise TargetError(
            f"cannot read the file: {error.strerror or error}.",
            where=str(path),
            advice="'edgevit targets' lists presets; 'edgevit targets NAME --toml' prints one to start from.",
        ) from error
    except UnicodeDecodeError as error:
        raise TargetError("the file is not UTF-8 text.", where=str(path)) from error
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        found = re.search(r"at line (\d+)", str(error))
        line = found.group(1) if found else text.count("\n") + 1  # else "at end of document"
        raise TargetError(f"not valid TOML: {error}.", where=f"{path}:{line}") from error


def _invalid(path: Path, error: ValidationError) -> TargetError:
    """Pydantic's findings, each with its key; a single one's key goes into the place."""
    findings = [(".".join(map(str, finding["loc"])), _explain(finding)) for finding in error.errors(include_url=False)]
    advice = _suggest(error.errors(include_url=False)[0])
    if len(findings) == 1:
        key, text = findings[0]
        return TargetError(f"{text}.", where=f"{path}: {key}" if key else str(path), advice=advice)
    listed = "; ".join(f"{key}: {text}" if key else text for key, text in findings)
    return TargetError(f"{listed}.", where=str(path), advice=advice)


def _explain(finding: Any) -> str:
    if finding["type"] == "missing":
        return "this key is missing"
    if finding["type"] == "extra_forbidden":
        return "there is no such key"
    if finding["type"] == "value_error":
        return str(finding["ctx"]["error"])
    text = str(finding["msg"])
    text = text[0].lower() + text[1:]
    given = finding.get("input")
    return f"{text}, not {json.dumps(given)}" if isinstance(given, (str, int, float, bool)) else text


def _suggest(finding: Any) -> str | None:
    if finding["type"] != "extra_forbidden":
        return None
    *tables, key = finding["loc"]
    schema = _TABLES[str(tables[0])] if tables else Target
    known = list(schema.model_fields)
    return _closest(str(key), known) or f"Known keys: {', '.join(known)}."
