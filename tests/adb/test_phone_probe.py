"""What phones print is read as it is meant, and throttling is told from idling."""

from __future__ import annotations

import itertools
import subprocess
from pathlib import Path

import pytest

from edgevit.device.phone import ClusterState, PhoneRun, PhoneState
from edgevit.device.phone_probe import FACTS, STATE, parse_facts, parse_state
from tests.adb.fake_services import Phone
from tests.adb.phone_texts import PIXEL, SAMSUNG, PhoneTexts


def asked(folder: Path, texts: PhoneTexts, script: str) -> str:
    """What a phone's shell prints."""
    phone = Phone(folder / "phone", texts)
    process = phone.start(script)
    out, err = process.communicate(timeout=30)
    assert (process.returncode, err) == (0, b"")
    return out.decode()


def test_facts_of_a_pixel(tmp_path: Path) -> None:
    facts = parse_facts(asked(tmp_path, PIXEL, FACTS))
    assert (facts.manufacturer, facts.model, facts.soc) == ("Google", "Pixel 8", "Google Tensor G3")
    assert (facts.platform, facts.hardware, facts.android, facts.api) == ("zuma", "shiba", "14", 34)
    assert (facts.abis, facts.emulator) == (("arm64-v8a",), True)
    assert facts.text == "Google Pixel 8, Google Tensor G3, Android 14"


def test_facts_of_a_galaxy(tmp_path: Path) -> None:
    facts = parse_facts(asked(tmp_path, SAMSUNG, FACTS))
    assert facts.text == "samsung SM-S911B, QTI SM8550, Android 13"
    assert (facts.abis, facts.emulator) == (("arm64-v8a", "armeabi-v7a", "armeabi"), False)


def test_facts_of_an_old_phone() -> None:
    """Before Android 12 there is no ``ro.soc``; a console of adb's old protocol ends lines as terminals do."""
    text = (
        "[ro.board.platform]: [msm8953]\r\n[ro.build.version.release]: [9]\r\n[ro.build.version.sdk]: [28]\r\n"
        "[ro.hardware]: [qcom]\r\n[ro.product.cpu.abi]: [armeabi-v7a]\r\n[ro.product.manufacturer]: [Motorola]\r\n"
        "[ro.product.model]: [motorola one]\r\n[ro.soc.model]: []\r\n"
    )
    facts = parse_facts(text)
    assert (facts.soc, facts.platform, facts.api, facts.abis) == (None, "msm8953", 28, ("armeabi-v7a",))
    assert facts.text == "motorola one, msm8953, Android 9"
    assert parse_facts("").text == "a phone"


def test_state_of_a_pixel(tmp_path: Path) -> None:
    state = parse_state(asked(tmp_path, PIXEL, STATE))
    assert [(one.policy, one.cpus, one.top_khz, one.limit_khz, one.current_khz) for one in state.clusters] == [
        (0, (0, 1, 2, 3), 1704000, 1704000, 324000),
        (4, (4, 5, 6, 7), 2367000, 2367000, 402000),
        (8, (8,), 2914000, 2914000, 500000),
    ]
    assert {one.governor for one in state.clusters} == {"sched_pixel"}
    # Those of the moment, not the cached one of 99 °C, nor the battery's charge, which a sensor is named for.
    assert (state.cpu_temperature_c, state.skin_temperature_c, state.battery_temperature_c) == (41.0, 31.2, 28.5)
    assert set(state.temperatures_c) == {"BIG", "LITTLE", "G3D", "battery", "VIRTUAL-SKIN"}
    assert (state.thermal_status, state.battery_percent, state.battery_status) == (0, 87, "charging")
    assert (state.battery_saver, state.screen_on) == (False, True)
    run = PhoneRun.of(state, state)
    assert run is not None
    assert not run.throttled
    assert run.notes() == [
        "temperature: processor 41 → 41 °C, case 31 → 31 °C, battery 28 → 28 °C",
        "battery: 87 %, charging",
    ]


def test_state_of_a_warm_galaxy(tmp_path: Path) -> None:
    state = parse_state(asked(tmp_path, SAMSUNG, STATE))
    assert (state.cpu_temperature_c, state.skin_temperature_c, state.thermal_status) == (62.5, 37.1, 2)
    assert (state.battery_percent, state.battery_status) == (100, "not charging")
    assert (state.battery_saver, state.screen_on) == (True, False)
    run = PhoneRun.of(state, state)
    assert run is not None
    assert run.reasons == (
        "cores 0-2 were limited to 1.44 GHz of 2.02 GHz from the beginning",
        "Android reported the thermal status 'moderate' before the run",
        "the battery saver is on: it lowers clocks",
    )
    assert all(note.startswith("throttled: ") for note in run.notes()[:3])


@pytest.mark.parametrize("last", [False, True])
def test_a_shell_that_may_read_nothing(last: bool) -> None:
    text = "== clusters\n== zones\n== thermal\n== battery\n== power\n== saver\nnull\n== end\n" if last else ""
    state = parse_state(text)
    assert state == PhoneState()
    run = PhoneRun.of(state, state)
    assert run is not None
    assert run.notes() == []


@pytest.mark.parametrize(
    ("zone", "temperature"),
    [
        ("cpu-0-0-usr=48300", 48.3),  # millidegrees, as the kernel has it
        ("mtktscpu=48300", 48.3),
        ("tsens_tz_sensor4=48", 48.0),  # degrees
        ("cpu-therm=483", 48.3),  # tenths
        ("cpu-0-0-usr=-40000", None),  # a sensor that is off
        ("cpu-0-0-usr=0", None),
        ("socd=87", None),  # a battery's charge
        ("pa-therm1=48300", None),  # not the processor
        ("cpu-0-0-usr=", None),
    ],
)
def test_sensors(zone: str, temperature: float | None) -> None:
    assert parse_state(f"== zones\n{zone}\n== end\n").cpu_temperature_c == temperature


def test_the_screen_of_phones_whose_display_does_not_tell() -> None:
    assert parse_state("== power\n  mWakefulness=Asleep\n== end\n").screen_on is False
    assert parse_state("== power\n  mWakefulness=Awake\n== end\n").screen_on is True


def moment(
    limit: int | None = 3000000, current: int | None = 3000000, governor: str = "schedutil", **more: object
) -> PhoneState:
    cluster = ClusterState(
        policy=4, cpus=(4, 5, 7), governor=governor, top_khz=3000000, limit_khz=limit, current_khz=current
    )
    return PhoneState(clusters=(cluster,), **more)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("before", "after", "reason"),
    [
        (moment(), moment(limit=2400000),
         "the clock limit of cores 4-5, 7 fell from 3.00 GHz to 2.40 GHz during the run"),
        (moment(limit=2400000), moment(limit=2400000),
         "cores 4-5, 7 were limited to 2.40 GHz of 3.00 GHz from the beginning"),
        (moment(), moment(current=300000), None),  # idle
        (
            moment(governor="performance"),
            moment(governor="performance", current=1800000),
            "the clock of cores 4-5, 7 fell from 3.00 GHz to 1.80 GHz",
        ),
        (moment(thermal_status=0), moment(thermal_status=1),
         "Android reported the thermal status 'light' during the run"),
        (moment(), None, None),
        (moment(limit=None), moment(limit=None, current=None), None),
    ],
)  # fmt: skip
def test_throttling(before: PhoneState, after: PhoneState | None, reason: str | None) -> None:
    run = PhoneRun.of(before, after)
    assert run is not None
    assert run.reasons == ((reason,) if reason else ())
    assert run.throttled == bool(reason)


def test_a_phone_that_warmed_up() -> None:
    temperatures = itertools.pairwise((40.0, 44.0, 61.0))
    notes = [
        PhoneRun(before=PhoneState(cpu_temperature_c=first), after=PhoneState(cpu_temperature_c=last)).notes()
        for first, last in temperatures
    ]
    assert notes == [
        ["temperature: processor 40 → 44 °C"],
        ["temperature: processor 44 → 61 °C; let it cool down before the next run"],
    ]


def test_scripts_are_posix() -> None:
    """Android's shell is mksh: what dash takes, it takes."""
    for script in (FACTS, STATE):
        subprocess.run(["/bin/sh", "-n", "-c", script], check=True, timeout=10)
