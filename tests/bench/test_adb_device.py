"""Battery, temperature and processor of a device, from what its tools print."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from onnxsep.bench.adb import Adb
from onnxsep.bench.adb_device import (
    AndroidDevice,
    Battery,
    Conditions,
    Thermal,
    notes_on,
    parse_battery,
    parse_thermal,
)
from tests.bench.adb_stand_in import calls, install, recorded

COOL = Conditions(Battery(80, False, 25.0), Thermal(0, False, 30.0), 0.5)


def device(folder: Path, *names: str, extra: tuple[dict[str, object], ...] = ()) -> AndroidDevice:
    return AndroidDevice(Adb(install(folder, *names, extra=extra, device=False)))


def test_battery_of_a_log_that_looks_alike() -> None:
    assert parse_battery(recorded("battery_samsung.txt")) == Battery(75, True, 30.5)


def test_battery_of_an_old_device() -> None:
    assert parse_battery(recorded("battery_old.txt")) == Battery(12, False, 27.4)


def test_battery_with_another_scale() -> None:
    text = "Current Battery Service state:\n  level: 60\n  scale: 200\n  status: 5\n"
    assert parse_battery(text) == Battery(30, False, None)


def test_fresh_temperature_of_the_skin() -> None:
    assert parse_thermal(recorded("thermal_cool.txt")) == Thermal(0, False, 30.4)
    assert parse_thermal(recorded("thermal_moderate.txt")) == Thermal(2, False, 43.9)


def test_overridden_status_is_known() -> None:
    text = "IsStatusOverride: true\nThermal Status: 3\n"
    assert parse_thermal(text) == Thermal(3, True, None)


@pytest.mark.parametrize("text", ["", "Can't find service: thermalservice", "Thermal Status: hot"])
def test_no_thermal_service(text: str) -> None:
    thermal = parse_thermal(text)
    assert thermal == Thermal(None, False, None)
    assert not thermal.throttled
    assert thermal.describe() == "thermal status unknown"


@given(st.text())
def test_nothing_a_device_prints_breaks_us(text: str) -> None:
    for scrap in (text, f"  level: {text}\n  temperature: {text}", f"Thermal Status: {text}"):
        assert isinstance(parse_battery(scrap), Battery)
        assert isinstance(parse_thermal(scrap), Thermal)


@dataclasses.dataclass(frozen=True)
class Note:
    id: str
    before: Conditions
    after: Conditions
    words: str


NOTES = [
    Note("nothing", COOL, COOL, ""),
    Note(
        "throttled",
        COOL,
        dataclasses.replace(COOL, thermal=Thermal(3)),
        "throttled during the run: thermal status 3 (severe)",
    ),
    Note("light is not throttled", COOL, dataclasses.replace(COOL, thermal=Thermal(1)), ""),
    Note(
        "unknown",
        dataclasses.replace(COOL, thermal=Thermal()),
        COOL,
        "this Android tells no thermal status, so throttling would go unseen",
    ),
    Note(
        "overridden",
        dataclasses.replace(COOL, thermal=Thermal(0, True)),
        COOL,
        "the thermal status is overridden (cmd thermalservice reset ends that)",
    ),
    Note(
        "charging",
        dataclasses.replace(COOL, battery=Battery(80, True)),
        COOL,
        "charging, which heats the device",
    ),
    Note(
        "empty",
        dataclasses.replace(COOL, battery=Battery(19, False)),
        COOL,
        "battery at 19 %, where devices begin to save power",
    ),
]


@pytest.mark.parametrize("case", NOTES, ids=lambda case: case.id)
def test_what_a_reader_must_know(case: Note) -> None:
    assert "; ".join(notes_on(case.before, case.after)) == case.words


def test_device_describes_itself(tmp_path: Path) -> None:
    told = device(tmp_path, "phone").describe()
    assert told["platform"] == "Android 14 (API 34)"
    assert told["machine"] == "arm64-v8a"
    assert told["device"] == "acme Phone 7 [beta]"
    assert told["cpu"] == "QTI SM8450 (0xd46, 0xd48)"
    assert told["megahertz"] == [1785, 3360]
    assert told["governor"] == "schedutil"
    assert told["memory_bytes"] == 7667284 * 1024
    assert {"asimddp", "i8mm"} <= set(told["cpu_flags"])


def test_conditions_of_a_cool_phone(tmp_path: Path) -> None:
    conditions = device(tmp_path, "phone").conditions()
    assert conditions == Conditions(Battery(75, True, 30.5), Thermal(0, False, 30.4), 1.25)


def test_conditions_of_an_old_phone(tmp_path: Path) -> None:
    conditions = device(tmp_path, "old_phone").conditions()
    assert conditions == Conditions(Battery(12, False, 27.4), Thermal(None, False, None), None)


def test_fixed_performance_is_asked_for(tmp_path: Path) -> None:
    phone = device(tmp_path, "phone")
    assert phone.fix_performance(on=True) == ""
    assert phone.fix_performance(on=False) == ""
    asked = [words[1].rpartition(" ")[2] for words in calls(tmp_path) if "power" in words[-1]]
    assert asked == ["true", "false"]


@dataclasses.dataclass(frozen=True)
class Refusal:
    id: str
    reply: dict[str, object]


REFUSALS = [
    Refusal(
        "no power HAL",
        {
            "stderr": "Failed to set FIXED_PERFORMANCE mode\nThis is likely because Power HAL AIDL "
            "is not implemented on this device\n",
            "code": 255,
        },
    ),
    # Android 10: the shell command exists without this word, and its code is that of its help.
    Refusal(
        "no such command",
        {"stdout": "Unknown command: set-fixed-performance-mode-enabled\n", "code": 255},
    ),
    Refusal("no shell", {"stdout": "No shell command implementation.\n", "code": 0}),
    Refusal("no cmd", {"stdout": "/system/bin/sh: cmd: not found\n", "code": 127}),
]


@pytest.mark.parametrize("case", REFUSALS, ids=lambda case: case.id)
def test_device_without_the_mode(case: Refusal, tmp_path: Path) -> None:
    reply = {"call": "shell cmd power *", **case.reply}
    refused = device(tmp_path, "phone", extra=(reply,)).fix_performance(on=True)
    first = str(case.reply.get("stderr", case.reply.get("stdout"))).splitlines()[0]
    assert refused == f"this device has no fixed-performance mode (it said: {first})"
