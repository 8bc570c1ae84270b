"""The schema of tuning records, version 2: one JSON object a line, sorted keys, no spaces.

Three kinds share one log. A ``kernel`` record says how long a choice took. A ``failure`` record says that a choice
did not build, did not end, crashed or computed wrong values, so that nobody tries it again. A ``tvm`` record holds a
trace of TVM's MetaSchedule for an operator that no kernel family covers.
"""

from __future__ import annotations

import json
import math
import re
import statistics
from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    StringConstraints,
    TypeAdapter,
    model_validator,
)

if TYPE_CHECKING:
    from typing_extensions import Self

    from edgevit.device.session import DeviceInfo
    from edgevit.target_schema import Target

FORMAT = 2
MAX_LINE = 4 << 20
"""Bytes of the longest line that is read: modules of ``tvm`` records are long, all others stay below 4 KiB."""

Evidence = Literal["measured", "borrowed", "estimated"]
"""How a choice's latency is known: timed on the target, timed on a relative of it, or computed from a model of it."""

Failure = Literal["build", "timeout", "crash", "wrong", "unknown"]
"""Why a choice is of no use: it did not build, did not end in time, ended its process, or computed wrong values."""


def _printable(text: str) -> str:
    # Records come from anywhere and are printed: no escape sequences for terminals, no line breaks.
    if not text.isprintable():
        raise ValueError("holds characters that cannot be printed")
    return text


def _date(text: str) -> str:
    datetime.fromisoformat(text[:-1])  # there is such a day
    return text


Word = Annotated[str, StringConstraints(max_length=128, pattern=r"^[ -~]*$")]
Text = Annotated[str, StringConstraints(max_length=1000), AfterValidator(_printable)]

WorkloadKey = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_]{0,31}/[0-9]{1,6}/[0-9a-f]{1,32}$")]
"""``family/version/digest``: see :func:`edgevit.compiler.kernels.workload_key`."""

Date = Annotated[
    str,
    StringConstraints(pattern=r"^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]{3})?Z$"),
    AfterValidator(_date),
]
"""UTC: ``2025-01-31T12:00:00.250Z``; milliseconds may be missing."""

_ChoiceName = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_]{0,31}$")]
ChoiceField = Annotated[
    dict[_ChoiceName, Annotated[int, Field(ge=-(1 << 31), lt=1 << 31)]],
    Field(max_length=32),
]


class _Schema(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class About(_Schema):
    """What the kernel computes, for people who read a diff; the key alone decides.

    Attributes:
        family: that writes the kernel.
        shape: sizes, strides and whatever else tells this workload from others of its family.
        dtype: of the elements, numpy's name.
        epilogue: operations fused behind it; empty without any.
    """

    family: Word
    shape: Text
    dtype: Word
    epilogue: Text = ""


class TargetFacts(_Schema):
    """What of a target decides whether another one may use the record.

    Attributes:
        name: as ``edgevit targets`` lists it, for people.
        features: LLVM's names of what the processor has, without sign, sorted.
        vector_bits: of one register.
        registers: vector registers.
    """

    name: Word
    architecture: Literal["aarch64", "arm", "x86_64"]
    cpu: Word
    features: Annotated[tuple[Word, ...], Field(max_length=512)]
    vector_bits: PositiveInt
    registers: PositiveInt

    @classmethod
    def of(cls, target: Target) -> Self:
        """The facts of a target."""
        return cls(
            name=target.name,
            architecture=target.architecture,
            cpu=target.cpu,
            features=tuple(sorted(feature[1:] for feature in target.features if feature[0] == "+")),
            vector_bits=target.vector.bits,
            registers=target.vector.registers,
        )

    @property
    def identity(self) -> tuple[object, ...]:
        """Equal for targets that take each other's records as their own: everything but the name."""
        return self.architecture, self.cpu, self.features, self.vector_bits, self.registers


class DeviceFacts(_Schema):
    """What a device said of itself, without its address: logs are published.

    Attributes:
        kind: of session: ``process``, ``rpc``, ``ssh``, …
        cpu: the processor's name as the operating system gives it.
        phone: maker, model, chip and Android version, of a phone reached through adb.
        emulated: True when a program pretended to be the device.
    """

    kind: Word
    cpu: Text | None = None
    cores: PositiveInt | None = None
    system: Word | None = None
    memory_bytes: PositiveInt | None = None
    runtime: Text | None = None
    phone: Text | None = None
    emulated: bool = False

    @classmethod
    def of(cls, info: DeviceInfo) -> Self:
        """The facts of a session's device."""
        return cls(
            kind=info.kind,
            cpu=info.cpu,
            cores=info.cores,
            system=info.system,
            memory_bytes=info.memory_bytes,
            runtime=info.runtime,
            phone=info.phone.text if info.phone else None,
            emulated=info.emulated,
        )

    @property
    def identity(self) -> str:
        """Equal for devices whose latencies can be compared."""
        return f"{self.cpu} ({self.cores} cores, {self.system})"


class Timing(_Schema):
    """Latency of one call, in seconds.

    Attributes:
        seconds: median.
        samples: measurements behind it; none for an estimate.
        quartiles: first and third quartile of the samples; None for an estimate.
        default_seconds: median of the default choice there, which the samples were taken beside.
    """

    seconds: PositiveFloat
    samples: NonNegativeInt
    quartiles: tuple[PositiveFloat, PositiveFloat] | None = None
    default_seconds: PositiveFloat | None = None

    @property
    def gain(self) -> float | None:
        """How many times faster than the default; None where that is not known."""
        return self.default_seconds / self.seconds if self.default_seconds else None

    @classmethod
    def of(cls, samples: Sequence[float], default_seconds: float | None = None) -> Self:
        """Median and quartiles of samples, to six digits: more would only make diffs longer."""
        ordered = sorted(samples)
        first, median, third = (
            statistics.quantiles(ordered, n=4, method="inclusive") if len(ordered) > 1 else ordered * 3
        )
        return cls(
            seconds=_six(median),
            samples=len(ordered),
            quartiles=(_six(first), _six(third)),
            default_seconds=None if default_seconds is None else _six(default_seconds),
        )

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if (self.samples == 0) != (self.quartiles is None):
            raise ValueError("quartiles belong to samples")
        if self.quartiles and not self.quartiles[0] <= self.seconds <= self.quartiles[1]:
            raise ValueError("the median is not between the quartiles")
        return self


class Versions(_Schema):
    """What built the kernel. ``family`` is the kernel family's, or the format of ``tvm`` records."""

    edgevit: Word
    tvm: Word
    family: NonNegativeInt


class _Record(_Schema):
    """What all kinds share.

    Attributes:
        format: of the line.
        workload: ``family/version/digest``.
        threads: that the kernel was called with.
        date: when it was written.
        provenance: command or run that found it.
    """

    format: Literal[2] = 2
    workload: WorkloadKey
    about: About
    target: TargetFacts
    threads: Annotated[int, Field(ge=1, le=4096)]
    versions: Versions
    date: Date
    provenance: Text = ""

    @model_validator(mode="after")
    def _coherent(self) -> Self:
        family, version, _ = self.workload.split("/")
        if (self.about.family, self.versions.family) != (family, int(version)):
            raise ValueError("family or version differs from the workload's key")
        return self

    @property
    def family(self) -> str:
        """Kernel family."""
        return self.about.family

    @property
    def moment(self) -> str:
        """The date as text that sorts, with milliseconds or without."""
        return self.date.removesuffix("Z")

    def line(self) -> bytes:
        """The record as it stands in a log, with its end of line."""
        data = self.model_dump(mode="json", exclude_none=True)
        return json.dumps(data, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode() + b"\n"


class KernelRecord(_Record):
    """Latency of one choice of a kernel family's space.

    Attributes:
        evidence: ``measured`` takes a device that is no emulator; ``borrowed`` is what a tuner took over from a
            relative unmeasured; ``estimated`` has no device.
        device: where it was measured.
    """

    kind: Literal["kernel"] = "kernel"
    choice: ChoiceField
    evidence: Evidence
    timing: Timing
    device: DeviceFacts | None = None

    @model_validator(mode="after")
    def _honest(self) -> Self:
        if self.evidence == "measured" and (self.device is None or not self.timing.samples):
            raise ValueError("a measured record needs its device and samples")
        if self.evidence == "measured" and self.device is not None and self.device.emulated:
            raise ValueError("latencies under an emulator are no measurements")
        return self


class FailureRecord(_Record):
    """A choice that nobody should try again on this target.

    Attributes:
        failure: what went wrong.
        detail: the first line of what was said.
        device: where, None if it never got to one.
    """

    kind: Literal["failure"] = "failure"
    choice: ChoiceField
    failure: Failure
    detail: Text = ""
    device: DeviceFacts | None = None


class TvmRecord(_Record):
    """A trace of MetaSchedule and how long its code took, as TVM's own database holds them.

    Attributes:
        hash: structural hash of the module, TVM's decimal text.
        module: the serialized module: TVM's bytes, deflated, in base 64.
        trace: of the schedule; None for a failure before there was one.
        run_seconds: as measured; empty for a failure.
        tvm_target: of TVM.
        arguments: shapes and types of the function's arguments, as TVM writes them.
        failure: why there are no times.
    """

    kind: Literal["tvm"] = "tvm"
    hash: Annotated[str, StringConstraints(pattern=r"^[0-9]{1,20}$")]
    module: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9+/]*={0,2}$", max_length=MAX_LINE)]
    trace: list[Any]
    run_seconds: Annotated[tuple[PositiveFloat, ...], Field(max_length=10_000)] = ()
    tvm_target: dict[str, Any] | None = None
    arguments: list[Any] | None = None
    failure: Failure | None = None
    device: DeviceFacts | None = None

    @model_validator(mode="after")
    def _one_of_two(self) -> Self:
        if bool(self.run_seconds) == bool(self.failure):
            raise ValueError("either run_seconds or failure is needed")
        return self


Record = KernelRecord | FailureRecord | TvmRecord

_ADAPTER: TypeAdapter[Record] = TypeAdapter(Annotated[Record, Field(discriminator="kind")])


class NotARecord(ValueError):
    """A line that is no record of this format; its text says why."""


class NewerRecord(NotARecord):
    """A line that a later version of edgevit wrote; nothing is wrong with it."""


def parse_record(line: bytes) -> Record:
    """The record in a line.

    Raises:
        NewerRecord: its format is later than this version's.
        NotARecord: anything else that is wrong with it.
    """
    if len(line) > MAX_LINE:
        raise NotARecord(f"longer than {MAX_LINE >> 20} MiB")
    try:
        raw = json.loads(line.decode(), object_pairs_hook=_no_doubles, parse_float=_finite, parse_constant=_finite)
        _check_format(raw)
        return _ADAPTER.validate_json(line, strict=True)
    except NotARecord:
        raise
    except RecursionError:
        raise NotARecord("nested too deeply") from None
    except UnicodeDecodeError:
        raise NotARecord("not UTF-8") from None
    except json.JSONDecodeError as error:
        raise NotARecord(f"not JSON: {error.msg}") from None
    except ValueError as error:
        raise NotARecord(_first_complaint(error)) from None


def _check_format(raw: object) -> None:
    found = raw.get("format") if isinstance(raw, dict) else None
    if type(found) is not int or found < 1:
        raise NotARecord("not a tuning record")
    if found > FORMAT:
        raise NewerRecord(f"format {found} is of a later version of edgevit")
    if found < FORMAT:
        raise NotARecord(f"format {found} is no longer read")


def _no_doubles(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise NotARecord("a key stands twice")
    return found


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise NotARecord(f"{text[:20]} is not finite")
    return value


def _first_complaint(error: ValueError) -> str:
    from pydantic import ValidationError

    if not isinstance(error, ValidationError):
        return str(error)[:200]
    first = error.errors(include_url=False, include_input=False)[0]
    # The place begins with the record's kind.
    place = ".".join(str(part) for part in first["loc"][1:])
    text = re.sub(r"^Value error, ", "", first["msg"])
    shown = f"{place}: {text}" if place else text
    return "".join(c if c.isprintable() else "?" for c in shown)[:200]


def _six(value: float) -> float:
    return float(f"{value:.6g}")
