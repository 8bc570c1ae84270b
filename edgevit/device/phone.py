"""What a phone says of itself, and how warm and how fast it was around a measurement."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict

_WARMED_C = 5.0
_THERMAL = ("none", "light", "moderate", "severe", "critical", "emergency", "shutdown")


class _Schema(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class PhoneFacts(_Schema):
    """What does not change; None where the phone does not tell. The serial is not among it: results are published.

    Attributes:
        soc: maker and model of the chip, ``Qualcomm SM8550``.
        platform: the chip's name in Android's build, ``kalama``.
        hardware: the board's, ``qcom``.
        android: version, ``14``.
        api: level of that version, ``34``.
        abis: that it runs, preferred first: ``arm64-v8a``.
        emulator: True for Android's emulator, whose times mean nothing.
    """

    manufacturer: str | None = None
    model: str | None = None
    soc: str | None = None
    platform: str | None = None
    hardware: str | None = None
    android: str | None = None
    api: int | None = None
    abis: tuple[str, ...] = ()
    emulator: bool = False

    @property
    def name(self) -> str:
        """The phone for people."""
        names = [self.manufacturer or "", self.model or ""]
        if names[0] and names[1].lower().startswith(names[0].lower()):
            names = names[1:]  # 'OnePlus OnePlus 12'
        return " ".join(name for name in names if name) or "a phone"

    @property
    def text(self) -> str:
        """One line: phone, chip, system."""
        chip = self.soc or self.platform or self.hardware
        parts = [self.name, *([chip] if chip else []), *([f"Android {self.android}"] if self.android else [])]
        return ", ".join(parts)


class ClusterState(_Schema):
    """Clock of cores that share one, in kHz.

    Attributes:
        policy: Linux's number of it.
        cpus: their numbers.
        governor: what chooses the clock.
        top_khz: most that the cores can do.
        limit_khz: most that they may at this moment; less than ``top_khz`` when heat, a mode or somebody lowered it.
        current_khz: at this moment.
    """

    policy: int
    cpus: tuple[int, ...] = ()
    governor: str | None = None
    top_khz: int | None = None
    limit_khz: int | None = None
    current_khz: int | None = None


class PhoneState(_Schema):
    """A moment; None where the phone does not tell.

    Attributes:
        clusters: by the number of their clock.
        temperatures_c: of each sensor, by its name.
        cpu_temperature_c: hottest sensor of the processor.
        skin_temperature_c: of the case.
        thermal_status: Android's, 0 (none) to 6 (shutdown); from 1 on the phone slows down.
        battery_percent: charge.
        battery_status: ``charging``, ``discharging``, ``not charging`` or ``full``.
        battery_saver: whether Android saves energy, which lowers clocks.
        screen_on: whether the display is on, which takes energy and heats.
    """

    clusters: tuple[ClusterState, ...] = ()
    temperatures_c: dict[str, float] = {}
    cpu_temperature_c: float | None = None
    skin_temperature_c: float | None = None
    thermal_status: int | None = None
    battery_percent: int | None = None
    battery_status: str | None = None
    battery_temperature_c: float | None = None
    battery_saver: bool | None = None
    screen_on: bool | None = None


class PhoneRun(_Schema):
    """A phone before and after a measurement.

    Attributes:
        throttled: whether the phone was slower than it can be; False only says that nothing told so.
        reasons: why, one sentence each.
    """

    before: PhoneState
    after: PhoneState | None = None
    throttled: bool = False
    reasons: tuple[str, ...] = ()

    @classmethod
    def of(cls, before: PhoneState | None, after: PhoneState | None = None) -> PhoneRun | None:
        """Compare two moments; None where the device is no phone."""
        if before is None:
            return None
        reasons = [*_clocks(before, after), *_heat(before, after)]
        if any(state and state.battery_saver for state in (before, after)):
            reasons.append("the battery saver is on: it lowers clocks")
        return cls(before=before, after=after, throttled=bool(reasons), reasons=tuple(reasons))

    def notes(self) -> list[str]:
        """Lines for a report: what slowed the phone down, and how warm it was."""
        notes = [f"throttled: {reason}" for reason in self.reasons]
        after = self.after or self.before
        warm = [
            f"{what} {first:.0f} → {last:.0f} °C"
            for what, first, last in (
                ("processor", self.before.cpu_temperature_c, after.cpu_temperature_c),
                ("case", self.before.skin_temperature_c, after.skin_temperature_c),
                ("battery", self.before.battery_temperature_c, after.battery_temperature_c),
            )
            if first is not None and last is not None
        ]
        if warm and self.after is not None:
            risen = (after.cpu_temperature_c or 0.0) - (self.before.cpu_temperature_c or after.cpu_temperature_c or 0.0)
            advice = "; let it cool down before the next run" if risen >= _WARMED_C else ""
            notes.append(f"temperature: {', '.join(warm)}{advice}")
        if self.before.battery_percent is not None:
            status = f", {self.before.battery_status}" if self.before.battery_status else ""
            notes.append(f"battery: {self.before.battery_percent} %{status}")
        return notes


def _clocks(before: PhoneState, after: PhoneState | None) -> list[str]:
    """What says of each cluster that it may not, or does not, run as fast as it can."""
    later = {cluster.policy: cluster for cluster in after.clusters} if after else {}
    reasons = []
    for first in before.clusters:
        last = later.get(first.policy, first)
        names = f"cores {_ranges(first.cpus)}" if first.cpus else f"cluster {first.policy}"
        if first.limit_khz and last.limit_khz and last.limit_khz < first.limit_khz:
            reasons.append(
                f"the clock limit of {names} fell from {_ghz(first.limit_khz)} to {_ghz(last.limit_khz)} during the run"
            )
        elif first.top_khz and first.limit_khz and first.limit_khz < first.top_khz:
            reasons.append(
                f"{names} were limited to {_ghz(first.limit_khz)} of {_ghz(first.top_khz)} from the beginning"
            )
        elif (
            # Other governors lower the clock of idle cores, which at these two moments they are.
            first.governor == last.governor == "performance"
            and first.current_khz
            and last.current_khz
            and last.current_khz < first.current_khz
        ):
            reasons.append(f"the clock of {names} fell from {_ghz(first.current_khz)} to {_ghz(last.current_khz)}")
    return reasons


def _heat(before: PhoneState, after: PhoneState | None) -> list[str]:
    status = max(state.thermal_status or 0 for state in (before, after) if state)
    if not status:
        return []
    name = _THERMAL[status] if status < len(_THERMAL) else str(status)
    when = "before the run" if before.thermal_status else "during the run"
    return [f"Android reported the thermal status '{name}' {when}"]


def _ghz(khz: int) -> str:
    return f"{khz / 1e6:.2f} GHz"


def _ranges(cpus: tuple[int, ...]) -> str:
    """``0-3, 6`` for 0, 1, 2, 3, 6."""
    groups: list[list[int]] = []
    for cpu in sorted(cpus):
        if groups and cpu == groups[-1][-1] + 1:
            groups[-1].append(cpu)
        else:
            groups.append([cpu])
    return ", ".join(f"{group[0]}-{group[-1]}" if len(group) > 1 else str(group[0]) for group in groups)
