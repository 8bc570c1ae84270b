"""One line, one record: what is written is read again, and nothing else is."""

from __future__ import annotations

import json
from typing import Any

import pytest
from pydantic import ValidationError

from edgevit.device.session import DeviceInfo
from edgevit.targets import get_target
from edgevit.tuning.origin import Origin
from edgevit.tuning.record import (
    MAX_LINE,
    DeviceFacts,
    NewerRecord,
    NotARecord,
    Timing,
    TvmRecord,
    parse_record,
)
from tests.tuning.making import common, failed, measured

DEVICE = DeviceInfo(kind="rpc", address="192.0.2.7:9090", cpu="Cortex-A72", cores=4, system="linux")


def a_line(**changes: Any) -> bytes:
    content = json.loads(measured().line())
    content.update(changes)
    return json.dumps(content).encode()


def test_every_kind_is_read_as_it_was_written() -> None:
    tvm = TvmRecord(
        **common("tvm/1/0f"), hash="15", module="eJw=", trace=[[["Split", None, 1.5]], []], failure="unknown"
    )
    for record in (measured(), measured(evidence="estimated"), failed(), tvm):
        line = record.line()
        assert parse_record(line) == record
        assert line.endswith(b"}\n")
        assert line.count(b"\n") == 1
        assert list(json.loads(line)) == sorted(json.loads(line))


def test_a_line_says_what_it_is_about() -> None:
    """For people who read a diff."""
    content = json.loads(measured({"rows": 6, "vectors": 2}).line())
    assert content["about"] == {
        "dtype": "float32",
        "epilogue": "silu",
        "family": "conv",
        "shape": "height 32; width 32",
    }
    assert content["choice"] == {"rows": 6, "vectors": 2}
    assert content["timing"] == {"quartiles": [0.001, 0.001], "samples": 5, "seconds": 0.001}
    assert content["target"]["cpu"] == "cortex-a72"


def test_median_and_quartiles_are_those_of_numpy() -> None:
    import numpy as np

    samples = np.random.default_rng(0).gamma(2.0, 1e-4, 41)
    timing = Timing.of([float(sample) for sample in samples])
    assert timing.seconds == pytest.approx(np.median(samples), rel=1e-5)
    assert timing.quartiles == pytest.approx(np.quantile(samples, [0.25, 0.75]), rel=1e-5)
    assert Timing.of([2e-3]).quartiles == (2e-3, 2e-3)


def with_depth(depth: int) -> bytes:
    return a_line().replace(b'"epilogue": "silu"', b'"epilogue": ' + b"[" * depth + b"]" * depth)


HOSTILE: dict[str, tuple[bytes, str]] = {
    "empty object": (b"{}", "not a tuning record"),
    "array": (b"[1, 2]", "not a tuning record"),
    "number": (b"7", "not a tuning record"),
    "no JSON": (b"<<<<<<< HEAD", "not JSON"),
    "half a record": (a_line()[:200], "not JSON"),
    "two records": (a_line() + a_line(), "not JSON"),
    "not UTF-8": (a_line().replace(b"silu", b"\xff\xfe"), "not UTF-8"),
    "surrogate": (a_line().replace(b"silu", b"\\ud800"), ""),
    "NaN": (a_line().replace(b'"seconds": 0.001', b'"seconds": NaN'), "NaN is not finite"),
    "infinite": (a_line().replace(b'"seconds": 0.001', b'"seconds": 1e999'), "not finite"),
    "zero seconds": (a_line().replace(b'"seconds": 0.001', b'"seconds": 0.0'), "seconds"),
    "negative": (a_line().replace(b'"seconds": 0.001', b'"seconds": -1.0'), "seconds"),
    "huge integer": (a_line(choice={"rows": 10**400}), ""),
    "endless integer": (a_line().replace(b'"threads": 1', b'"threads": ' + b"9" * 5000), ""),
    "text for a number": (a_line(threads="1"), "threads"),
    "truth for a number": (a_line(threads=True), "threads"),
    "fraction for a choice": (a_line(choice={"rows": 1.5}), "choice"),
    "choice of text": (a_line(choice={"rows": "4"}), "choice"),
    "choice without name": (a_line(choice={"": 4}), "choice"),
    "many choices": (a_line(choice={f"c{number}": 1 for number in range(100)}), "choice"),
    "no threads": (a_line(threads=0), "threads"),
    "key twice": (b'{"format": 2, "format": 2}', "stands twice"),
    "key twice inside": (a_line().replace(b'"samples": 5', b'"samples": 5, "samples": 6'), "stands twice"),
    "unknown key": (a_line(speed=1), "speed"),
    "unknown kind": (a_line(kind="guess"), "kind"),
    "no kind": (a_line(kind=None), "kind"),
    "format 1": (a_line(format=1), "no longer read"),
    "format as text": (a_line(format="2"), "not a tuning record"),
    "path for a key": (a_line(workload="../../etc/passwd"), "workload"),
    "key with a line break": (a_line(workload="conv/1/0123456789abcdef\n"), "workload"),
    "escape sequence": (a_line(provenance="\x1b[2J"), "printed"),
    "impossible date": (a_line(date="2025-02-30T00:00:00Z"), "date"),
    "date without zone": (a_line(date="2025-01-31T12:00:00"), "date"),
    "another family": (a_line(workload="pool/1/0123456789abcdef"), "differs"),
    "another version": (a_line(workload="conv/2/0123456789abcdef"), "differs"),
    "unordered quartiles": (a_line(timing={"quartiles": [2.0, 1.0], "samples": 5, "seconds": 1.5}), "quartiles"),
    "three quartiles": (a_line(timing={"quartiles": [1.0, 1.0, 1.0], "samples": 5, "seconds": 1.0}), "quartiles"),
    "deep": (with_depth(1000), ""),
    "very deep": (with_depth(1_000_000), ""),
    "deep array": (b"[" * 3_000_000, ""),
    "long text": (a_line(provenance="x" * 100_000), "provenance"),
    "longer than any record": (b"[" + b" " * MAX_LINE + b"]", "longer than 4 MiB"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_a_line_that_is_no_record_is_refused_with_a_reason(case: str) -> None:
    line, why = HOSTILE[case]
    with pytest.raises(NotARecord) as caught:
        parse_record(line)
    assert not isinstance(caught.value, NewerRecord)
    assert why in str(caught.value)
    assert len(str(caught.value)) <= 300
    assert str(caught.value).isprintable()


def test_a_record_of_a_later_version_is_told_from_garbage() -> None:
    with pytest.raises(NewerRecord, match="format 3 is of a later version"):
        parse_record(b'{"format": 3, "anything": {"may": ["be", "here"]}}')


def test_latencies_under_an_emulator_are_refused() -> None:
    with pytest.raises(ValidationError, match="emulator"):
        measured().model_validate({**measured().model_dump(), "device": {"kind": "emulated", "emulated": True}})
    with pytest.raises(ValidationError, match="device"):
        measured().model_validate({**measured().model_dump(), "device": None})


def test_a_run_makes_records_of_its_own_workloads() -> None:
    from edgevit.compiler.kernels import softmax, workload_key

    workload = softmax.Workload((1, 4, 64))
    origin = Origin(get_target("rpi4"), DEVICE, threads=2, provenance="edgevit tune model.onnx")
    good = origin.measured(softmax, workload, {"rows": 2}, [3e-5, 1e-5, 2e-5])
    guess = origin.estimated(softmax, workload, {"rows": 1}, 4e-5)
    bad = origin.failed(softmax, workload, {"rows": 4}, "wrong", "\n\x1b[31mtoo large\nby far")
    for record in (good, guess, bad):
        assert parse_record(record.line()) == record
        assert record.workload == workload_key(softmax, workload)
        assert record.about.shape == "shape 1x4x64; log no"
        assert record.threads == 2
    assert good.timing.seconds == 2e-5
    assert good.device == DeviceFacts(kind="rpc", cpu="Cortex-A72", cores=4, system="linux")
    assert b"192.0.2.7" not in good.line()
    assert bad.detail == "[31mtoo large"
    emulated = Origin(get_target("rpi4"), DEVICE.model_copy(update={"emulated": True}), 1)
    with pytest.raises(ValueError, match="emulator"):
        emulated.measured(softmax, workload, {"rows": 2}, [1e-5])
    assert emulated.failed(softmax, workload, {"rows": 2}, "build").device.emulated
