"""State of an Android device: who it is, how hot it is, what its battery does, and its clocks.

Android's own tools are asked, which print for people; what they do not say is None.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from typing import Any

from onnxsep.bench.adb import Adb, quoted

# Android's PowerManager.THERMAL_STATUS_*: from "moderate" on the system slows the device down.
THERMAL_NAMES = ("none", "light", "moderate", "severe", "critical", "emergency", "shutdown")
THROTTLED = 2
# Below this many percent many devices save power.
_LOW_BATTERY = 20
# BatteryManager.BATTERY_STATUS_*: 2 charging, 3 discharging, 4 not charging, 5 full.
_CHARGING = 2
_TENTHS = 10.0
_LOAD = "cat /proc/loadavg"
_CLOCKS = (
    "cat /sys/devices/system/cpu/cpu*/cpufreq/cpuinfo_max_freq; echo; "
    "cat /sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"
)
_PROPERTY = re.compile(r"^\[([^\]]+)\]: \[(.*)\]$", re.MULTILINE)
# A line of "dumpsys battery"; Samsung adds a log whose lines look alike but are not indented so.
_BATTERY_LINE = re.compile(r"^  ([A-Za-z][A-Za-z ]*): (.+)$", re.MULTILINE)
_TEMPERATURE = re.compile(
    r"Temperature\{mValue=(-?\d{1,9}(?:\.\d+)?), mType=(-?\d{1,4}), mName=[^,}]*, mStatus=\d+\}"
)
_SKIN = 3  # Temperature.TYPE_SKIN, which decides when Android throttles


@dataclasses.dataclass(frozen=True)
class Battery:
    """What ``dumpsys battery`` says.

    Attributes:
        level: Percent.
        charging: Whether it is being charged.
        celsius: Its temperature.
    """

    level: int | None = None
    charging: bool | None = None
    celsius: float | None = None


@dataclasses.dataclass(frozen=True)
class Thermal:
    """What ``dumpsys thermalservice`` says.

    Attributes:
        status: 0 (none) to 6 (shutdown); None before Android 10.
        overridden: Whether somebody has set the status by hand, so that it says nothing.
        skin_celsius: Of the sensor that decides about throttling.
    """

    status: int | None = None
    overridden: bool = False
    skin_celsius: float | None = None

    @property
    def throttled(self) -> bool:
        """Whether Android slows the device down."""
        return self.status is not None and self.status >= THROTTLED

    def describe(self) -> str:
        """Such as ``thermal status 2 (moderate)``."""
        if self.status is None:
            return "thermal status unknown"
        name = THERMAL_NAMES[min(self.status, len(THERMAL_NAMES) - 1)]
        return f"thermal status {self.status} ({name})"


@dataclasses.dataclass(frozen=True)
class Conditions:
    """State of the device around a run.

    Attributes:
        battery: The battery.
        thermal: The temperature.
        load: One-minute load average, None where it is hidden.
    """

    battery: Battery
    thermal: Thermal
    load: float | None

    def as_dict(self) -> dict[str, Any]:
        """Plain data for the record."""
        return {
            "battery_level": self.battery.level,
            "battery_charging": self.battery.charging,
            "battery_celsius": self.battery.celsius,
            "thermal_status": self.thermal.status,
            "skin_celsius": self.thermal.skin_celsius,
            "load": self.load,
        }


def notes_on(before: Conditions, after: Conditions) -> tuple[str, ...]:
    """What a reader of a measurement between the two must know, a clause each."""
    notes = []
    if after.thermal.throttled:
        notes.append(f"throttled during the run: {after.thermal.describe()}")
    if before.thermal.status is None:
        notes.append("this Android tells no thermal status, so throttling would go unseen")
    elif before.thermal.overridden or after.thermal.overridden:
        notes.append("the thermal status is overridden (cmd thermalservice reset ends that)")
    if before.battery.charging:
        notes.append("charging, which heats the device")
    if before.battery.level is not None and before.battery.level < _LOW_BATTERY:
        notes.append(f"battery at {before.battery.level} %, where devices begin to save power")
    return tuple(notes)


def parse_battery(text: str) -> Battery:
    """Read the output of ``dumpsys battery``; what is missing or malformed is None."""
    fields: dict[str, str] = {}
    for match in _BATTERY_LINE.finditer(text):
        fields.setdefault(match[1], match[2].strip())
    level, scale = _integer(fields.get("level")), _integer(fields.get("scale")) or 100
    status, temperature = _integer(fields.get("status")), _integer(fields.get("temperature"))
    return Battery(
        level=None if level is None else round(100 * level / scale),
        charging=None if status is None else status == _CHARGING,
        celsius=None if temperature is None else temperature / _TENTHS,
    )


def parse_thermal(text: str) -> Thermal:
    """Read the output of ``dumpsys thermalservice``; what is missing or malformed is None."""
    status = re.search(r"^\s*Thermal Status: (\d{1,3})\s*$", text, re.MULTILINE)
    # Fresh readings stand last, behind cached ones.
    skin = [float(found[1]) for found in _TEMPERATURE.finditer(text) if int(found[2]) == _SKIN]
    return Thermal(
        status=int(status[1]) if status else None,
        overridden="IsStatusOverride: true" in text,
        skin_celsius=skin[-1] if skin else None,
    )


class AndroidDevice:
    """A device behind adb."""

    def __init__(self, adb: Adb) -> None:
        """Nothing is asked yet."""
        self._adb = adb
        self._properties: dict[str, str] = {}

    def conditions(self) -> Conditions:
        """Battery, temperature and load now.

        Raises:
            AdbError: The device cannot be reached.
        """
        load = self._adb.script(_LOAD).output.split(maxsplit=1)
        return Conditions(
            battery=parse_battery(self._adb.shell(["dumpsys", "battery"]).output),
            thermal=self.thermal(),
            load=_number(load[0]) if load else None,
        )

    def thermal(self) -> Thermal:
        """The temperature now.

        Raises:
            AdbError: The device cannot be reached.
        """
        return parse_thermal(self._adb.shell(["dumpsys", "thermalservice"]).output)

    def fix_performance(self, on: bool) -> str:
        """Turn Android's fixed-performance mode on or off (Android 11 and newer).

        Returns:
            Why that is not possible, one clause; empty if it was done.

        Raises:
            AdbError: The device cannot be reached.
        """
        words = ["cmd", "power", "set-fixed-performance-mode-enabled", "true" if on else "false"]
        reply = self._adb.shell(words)
        # Android 10 and older answer "Unknown command" or "No shell command implementation."
        refused = reply.code or re.search(
            r"^(Failed|Unknown command|No shell command|cmd: )", reply.everything, re.MULTILINE
        )
        if not refused:
            return ""
        said = [line for line in reply.everything.splitlines() if line.strip()]
        first = quoted(said[0]) if said else "nothing"
        return f"this device has no fixed-performance mode (it said: {first})"

    def properties(self) -> Mapping[str, str]:
        """All system properties; asked once.

        Raises:
            AdbError: The device cannot be reached.
        """
        if not self._properties:
            found = _PROPERTY.findall(self._adb.shell(["getprop"]).output)
            self._properties = dict(found)
        return self._properties

    def abis(self) -> tuple[str, ...]:
        """Instruction sets, the best first, such as ``arm64-v8a``."""
        told = self.properties()
        names = told.get("ro.product.cpu.abilist") or told.get("ro.product.cpu.abi", "")
        return tuple(filter(None, names.split(",")))

    def describe(self) -> dict[str, Any]:
        """Machine and system with the names that the worker uses, see `Answer.environment`.

        Raises:
            AdbError: The device cannot be reached.
        """
        told = self.properties()
        name = [told.get(f"ro.product.{part}", "") for part in ("manufacturer", "model")]
        android, level = (told.get(f"ro.build.version.{end}", "?") for end in ("release", "sdk"))
        chip = [told.get(f"ro.soc.{part}", "") for part in ("manufacturer", "model")]
        cores, _, governor = self._adb.script(_CLOCKS).output.rpartition("\n\n")
        clocks = sorted(int(line) // 1000 for line in re.findall(r"^\d{1,9}$", cores, re.MULTILINE))
        information = self._adb.shell(["cat", "/proc/cpuinfo"]).output
        processors = len(re.findall(r"^processor\s*:", information, re.MULTILINE))
        parts = re.findall(r"^CPU part\s*:\s*(0x[0-9a-fA-F]+)", information, re.MULTILINE)
        flags = re.search(r"^(?:Features|flags)\s*:\s*(.*)$", information, re.MULTILINE)
        hardware = re.search(r"^Hardware\s*:\s*(.*)$", information, re.MULTILINE)
        memory = re.search(
            r"^MemTotal:\s*(\d{1,15}) kB",
            self._adb.shell(["cat", "/proc/meminfo"]).output,
            re.MULTILINE,
        )
        processor = (
            " ".join(filter(None, chip))
            or (hardware[1] if hardware else "")
            or told.get("ro.board.platform", "")
        )
        if parts:
            processor = f"{processor} ({', '.join(sorted(set(parts)))})".strip()
        return {
            "platform": f"Android {android} (API {level})",
            "machine": (self.abis() or ("",))[0],
            "device": " ".join(filter(None, name)),
            "build": told.get("ro.build.fingerprint", ""),
            "cpu": processor,
            "cpu_flags": flags[1].split() if flags else [],
            "logical_cores": processors or len(clocks),
            "usable_cores": processors or len(clocks),
            "megahertz": [clocks[0], clocks[-1]] if clocks else [],
            "governor": quoted(governor) if governor.strip() else "",
            "memory_bytes": 1024 * int(memory[1]) if memory else 0,
        }


def _integer(text: str | None) -> int | None:
    return int(text) if text is not None and re.fullmatch(r"-?\d{1,9}", text) else None


def _number(text: str) -> float | None:
    return float(text) if re.fullmatch(r"\d{1,9}(\.\d+)?", text) else None
