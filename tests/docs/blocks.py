"""The code blocks of README and docs, and how they are marked.

A comment above a block, which readers do not see, says what becomes of it: ``<!-- test -->`` runs
it, ``<!-- test: slow -->`` runs it among the slow tests, ``<!-- file: NAME -->`` writes it into the
folder of the blocks that follow.
"""

from __future__ import annotations

import dataclasses
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import yaml

REPOSITORY = Path(__file__).resolve().parents[2]
PAGES = (
    REPOSITORY / "README.md",
    REPOSITORY / "CONTRIBUTING.md",
    REPOSITORY / "CHANGELOG.md",
    *sorted((REPOSITORY / "docs").glob("*.md")),
)
_FENCE = re.compile(r"^(?P<indent> *)```(?P<language>\w*)$")
# What ends a command in a line of a shell script.
_ENDS = ("&&", "|", ">", ">>", ";")
_MARK = re.compile(r"^<!-- (?P<kind>test|file)(: (?P<what>\S+))? -->$")


@dataclasses.dataclass(frozen=True)
class Block:
    """One block.

    Attributes:
        page: Where it stands.
        line: Number of its first line.
        language: As written behind the fence.
        text: Without the fences and their indentation.
        mark: ``test``, ``slow``, ``file`` or nothing.
        file: Name of the file that it is, if it is one.
    """

    page: Path
    line: int
    language: str
    text: str
    mark: str
    file: str

    @property
    def id(self) -> str:
        return f"{self.page.name}:{self.line}"

    def command_lines(self) -> Iterator[list[str]]:
        """The words of every ``onnxsep`` command in a shell block or in the steps of a job."""
        script = re.sub(r"\\\n\s*", " ", self.text) if self.language == "sh" else ""
        if self.language == "yaml" and "jobs:" in self.text:
            (job,) = yaml.safe_load(self.text)["jobs"].values()
            script = "\n".join(step.get("run", "") for step in job["steps"])
        for line in script.splitlines():
            words = shlex.split(line, comments=True)
            for place, word in enumerate(words[:-1]):
                if word == "onnxsep" or word.endswith("/onnxsep"):
                    rest = words[place + 1 :]
                    end = next((n for n, one in enumerate(rest) if one in _ENDS), None)
                    yield rest[:end]


def blocks_of(page: Path) -> list[Block]:
    """All blocks of a page, in order."""
    found: list[Block] = []
    lines = page.read_text("utf-8").splitlines()
    mark, file = "", ""
    number = 0
    while number < len(lines):
        line = lines[number]
        fence = _FENCE.match(line)
        if fence is None:
            said = _MARK.match(line)
            if said is not None:
                mark = said["kind"] if said["kind"] == "file" else (said["what"] or "test")
                file = (said["what"] or "") if said["kind"] == "file" else ""
            elif line.strip():
                mark, file = "", ""
            number += 1
            continue
        indent = len(fence["indent"])
        end = next(n for n in range(number + 1, len(lines)) if lines[n].strip() == "```")
        text = "".join(f"{body[indent:]}\n" for body in lines[number + 1 : end])
        found.append(Block(page, number + 2, fence["language"], text, mark, file))
        mark, file = "", ""
        number = end + 1
    return found


def all_blocks() -> list[Block]:
    """Of all pages."""
    return [block for page in PAGES for block in blocks_of(page)]
