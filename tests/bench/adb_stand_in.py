"""An executable in the place of adb: replays recorded conversations, and can play the device.

A conversation is a JSON file in ``recorded_adb``: ``{"about", "replies": [...]}``. The first reply
whose ``call`` (a shell pattern) matches the words after ``-s SERIAL`` is given, and one with
``times`` only so often. Its fields: ``stdout``, ``stderr`` (text, or ``@file`` beside it), ``exit``
(of adb itself), ``code`` (of the command on the device: the line that onnxsep asks for is printed
then, and only then), ``wait`` (seconds before anything), ``crlf`` (line ends of an old device).

With ``device``, whatever matches no reply is done here: commands by ``sh``, joined with spaces as
adb joins them, copies as copies. Every call is noted in ``calls.jsonl`` beside the conversation.
"""

# It is started some twenty times in a test: only what starts fast is imported above.
import json
import os
import sys
import time
from fnmatch import fnmatchcase

RECORDED = os.path.join(os.path.dirname(os.path.abspath(__file__)), "recorded_adb")
_TAIL = "; onnxsep_code=$?; echo; echo "
_Reply = dict[str, object]


def install(folder: os.PathLike[str], *names: str, extra: tuple = (), device: bool = True) -> str:
    """Make an executable ``adb`` in ``folder`` that plays the conversations of those names.

    Args:
        folder: An existing folder.
        names: Of files in ``recorded_adb``; earlier ones win.
        extra: Replies before those of the files.
        device: Whether what nobody recorded is done here.

    Returns:
        Its path.
    """
    replies = list(extra)
    for name in names:
        replies.extend(json.loads(recorded(f"{name}.json"))["replies"])
    conversation = os.path.join(folder, "conversation.json")
    with open(conversation, "w", encoding="utf-8") as file:
        json.dump({"replies": replies, "device": device}, file)
    program = os.path.join(folder, "adb")
    with open(program, "w", encoding="utf-8") as file:
        file.write(
            # -I -S: nothing of the environment, no site packages.
            f"#!{sys.executable} -IS\n"
            f"import sys\nsys.path.insert(0, {os.path.dirname(os.path.abspath(__file__))!r})\n"
            "import adb_stand_in\n"
            f"sys.exit(adb_stand_in.answer({conversation!r}, sys.argv[1:]))\n"
        )
    os.chmod(program, 0o755)
    return program


def recorded(name: str) -> str:
    """A file of ``recorded_adb``."""
    with open(os.path.join(RECORDED, name), encoding="utf-8") as file:
        return file.read()


def calls(folder: os.PathLike[str]) -> list[list[str]]:
    """What was asked of the adb in ``folder`` so far, without the line for the exit code."""
    path = os.path.join(folder, "calls.jsonl")
    if not os.path.exists(path):
        return []
    with open(path, encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def answer(path: str, words: list[str]) -> int:
    """Be adb for one call."""
    folder = os.path.dirname(path)
    with open(path, encoding="utf-8") as file:
        conversation = json.load(file)
    if words[:1] == ["-s"]:
        words = words[2:]
    text, mark = _command(words)
    asked = [words[0], text] if words[0] == "shell" else words
    with open(os.path.join(folder, "calls.jsonl"), "a", encoding="utf-8") as file:
        file.write(json.dumps(asked) + "\n")
    for index, reply in enumerate(conversation["replies"]):
        if fnmatchcase(" ".join(asked), reply["call"]) and _left(folder, index, reply):
            return _replay(reply, mark)
    if not conversation["device"]:
        print(f"nobody recorded: {' '.join(asked)}", file=sys.stderr)
        return 1
    return _act(words, text, mark)


def _command(words: list[str]) -> tuple[str, str]:
    """The line for the device's shell without what asks for its exit code, and the mark of that."""
    if words[0] != "shell":
        return "", ""
    text = " ".join(word for word in words[1:] if word != "-n")
    command, tail, mark = text.rpartition(_TAIL)
    return (command, mark.partition("$")[0]) if tail else (text, "")


def _left(folder: str, index: int, reply: _Reply) -> bool:
    """Whether a reply may be given once more."""
    if "times" not in reply:
        return True
    counter = os.path.join(folder, f"given-{index}")
    with open(counter, "a+", encoding="utf-8") as file:
        file.write(".")
        return file.tell() <= int(str(reply["times"]))


def _replay(reply: _Reply, mark: str) -> int:
    time.sleep(float(str(reply.get("wait", 0))))
    output, errors = (_text(str(reply.get(name, ""))) for name in ("stdout", "stderr"))
    if "code" in reply:
        output += f"\n{mark}{reply['code']}\n"
    if reply.get("crlf"):
        output = output.replace("\n", "\r\n")
    for stream, said in ((sys.stdout, output), (sys.stderr, errors)):
        stream.buffer.write(said.encode())
        stream.flush()
    return int(str(reply.get("exit", 0)))


def _text(value: str) -> str:
    return recorded(value[1:]) if value.startswith("@") else value


def _act(words: list[str], text: str, mark: str) -> int:
    if words[0] == "shell":
        tail = f"{_TAIL}{mark}$onnxsep_code" if mark else ""
        os.execvp("sh", ["sh", "-c", text + tail])
    if words[0] not in ("push", "pull"):
        print(f"adb: unknown command {words[0]}", file=sys.stderr)
        return 1
    try:
        with open(words[1], "rb") as source, open(words[2], "wb") as target:
            target.write(source.read())
    except OSError as error:
        print(f"adb: error: cannot stat '{words[1]}': {error.strerror}")
        return 1
    print(f"{words[1]}: 1 file {words[0]}ed, 0 skipped. 30.0 MB/s (1 bytes in 0.001s)")
    return 0
