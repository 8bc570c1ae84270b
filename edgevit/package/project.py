"""Projects around the folder ``Model``: their files by path."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from edgevit.package.xcode import APP, project_text

System = Literal["ios", "macos"]
SYSTEMS: tuple[System, ...] = ("ios", "macos")

MODEL_FOLDER: Mapping[System, str] = {"ios": f"{APP}/Model", "macos": "Sources/EdgevitKit/Model"}
"""Where a project of each system holds the folder ``Model``."""

MINIMUM: Mapping[System, str] = {"ios": "15.0", "macos": "12.0"}
"""Oldest versions of the systems that have everything the Swift files use."""

_TEMPLATES = Path(__file__).parent / "templates"


def project_files(system: System, name: str, facts: Mapping[str, str]) -> dict[str, bytes]:
    """Everything but the folder ``Model``.

    Args:
        system: what the project is for.
        name: of the model.
        facts: what the README says of this package, by the names that its template uses.
    """
    kit = sorted(path.name for path in (_TEMPLATES / "kit").glob("*.swift"))
    values = {"NAME": _plain(name), "TITLE": _literal(name), "MINIMUM": MINIMUM[system], **facts}
    files = {"README.md": _filled(f"{system}/README.md", values)}
    if system == "macos":
        files["Package.swift"] = _filled("macos/Package.swift", values)
        files["Sources/check-model/main.swift"] = _filled("macos/main.swift", {})
        files |= {f"Sources/EdgevitKit/{file}": _filled(f"kit/{file}", {}) for file in kit}
        return files
    own = sorted(path.name for path in (_TEMPLATES / "ios").glob("*.swift"))
    files |= {f"{APP}/{file}": _filled(f"ios/{file}", values) for file in own}
    files |= {f"{APP}/{file}": _filled(f"kit/{file}", {}) for file in kit}
    files[f"{APP}.xcodeproj/project.pbxproj"] = project_text(
        [*own, *kit], ["Model"], title=name, bundle=f"org.example.edgevit.{_plain(name)}", minimum=MINIMUM[system]
    ).encode()
    return files


def _filled(template: str, values: Mapping[str, str]) -> bytes:
    """A template with ``@NAME@`` and the like replaced."""
    text = (_TEMPLATES / template).read_text(encoding="utf-8")
    return re.sub(r"@([A-Z]+)@", lambda found: values[found[1]], text).encode()


def _plain(name: str) -> str:
    """Letters, digits and hyphens: what names of packages and bundles may hold."""
    return re.sub(r"[^A-Za-z0-9]+", "-", name).strip("-") or "model"


def _literal(name: str) -> str:
    """Inside a Swift string."""
    return "".join(c if c.isprintable() and c not in '"\\' else "_" for c in name)
