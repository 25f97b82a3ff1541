"""What adb says becomes a device, an exit code, or one sentence with the way out."""

from __future__ import annotations

import dataclasses
import shlex
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from onnxsep.bench.adb import Adb, AdbError, Listed, choose_device
from onnxsep.bench.adb_settings import AdbSettings, forward_ssh
from onnxsep.errors import ConfigurationError
from tests.bench.adb_stand_in import calls, install

SERIAL = "R5CT10ABCDE"
IN_NETWORK = "adb-39121FDH2003VK-k7vHfP (2)._adb-tls-connect._tcp"
AWKWARD = "a b;$(touch x)`touch x`'\"\\ $HOME * & |\n#"


@pytest.fixture(autouse=True)
def no_serial(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ANDROID_SERIAL", raising=False)


@dataclasses.dataclass(frozen=True)
class Choice:
    id: str
    conversation: str
    words: str
    serial: str = ""


REFUSALS = [
    Choice("none", "no_device", "no Android device is connected; plug one in with USB debugging"),
    Choice("two", "two_devices", f"2 Android devices are connected ({SERIAL}, {IN_NETWORK}); name"),
    Choice("other", "two_devices", f"the device X1 is not connected; adb lists {SERIAL}, ", "X1"),
    Choice("unauthorised", "unauthorized", "allow USB debugging on its screen"),
    Choice("unauthorised by name", "unauthorized", "allow USB debugging on its screen", SERIAL),
    Choice("offline", "offline", f"the device {SERIAL} is offline; unplug it"),
    Choice("no permissions", "no_permissions", "add the udev rules"),
    Choice("server", "server_broken", "adb lists no devices; it said: adb: failed to check server"),
]


@pytest.mark.parametrize("case", REFUSALS, ids=lambda case: case.id)
def test_why_there_is_no_device(case: Choice, tmp_path: Path) -> None:
    adb = Adb(install(tmp_path, case.conversation, device=False), case.serial)
    with pytest.raises(AdbError) as caught:
        adb.shell(["true"])
    assert case.words in str(caught.value)
    assert "\n" not in str(caught.value)
    assert caught.value.kind == "unreachable"


@pytest.mark.parametrize(
    ("conversation", "serial", "chosen"),
    [
        ("phone", "", SERIAL),
        ("first_call", "", SERIAL),
        ("two_devices", SERIAL, SERIAL),
        ("two_devices", IN_NETWORK, IN_NETWORK),
    ],
)
def test_device_is_chosen(conversation: str, serial: str, chosen: str, tmp_path: Path) -> None:
    assert Adb(install(tmp_path, conversation), serial).choose() == chosen


def test_serial_of_the_environment_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANDROID_SERIAL", IN_NETWORK)
    assert Adb(install(tmp_path, "two_devices")).choose() == IN_NETWORK


def test_one_ready_device_among_others_is_taken() -> None:
    listed = [Listed("dead", "offline"), Listed("good", "device"), Listed("new", "unauthorized")]
    assert choose_device(listed, "") == "good"
    with pytest.raises(AdbError, match="dead is offline"):
        choose_device(listed, "dead")


def test_adb_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(AdbError, match="install the Android platform tools"):
        Adb(str(tmp_path / "nowhere")).devices()


def test_exit_codes_and_streams_come_back(tmp_path: Path) -> None:
    adb = Adb(install(tmp_path, "phone"))
    reply = adb.shell(["sh", "-c", "printf out; echo err >&2; exit 7"])
    assert (reply.code, reply.output, reply.errors) == (7, "out", "err\n")
    assert adb.shell(["true"]).code == 0


def test_old_device_has_exit_codes_too(tmp_path: Path) -> None:
    adb = Adb(install(tmp_path, "old_phone"))
    reply = adb.shell(["cat", "/proc/loadavg"])
    assert reply.code == 1
    assert reply.output == "/system/bin/sh: cat: /proc/loadavg: Permission denied\n"


def test_program_cannot_forge_its_exit_code(tmp_path: Path) -> None:
    reply = Adb(install(tmp_path, "phone")).shell(["sh", "-c", "echo onnxsep-0=0; exit 3"])
    assert reply.code == 3


@dataclasses.dataclass(frozen=True)
class Loss:
    id: str
    reply: dict[str, object]
    words: str


LOSSES = [
    Loss("unplugged", {"exit": 255}, f"the connection to the device {SERIAL} broke; adb said: not"),
    Loss(
        "gone", {"stderr": f"adb: device '{SERIAL}' not found\n", "exit": 1}, "is gone; plug it in"
    ),
    Loss("offline", {"stderr": "error: device offline\n", "exit": 1}, "is offline; unplug it"),
    Loss("closed", {"stderr": "error: closed\n", "exit": 1}, "adb said: error: closed"),
    Loss(
        "revoked",
        {"stderr": "error: device unauthorized.\nThis adb server's $ADB_VENDOR_KEYS…\n", "exit": 1},
        "allow USB debugging on its screen",
    ),
    Loss(
        "server",
        {"stderr": "* failed to start daemon\nadb: cannot connect to daemon\n", "exit": 1},
        "run adb kill-server",
    ),
    Loss("control characters", {"stderr": "\x1b[2Jboo\n", "exit": 1}, "adb said: �[2Jboo"),
]


@pytest.mark.parametrize("case", LOSSES, ids=lambda case: case.id)
def test_device_that_is_lost(case: Loss, tmp_path: Path) -> None:
    adb = Adb(install(tmp_path, "phone", extra=({"call": "shell true", **case.reply},)))
    with pytest.raises(AdbError) as caught:
        adb.shell(["true"])
    assert case.words in str(caught.value)


def test_silence_is_a_timeout(tmp_path: Path) -> None:
    adb = Adb(install(tmp_path, "phone", extra=({"call": "shell true", "wait": 60},)))
    adb.choose()
    with pytest.raises(AdbError, match=r"within 0\.3 s") as caught:
        adb.shell(["true"], 0.3)
    assert caught.value.kind == "timeout"


def test_words_reach_the_program_as_they_are(tmp_path: Path) -> None:
    reply = Adb(install(tmp_path, "phone")).shell(["printf", "%s|", AWKWARD, "", "-n", "é"])
    assert reply.output == f"{AWKWARD}||-n|é|"
    assert not Path("x").exists()


@given(st.lists(st.text(st.characters(exclude_characters="\0", exclude_categories=("Cs",)))))
def test_quoting_survives_the_shell(words: list[str]) -> None:
    # As on a device: adb joins, sh takes apart.
    line = " ".join(["printf", shlex.join(["%s\\0", *words])])
    said = subprocess.run(["sh", "-c", line], capture_output=True, check=True).stdout
    assert said.decode().split("\0")[:-1] == (words or [""])


@dataclasses.dataclass(frozen=True)
class Refusal:
    id: str
    said: str
    words: str


PUSHES = [
    Refusal(
        "no space",
        "adb: error: failed to copy '/m.onnx' to '/data/m.onnx': remote write failed: No space "
        "left on device",
        "the device has no room for m o;del.onnx (2.0 MB); free some",
    ),
    Refusal(
        "no space at all",
        "adb: error: failed to copy '/m.onnx' to '/data/m.onnx': remote couldn't create file: No "
        "space left on device",
        "has no room",
    ),
    Refusal(
        "not allowed",
        "adb: error: failed to copy '/m.onnx' to '/system/m.onnx': remote couldn't create file: "
        "Permission denied",
        "could not be copied to the device",
    ),
    Refusal(
        "gone",
        f"adb: error: failed to get feature set: device '{SERIAL}' not found",
        "is gone; plug it in again",
    ),
]


@pytest.mark.parametrize("case", PUSHES, ids=lambda case: case.id)
def test_file_that_does_not_arrive(case: Refusal, tmp_path: Path) -> None:
    # adb tells of failed copies on stdout.
    reply = {"call": "push *", "stdout": f"{case.said}\n", "exit": 1}
    model = tmp_path / "m o;del.onnx"
    model.write_bytes(bytes(2_000_000))
    with pytest.raises(AdbError) as caught:
        Adb(install(tmp_path, "phone", extra=(reply,))).push(model, "/data/m.onnx")
    assert case.words in str(caught.value)


def test_file_that_is_not_there(tmp_path: Path) -> None:
    said = "adb: error: failed to stat remote object '/data/x': No such file or directory\n"
    reply = {"call": "pull *", "stdout": said, "exit": 1}
    with pytest.raises(AdbError, match="No such file"):
        Adb(install(tmp_path, "phone", extra=(reply,))).pull("/data/x", tmp_path / "x")


def test_port_is_forwarded_to_termux(tmp_path: Path) -> None:
    forwarded = {"call": "forward tcp:2222 tcp:8022", "stdout": "2222\n"}
    adb = install(tmp_path, "phone", extra=(forwarded,), device=False)
    forward_ssh(AdbSettings(adb=adb), 2222)
    assert calls(tmp_path)[-1] == ["forward", "tcp:2222", "tcp:8022"]


def test_port_that_is_taken(tmp_path: Path) -> None:
    said = "adb: error: cannot bind listener: Address already in use\n"
    reply = {"call": "forward *", "stderr": said, "exit": 1}
    with pytest.raises(AdbError, match=r"port 8022 cannot be forwarded.*already in use"):
        forward_ssh(AdbSettings(adb=install(tmp_path, "phone", extra=(reply,))))


@pytest.mark.parametrize("folder", ["", "tmp/x", "/", "/data", "/data/..", "/data/../x", "/a/\0b"])
def test_folders_that_must_not_be_ours(folder: str) -> None:
    with pytest.raises(ConfigurationError, match="folder on the device"):
        AdbSettings(folder=folder)
