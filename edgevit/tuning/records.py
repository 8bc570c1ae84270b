"""Read tuning records and pick the best choice for a workload.

A log is a folder of ``*.jsonl`` files, one record a line. Records are keyed by workload (family, family
version, what the kernel computes), never by model, so a record serves every model that holds the kernel.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

from pydantic import BaseModel, ConfigDict, PositiveFloat, ValidationError

from edgevit.errors import UserError
from edgevit.resources import resource_folder

Choice = dict[str, int]
"""One point of a kernel family's space."""


class TuningRecord(BaseModel):
    """One measured choice.

    Attributes:
        workload: ``family/version/digest`` of the kernel.
        choice: point of the family's space.
        seconds: median latency of one call on the target.
        device: where it was measured.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    workload: str
    choice: Choice
    seconds: PositiveFloat
    device: str


class TuningLog:
    """Best record per workload."""

    def __init__(self, records: list[TuningRecord], sha256: str | None = None) -> None:
        self.sha256 = sha256
        self._best: dict[str, TuningRecord] = {}
        for record in records:
            known = self._best.get(record.workload)
            if known is None or record.seconds < known.seconds:
                self._best[record.workload] = record

    def __len__(self) -> int:
        return len(self._best)

    def best(self, workload: str) -> Choice | None:
        """The fastest recorded choice, or None."""
        record = self._best.get(workload)
        return record.choice if record else None


def load_tuning_log(target_name: str, folder: Path | None = None) -> TuningLog:
    """Records for a target: from ``folder``, else from those that ship with edgevit.

    Raises:
        UserError: ``folder`` does not exist, or a line is not a record.
    """
    if folder is None:
        folder = resource_folder("tuning_logs") / target_name
        if not folder.is_dir():
            return TuningLog([])
    elif not folder.is_dir():
        raise UserError(
            "there is no such tuning log folder.",
            where=str(folder),
            advice="Give a folder that holds .jsonl records, or leave --tuning-log out.",
        )
    digest = hashlib.sha256()
    records = []
    for file in sorted(folder.glob("*.jsonl")):
        text = file.read_bytes()
        digest.update(text)
        for number, line in enumerate(text.splitlines(), start=1):
            if line.strip():
                records.append(_parse(line, f"{file}:{number}"))
    return TuningLog(records, digest.hexdigest() if records else None)


def _parse(line: bytes, where: str) -> TuningRecord:
    try:
        return TuningRecord.model_validate_json(line)
    except ValidationError as error:
        raise UserError(
            f"this line is not a tuning record: {error.errors()[0]['msg']}.",
            where=where,
            advice="Repair or delete the line.",
        ) from error
