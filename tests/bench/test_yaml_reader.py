"""The reader gives plain data with positions, by YAML 1.2, and refuses what is dangerous."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from onnxsep.bench import yaml_reader
from onnxsep.bench.yaml_reader import (
    MOST_ALIASES,
    MOST_BYTES,
    MOST_DEPTH,
    Document,
    PathParts,
    Position,
    parse_value,
    path_text,
    read_yaml,
)
from onnxsep.errors import ConfigurationError, InputError, OnnxsepError


def read(tmp_path: Path, text: str | bytes) -> Document:
    path = tmp_path / "bench.yaml"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return read_yaml(path)


def test_positions_are_those_of_keys_and_items(tmp_path: Path) -> None:
    document = read(tmp_path, "# about\nmodels:\n  - name: a\n    path: b\n  - {name: c}\n")
    assert document.value == {"models": [{"name": "a", "path": "b"}, {"name": "c"}]}
    assert document.positions == {
        (): Position(2, 1),
        ("models",): Position(2, 1),
        ("models", 0): Position(3, 5),
        ("models", 0, "name"): Position(3, 5),
        ("models", 0, "path"): Position(4, 5),
        ("models", 1): Position(5, 5),
        ("models", 1, "name"): Position(5, 6),
    }
    assert document.place(("models", 1, "missing", 3)) == f"{document.path}:5"
    assert document.place(("else",)) == f"{document.path}:2"


SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(10**9), 10**9),
    st.floats(-1e9, 1e9, allow_nan=False),
    st.from_regex(r"[a-z]{1,8}", fullmatch=True),
    st.sampled_from(["on", "no", "yes", "1:30", "2024-01-01", "0b1", "null", "true", "1", ""]),
)
KEYS = st.from_regex(r"[a-z]{1,6}", fullmatch=True).filter(lambda k: k not in ("null", "true"))
TREES = st.dictionaries(
    KEYS,
    st.recursive(
        SCALARS,
        lambda inner: st.lists(inner, max_size=4) | st.dictionaries(KEYS, inner, max_size=4),
        max_leaves=12,
    ),
    min_size=1,
    max_size=5,
)


def paths_of(value: Any, path: PathParts = ()) -> list[PathParts]:
    pairs = (
        value.items()
        if isinstance(value, dict)
        else enumerate(value)
        if isinstance(value, list)
        else ()
    )
    return [path, *(found for part, inner in pairs for found in paths_of(inner, (*path, part)))]


@given(tree=TREES, flow=st.sampled_from([True, False, None]), above=st.integers(0, 3))
def test_generated_documents(
    tmp_path_factory: pytest.TempPathFactory, tree: dict[str, Any], flow: bool, above: int
) -> None:
    # PyYAML writes for YAML 1.1, so what is ambiguous there is quoted, and that is text here too.
    text = "# line\n" * above + yaml.safe_dump(tree, default_flow_style=flow, width=60)
    document = read(tmp_path_factory.mktemp("yaml"), text)
    assert document.value == tree
    assert sorted(map(str, document.positions)) == sorted(map(str, paths_of(tree)))
    lines = text.splitlines()
    for path, position in document.positions.items():
        written = lines[position.line - 1][position.column - 1 :]
        value: Any = tree
        for part in path:
            value = value[part]
        if path and isinstance(path[-1], str):
            assert written.lstrip("'").startswith(path[-1])
        elif isinstance(value, int | str):
            assert written.lstrip("'").startswith(str(value).lower())


@dataclasses.dataclass(frozen=True)
class Scalar:
    text: str
    value: Any


@pytest.mark.parametrize(
    "case",
    [
        Scalar("on", "on"),
        Scalar("NO", "NO"),
        Scalar("y", "y"),
        Scalar("true", True),
        Scalar("False", False),
        Scalar("~", None),
        Scalar("", None),
        Scalar("'1'", "1"),
        Scalar("010", 10),
        Scalar("0x1F", 31),
        Scalar("0o17", 15),
        Scalar("-3", -3),
        Scalar("1_000", "1_000"),
        Scalar("1:30", "1:30"),
        Scalar("2024-01-01", "2024-01-01"),
        Scalar("1e-3", 0.001),
        Scalar("1.", 1.0),
        Scalar(".5", 0.5),
        Scalar("-.inf", -math.inf),
        Scalar("!!float 3", 3.0),
        Scalar("!!str 3", "3"),
        Scalar("[1, 8]", [1, 8]),
        Scalar("{a: 1}", {"a": 1}),
        Scalar("=", "="),
        Scalar("<<", "<<"),
    ],
    ids=lambda case: case.text or "nothing",
)
def test_scalars(case: Scalar) -> None:
    found = parse_value(case.text, "--set a=b")
    assert (type(found), found) == (type(case.value), case.value)


def test_not_a_number() -> None:
    assert math.isnan(parse_value(".nan", "x"))


def test_keys_are_text_as_written(tmp_path: Path) -> None:
    assert read(tmp_path, "on: 1\n2: 2\ntrue: 3\nnull: 4\n").value == {
        "on": 1,
        "2": 2,
        "true": 3,
        "null": 4,
    }


def test_an_alias_has_the_position_of_its_anchor(tmp_path: Path) -> None:
    document = read(tmp_path, "a: &x\n  b: 1\nc: *x\n")
    assert document.value == {"a": {"b": 1}, "c": {"b": 1}}
    assert document.positions["c", "b"] == Position(2, 3)
    assert document.positions["c",] == Position(3, 1)


def laughs(levels: int) -> str:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [
        f"a{level}: &a{level} [{', '.join([f'*a{level - 1}'] * 10)}]" for level in range(1, levels)
    ]
    return "\n".join(lines)


@dataclasses.dataclass(frozen=True)
class Refused:
    id: str
    text: str | bytes
    message: str
    kind: type[OnnxsepError] = ConfigurationError


@pytest.mark.parametrize(
    "case",
    [
        Refused("empty", "", "is empty"),
        Refused("only a comment", "# nothing\n", "is empty"),
        Refused("UTF-16", "a: 1".encode("utf-16"), "is no text in UTF-8"),
        Refused("binary", b"\x7fELF\x00\x01\x02", "no text has"),
        Refused("too large", b"#" * (MOST_BYTES + 1), "is larger than"),
        Refused("no YAML", "a: [1,\nb: 2", "bench.yaml:2: no valid YAML"),
        Refused("tab", "a:\n\t- 1\n", "bench.yaml:2: no valid YAML"),
        Refused("two documents", "a: 1\n---\nb: 2\n", "bench.yaml:2: no valid YAML"),
        Refused("undefined alias", "a: *b\n", "bench.yaml:1: no valid YAML"),
        Refused("key twice", "a: 1\nb: 2\na: 3\n", "bench.yaml:3: the key 'a' is given twice, fi"),
        Refused(
            "number as key twice", "1: 1\n'1': 2\n", "bench.yaml:2: the key '1' is given twice"
        ),
        Refused("key in pieces", "? [a, b]\n: 1\n", "a key has to be a single word"),
        Refused("Python object", "a: !!python/object/apply:os.system [ls]", "!!python/object"),
        Refused("unknown tag", "a: !secret x", "the tag !secret is not allowed"),
        Refused("set", "a: !!set {x}", "the tag !!set is not allowed"),
        Refused("binary tag", "a: !!binary eA==", "the tag !!binary is not allowed"),
        Refused("wrong tag", "\na: !!int x", "bench.yaml:2: 'x' is no value of the type !!int"),
        Refused("huge number", "a: " + "9" * 5000, "is no value of the type !!int"),
        Refused("deep", "[" * 5000, f"more than {MOST_DEPTH} levels"),
        Refused("deep blocks", "- " * 5000 + "x", f"more than {MOST_DEPTH} levels"),
        Refused("alias in itself", "a: &a [*a]", f"more than {MOST_DEPTH} levels"),
        Refused("billion laughs", laughs(9), "more than 100000 values"),
        Refused(
            "many aliases",
            "a: &a x\nb: [" + "*a, " * (MOST_ALIASES + 1) + "]",
            f"more than {MOST_ALIASES} aliases",
        ),
    ],
    ids=lambda case: case.id,
)
def test_refused(tmp_path: Path, case: Refused) -> None:
    with pytest.raises(case.kind) as caught:
        read(tmp_path, case.text)
    assert case.message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_missing_and_unreadable_files(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no\.yaml does not exist"):
        read_yaml(tmp_path / "no.yaml")
    with pytest.raises(InputError, match="cannot be read"):
        read_yaml(tmp_path)


def test_a_value_that_is_no_yaml_names_its_option() -> None:
    with pytest.raises(ConfigurationError, match=r"^--set a=\[:1: no valid YAML"):
        parse_value("[", "--set a=[")


def test_bom_is_skipped(tmp_path: Path) -> None:
    assert read(tmp_path, b"\xef\xbb\xbfa: 1\n").value == {"a": 1}


def test_the_bounds_of_the_loader_are_not_those_of_pyyaml() -> None:
    """Our resolvers must not leak into the loader that everybody else uses."""
    assert yaml.safe_load("on") is True
    assert parse_value("on", "x") == "on"
    assert (
        yaml_reader._Loader.yaml_implicit_resolvers is not yaml.SafeLoader.yaml_implicit_resolvers
    )


def test_path_text() -> None:
    assert path_text(("models", 0, "path")) == "models[0].path"
    assert path_text(("a", "session.x")) == 'a["session.x"]'
    assert path_text(()) == ""
