"""What pyproject.toml asks for, in three forms, each printed to standard output.

``lowest``     the lowest versions that it allows, for pip
``lock``       what a development environment has installed of it, for requirements-dev.lock
``licences``   the licence of everything that a user installs with it, for docs/licences.md
"""

from __future__ import annotations

import importlib.metadata
import re
import sys
import tomllib
from collections.abc import Iterable
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

PROJECT = Path(__file__).resolve().parent.parent / "pyproject.toml"
# A licence's name is shorter than its text, which some packages put in the same field.
_LONGEST_NAME = 40
_NO_LICENCES = """# Licences

What `pip install onnxsep` brings along, by `python .ci/dependencies.py licences`. The names are
those that the packages give themselves.

| package | version | licence | asked for by |
|---|---|---|---|
"""


def requirements(*extras: str) -> list[Requirement]:
    """The dependencies, and those of the named extras."""
    project = tomllib.loads(PROJECT.read_text(encoding="utf-8"))["project"]
    optional = project["optional-dependencies"]
    lines = [*project["dependencies"], *(line for extra in extras for line in optional[extra])]
    return [Requirement(line) for line in lines]


def lowest(*extras: str) -> list[str]:
    """``name==version`` for every lower bound."""
    pins = []
    for requirement in requirements(*extras):
        (bound,) = (entry for entry in requirement.specifier if entry.operator == ">=")
        pins.append(f"{requirement.name}=={bound.version}")
    return pins


def installed(wanted: Iterable[Requirement]) -> dict[str, set[str]]:
    """Everything that is installed because of ``wanted``, and who asks for each."""
    found: dict[str, set[str]] = {}
    waiting = [(requirement, "onnxsep") for requirement in wanted]
    while waiting:
        requirement, asker = waiting.pop()
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
            continue
        name = canonicalize_name(requirement.name)
        if name not in found:
            brought = importlib.metadata.requires(name) or []
            waiting.extend((Requirement(line), name) for line in brought)
        found.setdefault(name, set()).add(asker)
    return dict(sorted(found.items()))


def licence_of(name: str) -> str:
    """As the package itself says it: an expression, a short name, or its classifiers."""
    metadata = importlib.metadata.metadata(name)
    for field in ("License-Expression", "License"):
        text = (metadata.get(field) or "").strip()
        if text and len(text) <= 2 * _LONGEST_NAME and "\n" not in text:
            return text
    classifiers = [
        entry.rpartition(" :: ")[2]
        for entry in metadata.get_all("Classifier") or []
        if entry.startswith("License :: ")
    ]
    return ", ".join(classifiers) or "see its own files"


def licences() -> str:
    """The page."""
    rows = [
        f"| {name} | {importlib.metadata.version(name)} | {licence_of(name)} | "
        f"{', '.join(sorted(askers))} |\n"
        for name, askers in installed(requirements()).items()
    ]
    return _NO_LICENCES + "".join(rows)


def lock() -> str:
    """Pins of everything that development needs."""
    names = installed(requirements("test", "lint"))
    return "# python .ci/dependencies.py lock\n" + "".join(
        f"{name}=={re.sub(r'[+].*', '', importlib.metadata.version(name))}\n" for name in names
    )


if __name__ == "__main__":
    forms = {"lowest": lambda: "\n".join(lowest("test")) + "\n", "lock": lock, "licences": licences}
    sys.stdout.write(forms[sys.argv[1]]())
