"""Ask a phone's shell what it is and how it is: one script each, and the reading of what they print.

What a phone does not tell, or not to the shell's user, is left out. Formats: Android's ``dumpsys battery``,
``dumpsys thermalservice`` (Android 10 and later), ``dumpsys power``, Linux's cpufreq and thermal folders in sysfs.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from edgevit.device.phone import ClusterState, PhoneFacts, PhoneState

FACTS = (
    "getprop | grep -E '^\\[ro\\.(product\\.(model|manufacturer|cpu\\.abi|cpu\\.abilist)"
    "|soc\\.(manufacturer|model)|board\\.platform|hardware|kernel\\.qemu|boot\\.qemu"
    "|build\\.version\\.(release|sdk))\\]' || true"
)
"""Prints the properties that :func:`parse_facts` reads."""

STATE = r"""
echo '== clusters'
for p in /sys/devices/system/cpu/cpufreq/policy*; do
  test -d "$p" || continue
  echo "policy=${p##*policy}"
  for f in related_cpus scaling_governor cpuinfo_max_freq scaling_max_freq scaling_cur_freq; do
    echo "$f=$(cat "$p/$f" 2>/dev/null)"
  done
done
echo '== zones'
for z in /sys/class/thermal/thermal_zone*; do
  t=$(cat "$z/temp" 2>/dev/null) && echo "$(cat "$z/type" 2>/dev/null)=$t"
done
echo '== thermal'; dumpsys thermalservice 2>/dev/null
echo '== battery'; dumpsys battery 2>/dev/null
echo '== power'; dumpsys power 2>/dev/null | grep -E 'mWakefulness=|Display Power: state='
echo '== saver'; settings get global low_power 2>/dev/null
echo '== end'
"""
"""Prints what :func:`parse_state` reads."""

_PROPERTY = re.compile(r"^\[(?P<name>[^\]]+)\]: \[(?P<value>.*)\]\s*$", re.MULTILINE)
_SECTION = re.compile(r"^== (\w+)\s*$", re.MULTILINE)
_HAL_TEMPERATURE = re.compile(
    r"Temperature\{mValue=(?P<value>[-0-9.E]+), mType=(?P<type>-?\d+), mName=(?P<name>[^,}]+)"
)
_CHARGE = ("soc", "socd")  # the battery's state of charge, in percent
_PROCESSOR = re.compile(r"cpu|tsens|soc_max|^(big|mid|little|lit)\b", re.IGNORECASE)
_CASE = re.compile(r"skin|shell|quiet|xo[-_]therm", re.IGNORECASE)
_BATTERY_STATUS = {2: "charging", 3: "discharging", 4: "not charging", 5: "full"}
_CPU_TYPE, _SKIN_TYPE = 0, 3  # android.hardware.thermal's TemperatureType


def parse_facts(text: str) -> PhoneFacts:
    """The phone, from what :data:`FACTS` printed."""
    told = {
        match["name"]: "".join(filter(str.isprintable, match["value"])).strip() for match in _PROPERTY.finditer(text)
    }

    def value(name: str) -> str | None:
        found = told.get(name, "")
        return found if found and found.lower() != "unknown" else None

    soc = " ".join(filter(None, (value("ro.soc.manufacturer"), value("ro.soc.model")))) or None
    abis = value("ro.product.cpu.abilist") or value("ro.product.cpu.abi") or ""
    return PhoneFacts(
        manufacturer=value("ro.product.manufacturer"),
        model=value("ro.product.model"),
        soc=soc,
        platform=value("ro.board.platform"),
        hardware=value("ro.hardware"),
        android=value("ro.build.version.release"),
        api=_integer(value("ro.build.version.sdk")),
        abis=tuple(abi for abi in abis.split(",") if abi),
        emulator="1" in (told.get("ro.kernel.qemu"), told.get("ro.boot.qemu")),
    )


def parse_state(text: str) -> PhoneState:
    """The moment, from what :data:`STATE` printed."""
    pieces = _SECTION.split(text)
    parts = dict(zip(pieces[1::2], pieces[2::2], strict=False))
    thermal, battery = parts.get("thermal", ""), _pairs(parts.get("battery", ""), ":")
    zones = _zones(parts.get("zones", ""))
    heat = _hal_temperatures(thermal)
    processor = [value for kind, _, value in heat if kind == _CPU_TYPE]
    case = [value for kind, _, value in heat if kind == _SKIN_TYPE]
    tenths = _integer(battery.get("temperature"))
    return PhoneState(
        clusters=parse_clusters(parts.get("clusters", "")),
        temperatures_c={**zones, **{name: value for _, name, value in heat}},
        cpu_temperature_c=max(processor, default=_hottest(zones, _PROCESSOR)),
        skin_temperature_c=max(case, default=_hottest(zones, _CASE)),
        thermal_status=_thermal_status(thermal),
        battery_percent=_percent(battery),
        battery_status=_BATTERY_STATUS.get(_integer(battery.get("status")) or 0),
        battery_temperature_c=None if tenths is None else tenths / 10,
        battery_saver=_saver(parts.get("saver", "")),
        screen_on=_screen(parts.get("power", "")),
    )


def parse_clusters(text: str) -> tuple[ClusterState, ...]:
    """Clocks of the clusters; a cluster begins with ``policy=`` and its number."""
    found = []
    for block in re.split(r"^policy=", text, flags=re.MULTILINE)[1:]:
        number, _, rest = block.partition("\n")
        told = _pairs(rest, "=")
        cpus = tuple(int(cpu) for cpu in told.get("related_cpus", "").split() if cpu.isdigit())
        found.append(
            ClusterState(
                policy=int(number),
                cpus=cpus,
                governor=told.get("scaling_governor") or None,
                top_khz=_integer(told.get("cpuinfo_max_freq")),
                limit_khz=_integer(told.get("scaling_max_freq")),
                current_khz=_integer(told.get("scaling_cur_freq")),
            )
        )
    return tuple(sorted(found, key=lambda cluster: cluster.policy))


def _zones(text: str) -> dict[str, float]:
    """Sensors of sysfs in °C; of several with one name the hottest."""
    found: dict[str, float] = {}
    for line in text.splitlines():
        name, _, value = line.rpartition("=")
        number = _integer(value)
        if not name or number is None or name in _CHARGE:
            continue
        celsius = _celsius(number)
        if celsius is not None:
            found[name] = max(found.get(name, celsius), celsius)
    return found


def _celsius(number: int) -> float | None:
    """Millidegrees as Linux has them; some drivers give degrees or tenths. None for a sensor that is off."""
    value = number / 1000 if number >= 1000 else number / 10 if number >= 150 else float(number)
    return value if 0 < value < 150 else None


def _hal_temperatures(text: str) -> list[tuple[int, str, float]]:
    """Type, name and °C of each sensor in ``dumpsys thermalservice``: those of the moment, else the cached ones."""
    now = text.partition("Current temperatures from HAL:")[2].partition("Current cooling devices")[0]
    found = []
    for match in _HAL_TEMPERATURE.finditer(now or text):
        value = float(match["value"])
        if 0 < value < 150:
            found.append((int(match["type"]), match["name"].strip(), value))
    return found


def _thermal_status(text: str) -> int | None:
    match = re.search(r"^\s*Thermal Status: (\d+)", text, re.MULTILINE)
    return int(match[1]) if match else None


def _percent(battery: dict[str, str]) -> int | None:
    level, scale = _integer(battery.get("level")), _integer(battery.get("scale"))
    return None if level is None else round(100 * level / (scale or 100))


def _saver(text: str) -> bool | None:
    return {"0": False, "1": True}.get(text.strip())


def _screen(text: str) -> bool | None:
    """Android's own word for the display, else whether the phone is awake."""
    display = re.search(r"Display Power: state=(\w+)", text)
    if display:
        return display[1] == "ON"
    awake = re.search(r"mWakefulness=(\w+)", text)
    return awake[1] == "Awake" if awake else None


def _pairs(text: str, separator: str) -> dict[str, str]:
    """First value of each name."""
    found: dict[str, str] = {}
    for line in text.splitlines():
        name, middle, value = line.partition(separator)
        if middle:
            found.setdefault(name.strip(), value.strip())
    return found


def _integer(text: str | None) -> int | None:
    return int(text) if text and re.fullmatch(r"\s*-?\d+\s*", text) else None


def _hottest(zones: dict[str, float], pattern: re.Pattern[str]) -> float | None:
    found: Iterable[float] = (value for name, value in zones.items() if pattern.search(name))
    return max(found, default=None)
