"""The wheel: built from the tree, installed in a clean environment, whole."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent

SCRIPT = """
import importlib, pkgutil, onnxsep, onnxsep.passes
names = [m.name for m in pkgutil.walk_packages(onnxsep.__path__, "onnxsep.")]
for name in names:
    importlib.import_module(name)
print(len(names), onnxsep.passes.__file__)
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    # A copy, because setuptools would find what earlier builds left in the tree.
    tree = folder / "tree"
    for name in ("onnxsep", "passes"):
        shutil.copytree(REPOSITORY / name, tree / name)
    for name in ("pyproject.toml", "README.md"):
        shutil.copy(REPOSITORY / name, tree / name)
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "-w", str(folder), "."]
    subprocess.run(command, cwd=tree, check=True, capture_output=True, text=True)
    (built,) = folder.glob("*.whl")
    return built


def test_wheel_holds_every_module_and_nothing_else(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        held = {name for name in archive.namelist() if ".dist-info/" not in name}
    sources = {
        path.relative_to(REPOSITORY).as_posix() for path in (REPOSITORY / "onnxsep").rglob("*.py")
    }
    passes = {f"onnxsep/passes/{path.name}" for path in (REPOSITORY / "passes").glob("*.py")}
    assert held == sources | passes | {"onnxsep/py.typed"}


def test_wheel_imports_in_a_clean_environment(wheel: Path, tmp_path: Path) -> None:
    environment = tmp_path / "venv"
    subprocess.run([sys.executable, "-m", "venv", str(environment)], check=True)
    python = environment / "bin" / "python"
    install = [str(python), "-m", "pip", "install", "--quiet", "--no-deps", str(wheel)]
    subprocess.run(install, check=True, capture_output=True)
    # The dependencies are ours, the package is the wheel's: a path entry runs no .pth file, so an
    # editable install of the tree is not seen through it.
    dependencies = {**os.environ, "PYTHONPATH": sysconfig.get_path("purelib")}
    done = subprocess.run(
        [str(python), "-c", SCRIPT],
        cwd=tmp_path,
        env=dependencies,
        capture_output=True,
        text=True,
        check=True,
    )
    count, file = done.stdout.split()
    assert int(count) > 40
    assert Path(file).is_relative_to(environment)
    version = subprocess.run(
        [str(environment / "bin" / "onnxsep"), "--version"],
        env=dependencies,
        capture_output=True,
        text=True,
        check=True,
    )
    assert version.stdout.startswith("onnxsep ")
