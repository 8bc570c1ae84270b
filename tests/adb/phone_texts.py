"""What phones print: written from the formats of Android's sources and from public bug reports."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

_CPUFREQ = "/sys/devices/system/cpu/cpufreq"
_THERMAL = "/sys/class/thermal"


@dataclass(frozen=True)
class PhoneTexts:
    """A phone's own words.

    Attributes:
        properties: of ``getprop``.
        dumpsys: output by service.
        files: of sysfs, by path.
        low_power: what ``settings get global low_power`` prints.
    """

    properties: Mapping[str, str]
    dumpsys: Mapping[str, str] = field(default_factory=dict)
    files: Mapping[str, str] = field(default_factory=dict)
    low_power: str = "null"


def cluster(policy: int, cpus: str, governor: str, top: int, limit: int, current: int) -> dict[str, str]:
    """Files of a clock."""
    told = {
        "related_cpus": cpus,
        "scaling_governor": governor,
        "cpuinfo_max_freq": str(top),
        "scaling_max_freq": str(limit),
        "scaling_cur_freq": str(current),
    }
    return {f"{_CPUFREQ}/policy{policy}/{name}": f"{value}\n" for name, value in told.items()}


def zones(*sensors: tuple[str, int]) -> dict[str, str]:
    """Files of sensors."""
    files = {}
    for number, (name, value) in enumerate(sensors):
        files[f"{_THERMAL}/thermal_zone{number}/type"] = f"{name}\n"
        files[f"{_THERMAL}/thermal_zone{number}/temp"] = f"{value}\n"
    return files


PIXEL = PhoneTexts(
    properties={
        "ro.board.platform": "zuma",
        "ro.boot.qemu": "1",  # it is no real one
        "ro.build.version.release": "14",
        "ro.build.version.sdk": "34",
        "ro.hardware": "shiba",
        "ro.product.cpu.abi": "arm64-v8a",
        "ro.product.cpu.abilist": "arm64-v8a",
        "ro.product.device": "shiba",
        "ro.product.manufacturer": "Google",
        "ro.product.model": "Pixel 8",
        "ro.soc.manufacturer": "Google",
        "ro.soc.model": "Tensor G3",
    },
    dumpsys={
        "battery": """Current Battery Service state:
  AC powered: false
  USB powered: true
  Wireless powered: false
  Dock powered: false
  Max charging current: 500000
  Max charging voltage: 5000000
  Charge counter: 3761000
  status: 2
  health: 2
  present: true
  level: 87
  scale: 100
  voltage: 4216
  temperature: 285
  technology: Li-ion
  Charging state: 1
  Charging policy: 1
""",
        "thermalservice": """IsStatusOverride: false
ThermalEventListeners:
\tcallbacks: 2
\tkilled: false
\tbroadcasts count: -1
ThermalStatusListeners:
\tcallbacks: 3
\tkilled: false
\tbroadcasts count: -1
Thermal Status: 0
Cached temperatures:
\tTemperature{mValue=99.0, mType=0, mName=BIG, mStatus=0}
HAL Ready: true
HAL connection:
\tThermalHAL AIDL 1  connected: yes
Current temperatures from HAL:
\tTemperature{mValue=41.0, mType=0, mName=BIG, mStatus=0}
\tTemperature{mValue=38.5, mType=0, mName=LITTLE, mStatus=0}
\tTemperature{mValue=36.0, mType=1, mName=G3D, mStatus=0}
\tTemperature{mValue=28.5, mType=2, mName=battery, mStatus=0}
\tTemperature{mValue=31.2, mType=3, mName=VIRTUAL-SKIN, mStatus=0}
\tTemperature{mValue=-3.4028235E38, mType=4, mName=USB-MINUS-NEUTRAL, mStatus=0}
Current cooling devices from HAL:
\tCoolingDevice{mValue=0, mType=2, mName=thermal-cpufreq-0}
Temperature static thresholds from HAL:
\tTemperatureThreshold{mType=3, mName=VIRTUAL-SKIN, mHotThrottlingThresholds=[NaN, 39.0, 43.0, 45.0, 46.5, 52.0, 55.0]}
""",
        "power": """  mWakefulness=Awake
Display Power: state=ON
""",
    },
    files={
        **cluster(0, "0 1 2 3", "sched_pixel", 1704000, 1704000, 324000),
        **cluster(4, "4 5 6 7", "sched_pixel", 2367000, 2367000, 402000),
        **cluster(8, "8", "sched_pixel", 2914000, 2914000, 500000),
        **zones(("BIG", 41000), ("LITTLE", 38500), ("soc", 87), ("battery", 28500)),
    },
    low_power="0",
)
"""Pixel 8 with Android 14: all is told."""

SAMSUNG = PhoneTexts(
    properties={
        "ro.board.platform": "kalama",
        "ro.build.version.release": "13",
        "ro.build.version.sdk": "33",
        "ro.hardware": "qcom",
        "ro.product.cpu.abi": "arm64-v8a",
        "ro.product.cpu.abilist": "arm64-v8a,armeabi-v7a,armeabi",
        "ro.product.device": "dm1q",
        "ro.product.manufacturer": "samsung",
        "ro.product.model": "SM-S911B",
        "ro.soc.manufacturer": "QTI",
        "ro.soc.model": "SM8550",
    },
    dumpsys={
        "battery": """Current Battery Service state:
  AC powered: false
  USB powered: true
  Wireless powered: false
  Max charging current: 0
  Max charging voltage: 0
  Charge counter: 2730000
  status: 4
  health: 2
  present: true
  level: 100
  scale: 100
  voltage: 4364
  temperature: 301
  technology: Li-ion
  batteryMiscEvent: 0
  batteryCurrentEvent: 0
  mSecPlugTypeSummary: 2
  LED Charging: true
  LED Low Battery: true
  current now: 87
  charge counter: 2730000
  Adaptive Fast Charging Settings: true
SUPPORT_LOG_BATTERY_USAGE true
""",
        "thermalservice": """IsStatusOverride: false
Thermal Status: 2
Cached temperatures:
	Temperature{mValue=36.8, mType=3, mName=SKIN, mStatus=0}
	Temperature{mValue=58.3, mType=0, mName=AP, mStatus=2}
	Temperature{mValue=30.1, mType=2, mName=BAT, mStatus=0}
HAL Ready: true
HAL connection:
	ThermalHAL 2.0 connected: yes
Current temperatures from HAL:
	Temperature{mValue=62.5, mType=0, mName=AP, mStatus=2}
	Temperature{mValue=30.1, mType=2, mName=BAT, mStatus=0}
	Temperature{mValue=37.1, mType=3, mName=SKIN, mStatus=0}
Current cooling devices from HAL:
	CoolingDevice{mValue=0, mType=2, mName=cpufreq-cpu0}
""",
        "power": """  mWakefulness=Dozing
Display Power: state=DOZE
""",
    },
    files={
        **cluster(0, "0 1 2", "walt", 2016000, 1440000, 1440000),
        **cluster(3, "3 4 5 6", "walt", 2803200, 2803200, 2803200),
        **cluster(7, "7", "walt", 3360000, 3360000, 1056000),
    },
    low_power="1",
)
"""Galaxy S23 with Android 13: sensors of sysfs are closed to the shell, it is warm, and saves energy."""

PHONES = {"pixel": PIXEL, "samsung": SAMSUNG}
