"""Where tuning logs lie: those that ship with edgevit, the user's own, and a folder named on the command line."""

from __future__ import annotations

import os
from enum import IntEnum
from pathlib import Path

from edgevit.errors import UserError
from edgevit.resources import resource_folder
from edgevit.target_schema import Target


class Layer(IntEnum):
    """Where a record was read from, nearest to the user first."""

    GIVEN = 0
    USER = 1
    SHIPPED = 2

    @property
    def label(self) -> str:
        """For people."""
        return {Layer.GIVEN: "--tuning-log", Layer.USER: "user", Layer.SHIPPED: "shipped"}[self]


def user_folder() -> Path:
    """The user's tuning logs: ``EDGEVIT_TUNING_DIR``, else ``tuning_logs`` in the user's data folder for edgevit."""
    from platformdirs import user_data_path

    chosen = os.environ.get("EDGEVIT_TUNING_DIR")
    return Path(chosen).expanduser() if chosen else user_data_path("edgevit") / "tuning_logs"


def user_log(target_name: str) -> Path:
    """The log that new records of a target go to unless the user names another."""
    return user_folder() / target_name / "records.jsonl"


def log_files(path: Path) -> list[Path]:
    """The logs of a file or folder: ``*.jsonl`` in it and in its folders, sorted, without what was set aside.

    Raises:
        UserError: a folder may not be read.
    """
    try:
        if path.is_file():
            return [path]
        found = (*path.glob("*.jsonl"), *path.glob("*/*.jsonl"))
        return sorted(file for file in found if file.is_file() and not file.name.endswith(".rejected.jsonl"))
    except OSError as error:
        raise UserError(
            f"cannot look for tuning logs: {error.strerror or error}.",
            where=str(path),
            advice="Give yourself the right to read the folder, or name another with EDGEVIT_TUNING_DIR.",
        ) from error


def layer_files(given: Path | None, target: Target | None = None) -> list[tuple[Layer, Path]]:
    """All logs with their layers.

    Args:
        given: a folder named on the command line.
        target: leave out shipped folders of presets with another architecture.

    Raises:
        UserError: ``given`` is no folder.
    """
    found: list[tuple[Layer, Path]] = []
    if given is not None:
        if not given.is_dir():
            raise UserError(
                "there is no such tuning log folder.",
                where=str(given),
                advice="Give a folder that holds .jsonl records, or leave --tuning-log out.",
            )
        found += [(Layer.GIVEN, file) for file in log_files(given)]
    found += [(Layer.USER, file) for file in log_files(user_folder())]
    foreign = _foreign(target)
    shipped = log_files(resource_folder("tuning_logs"))
    return found + [(Layer.SHIPPED, file) for file in shipped if file.parent.name not in foreign]


def _foreign(target: Target | None) -> set[str]:
    if target is None:
        return set()
    from edgevit.targets import list_targets

    return {other.name for other in list_targets() if other.architecture != target.architecture}
