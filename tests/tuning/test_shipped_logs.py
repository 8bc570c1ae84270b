"""The logs that ship: every line counts, and the zoo's kernels take their choices from them."""

from __future__ import annotations

import pytest

from edgevit.model import from_proto
from edgevit.resources import resource_folder
from edgevit.targets import get_target
from edgevit.tuning.layers import Layer, log_files
from edgevit.tuning.reading import Rejected, read_records
from edgevit.tuning.record import KernelRecord
from edgevit.tuning.records import load_tuning_log
from edgevit.tuning.tasks import extract_tasks
from edgevit.zoo import build


def test_every_line_is_a_measurement_of_todays_kernels() -> None:
    files = log_files(resource_folder("tuning_logs"))
    assert {file.parent.name for file in files} == {"x86-64-v3", "x86-64-v4"}
    for file in files:
        records = list(read_records(file))
        assert not [record for record in records if isinstance(record, Rejected)]
        for record in records:
            assert isinstance(record, KernelRecord)
            assert (record.evidence, record.target.name) == ("measured", file.parent.name)
            assert record.device is not None
            assert not record.device.emulated
        assert load_tuning_log(get_target(file.parent.name)).stale == 0


@pytest.mark.parametrize("name", ["x86-64-v3", "x86-64-v4"])
def test_the_zoos_kernels_use_them_by_default(name: str) -> None:
    target = get_target(name)
    log = load_tuning_log(target)
    tasks = extract_tasks({"xxs": from_proto(build("mobilevit-xxs"))}, target)
    picks = [log.find(task.key, lambda choice, _, space=task.space: choice in space) for task in tasks]  # type: ignore[misc]
    found = [pick for pick in picks if pick is not None]
    assert len(found) >= 10
    assert {(pick.layer, pick.evidence) for pick in found} == {(Layer.SHIPPED, "measured")}
