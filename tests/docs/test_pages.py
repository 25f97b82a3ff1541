"""Pages agree with the code and with each other: commands, options, names, links."""

from __future__ import annotations

import importlib
import importlib.util
import re
import sys
from pathlib import Path
from types import ModuleType

import pytest

import onnxsep

from .blocks import PAGES, REPOSITORY, all_blocks

DOCS = REPOSITORY / "docs"
_LINK = re.compile(r"(?<!!)\[[^\]]*\]\((?P<target>[^)\s]+)\)")
# Options of `onnxsep` without a command, and of other programs that pages speak of.
_OTHERS = {"--version", "--help", "--use_xnnpack"}


@pytest.fixture(scope="module")
def generate() -> ModuleType:
    spec = importlib.util.spec_from_file_location("docs_generate", DOCS / "generate.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up there
    spec.loader.exec_module(module)
    return module


def test_command_line_reference_is_that_of_the_code(generate: ModuleType) -> None:
    assert (DOCS / "cli.md").read_text("utf-8") == generate.cli_reference(), (
        "run: python docs/generate.py"
    )


def test_python_reference_is_that_of_the_code(generate: ModuleType) -> None:
    page = (DOCS / "python-api.md").read_text("utf-8")
    assert page == generate.with_reference(page), "run: python docs/generate.py"


def test_commands_in_blocks_exist_with_their_options(generate: ModuleType) -> None:
    flags = {command.name: command.flags for command in generate.commands()}
    looked_at = 0
    for block in all_blocks():
        for command, *words in block.command_lines():
            if command == "--version":
                continue
            assert command in flags, f"{block.id}: onnxsep {command}"
            known = flags[command]
            for number, word in enumerate(words):
                flag, equals, _ = word.partition("=")
                if not flag.startswith("-"):
                    continue
                assert flag in known, f"{block.id}: onnxsep {command} {flag}"
                followed = number + 1 < len(words) and not words[number + 1].startswith("--")
                assert equals or followed or not known[flag], f"{block.id}: {flag} needs a value"
                looked_at += 1
    assert looked_at > 40


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_options_named_in_sentences_exist(page: Path, generate: ModuleType) -> None:
    known = {flag for command in generate.commands() for flag in command.flags} | _OTHERS
    if page.name in ("android.md", "CONTRIBUTING.md", "licences.md"):
        pytest.skip("speaks of other programs' options")
    code = re.findall(r"`([^`\n]+)`", page.read_text("utf-8"))
    named = {
        flag
        for span in code
        if span.startswith(("--", "onnxsep "))
        for flag in re.findall(r"(?<![\w-])--[a-z][\w-]*", span)
    }
    assert named <= known


def test_python_names_in_pages_exist() -> None:
    for page in PAGES:
        text = page.read_text("utf-8")
        for dotted in set(re.findall(r"`(onnxsep(?:\.\w+)+)`", text)):
            assert _found(dotted), f"{page.name}: {dotted}"


def _found(dotted: str) -> bool:
    """Whether it is a module, or a name in one."""
    parts = dotted.split(".")
    thing: object = onnxsep
    for number, part in enumerate(parts[1:], start=2):
        if not hasattr(thing, part):
            try:
                importlib.import_module(".".join(parts[:number]))
            except ImportError:
                return False
        thing = getattr(thing, part)
    return True


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in _LINK.findall(page.read_text("utf-8")):
        if re.match(r"https?:", target):
            continue
        name, _, anchor = target.partition("#")
        file = page if not name else page.parent / name
        assert file.exists(), f"{page.name}: {target}"
        if anchor:
            assert anchor in _anchors(file), f"{page.name}: {target}"


def _anchors(page: Path) -> set[str]:
    """As GitHub makes them from headings."""
    return {
        re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-")
        for heading in re.findall(r"^#+ (.*)$", page.read_text("utf-8"), flags=re.MULTILINE)
    }


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_page_is_reached_from_the_readme(page: Path) -> None:
    if page.name == "README.md":
        return
    readme = (REPOSITORY / "README.md").read_text("utf-8")
    linked = {(REPOSITORY / target.partition("#")[0]) for target in _LINK.findall(readme)}
    assert page in linked


def test_readme_has_its_two_commands() -> None:
    lines = (REPOSITORY / "README.md").read_text("utf-8").splitlines()
    assert sum(line.startswith("python3 -m venv") for line in lines) == 2
