"""Where the models of the corpus come from, with the inputs and outputs that were recorded."""

from __future__ import annotations

import dataclasses
import importlib.util
import os
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper
from onnx.backend.test.loader import DATA_DIR, load_model_tests
from onnx.backend.test.runner import Runner

from .random_graphs import random_graph
from .random_writer import Chance

REPOSITORY = Path(__file__).resolve().parents[2]
SHARED_DATA = Path(
    os.environ.get("ONNXSEP_SHARED_DATA", REPOSITORY.parent / "shared" / "data")
).resolve()
ARCHITECTURES = ("resnet18", "mobilenetv2", "inception_v3", "efficientnet_b0", "yolo")

# The tolerances of the onnx package's own runner, where a test names none.
RTOL, ATOL = 1e-3, 1e-7
_BACKEND_FOLDERS = ("simple", "pytorch-converted", "pytorch-operator")

# A value as onnxruntime takes it: an array, a list of arrays (a sequence), None (an optional).
Value = Any
Recording = tuple[dict[str, Value], list[Value]]


@dataclasses.dataclass(frozen=True)
class Sample:
    """One model of the corpus.

    Attributes:
        name: Unique; ``source/test``, with ``@frozen`` behind it where inputs became weights.
        read: Gives the model.
        recordings: Gives inputs by name with the outputs that belong to them; may give none.
        path: The file, where the model must be read from its own folder (external data).
        rtol: Relative tolerance of the outputs.
        atol: Absolute tolerance of the outputs.
    """

    name: str
    read: Callable[[], onnx.ModelProto]
    recordings: Callable[[onnx.ModelProto], list[Recording]]
    path: Path | None = None
    rtol: float = RTOL
    atol: float = ATOL

    @property
    def source(self) -> str:
        """The kind of corpus it is from."""
        return self.name.partition("/")[0]


def all_samples(sources: Iterable[str] = ()) -> Iterator[Sample]:
    """Every model of the named sources, or of all; variants follow their originals."""
    wanted = set(sources) or set(SOURCES)
    for source in SOURCES:
        if source in wanted:
            yield from SOURCES[source]()


def _node_tests() -> Iterator[Sample]:
    with warnings.catch_warnings():  # the cases compute overflows on purpose
        warnings.simplefilter("ignore")
        cases = load_model_tests(kind="node")
    for case in sorted(cases, key=lambda case: str(case.name)):
        if case.model is None:  # an onnx package that has them as files
            yield from _with_frozen(
                _from_folder("node", Path(case.model_dir), case.rtol, case.atol)
            )
            continue
        sample = Sample(
            f"node/{case.name}",
            _constant(case.model),
            _paired(case.data_sets or []),
            rtol=case.rtol,
            atol=case.atol,
        )
        yield from _with_frozen(sample)


def _backend_folder(source: str) -> Iterator[Sample]:
    for case in sorted(load_model_tests(kind=source), key=lambda case: str(case.name)):
        yield from _with_frozen(_from_folder(source, Path(case.model_dir), case.rtol, case.atol))


def _from_folder(source: str, folder: Path, rtol: float, atol: float) -> Sample:
    def recordings(model: onnx.ModelProto) -> list[Recording]:
        pairs = []
        for data in sorted(folder.glob("test_data_set*")):
            inputs = _read_values(data, "input", [value.type for value in model.graph.input])
            outputs = _read_values(data, "output", [value.type for value in model.graph.output])
            pairs.append((inputs, outputs))
        return _paired(pairs)(model)

    read = _reader(folder / "model.onnx")
    return Sample(f"{source}/{folder.name}", read, recordings, rtol=rtol, atol=atol)


def _light_models() -> Iterator[Sample]:
    for path in sorted(Path(DATA_DIR, "light").glob("*.onnx")):
        yield Sample(f"light/{path.stem}", _reader(path), _dummy_recording(path))


def _dummy_recording(path: Path) -> Callable[[onnx.ModelProto], list[Recording]]:
    def recordings(model: onnx.ModelProto) -> list[Recording]:
        held = {tensor.name for tensor in model.graph.initializer}
        fed = [value for value in model.graph.input if value.name not in held]
        feeds = {value.name: Runner.generate_dummy_data(value) for value in fed}
        outputs = []
        for index in range(len(model.graph.output)):
            tensor = onnx.TensorProto.FromString(
                path.with_name(f"{path.stem}_output_{index}.pb").read_bytes()
            )
            outputs.append(numpy_helper.to_array(tensor))
        return [(feeds, outputs)]

    return recordings


def _shared_networks(folder: str) -> Iterator[Sample]:
    """Trained networks; nothing was recorded, so their own outputs are what counts."""
    for path in sorted((SHARED_DATA / folder).glob("*.onnx")):
        yield Sample(f"{folder}/{path.stem}", _reader(path), _nothing_recorded, path=path)


def _architectures() -> Iterator[Sample]:
    for name in ARCHITECTURES:
        yield Sample(f"architectures/{name}", _builder(name), _nothing_recorded)


def _builder(name: str) -> Callable[[], onnx.ModelProto]:
    def build() -> onnx.ModelProto:
        folder = REPOSITORY / "sample_models"
        sys.path.append(str(folder))  # the scripts import each other from their folder
        spec = importlib.util.spec_from_file_location("sample_models_build", folder / "build.py")
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[spec.name] = module
        spec.loader.exec_module(module)
        built: onnx.ModelProto = module.build(name, width=0.25, size=96)
        return built

    return build


def _random_graphs(count: int = 400) -> Iterator[Sample]:
    for seed in range(count):
        yield Sample(f"random/{seed:04d}", _random(seed), _nothing_recorded)


def _random(seed: int) -> Callable[[], onnx.ModelProto]:
    return lambda: random_graph(Chance(seed))


SOURCES: dict[str, Callable[[], Iterator[Sample]]] = {
    "node": _node_tests,
    **{folder: (lambda folder=folder: _backend_folder(folder)) for folder in _BACKEND_FOLDERS},
    "light": _light_models,
    "models": lambda: _shared_networks("models"),
    "odd": lambda: _shared_networks("odd"),
    "architectures": _architectures,
    "random": _random_graphs,
}


def _with_frozen(sample: Sample) -> Iterator[Sample]:
    """The sample, and the same with every input but the first turned into a weight.

    Node tests feed weights from outside, where nothing may be rewritten; frozen, the same recorded
    outputs are a proof for the rewrites.
    """
    yield sample
    if len(sample.read().graph.input) > 1:
        yield frozen(sample)


def frozen(sample: Sample) -> Sample:
    """``sample`` with the recorded inputs behind the first as initializers."""

    def read() -> onnx.ModelProto:
        original = sample.read()
        model = onnx.ModelProto()
        model.CopyFrom(original)
        recorded = sample.recordings(original)
        if not recorded:
            return model
        others = list(original.graph.input)[1:]
        weights = [
            value.name
            for value in others
            if value.type.HasField("tensor_type") and _is_array(recorded[0][0].get(value.name))
        ]
        held = {tensor.name for tensor in model.graph.initializer}
        for name in weights:
            if name not in held:
                tensor = numpy_helper.from_array(np.asarray(recorded[0][0][name]), name)
                model.graph.initializer.append(tensor)
        # Up to IR version 3 an initializer must be listed as an input too.
        if model.ir_version >= 4:
            kept = [value for value in model.graph.input if value.name not in weights]
            del model.graph.input[:]
            model.graph.input.extend(kept)
        return model

    def recordings(model: onnx.ModelProto) -> list[Recording]:
        held = {tensor.name for tensor in model.graph.initializer}
        pairs = sample.recordings(sample.read())[:1]
        return [
            ({name: value for name, value in feeds.items() if name not in held}, outputs)
            for feeds, outputs in pairs
        ]

    return Sample(f"{sample.name}@frozen", read, recordings, rtol=sample.rtol, atol=sample.atol)


def _is_array(value: Value) -> bool:
    return isinstance(value, np.ndarray | np.generic)


def _constant(model: onnx.ModelProto) -> Callable[[], onnx.ModelProto]:
    return lambda: model


def _reader(path: Path) -> Callable[[], onnx.ModelProto]:
    return lambda: onnx.load(path)


def _nothing_recorded(_: onnx.ModelProto) -> list[Recording]:
    return []


def _paired(pairs: Sequence[Any]) -> Callable[[onnx.ModelProto], list[Recording]]:
    """Inputs by name; they were recorded in the order of the graph's inputs."""

    def recordings(model: onnx.ModelProto) -> list[Recording]:
        return [
            (
                {
                    value.name: _plain(recorded)
                    for value, recorded in zip(model.graph.input, inputs, strict=False)
                },
                [_plain(recorded) for recorded in outputs],
            )
            for inputs, outputs in pairs
        ]

    return recordings


def _plain(value: Any) -> Value:
    if isinstance(value, onnx.TensorProto):
        return numpy_helper.to_array(value)
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    return np.asarray(value) if isinstance(value, np.generic) else value


def _read_values(folder: Path, role: str, types: Sequence[onnx.TypeProto]) -> list[Value]:
    values: list[Value] = []
    for index in range(len(list(folder.glob(f"{role}_*.pb")))):
        data = (folder / f"{role}_{index}.pb").read_bytes()
        if types[index].HasField("sequence_type"):
            values.append(numpy_helper.to_list(onnx.SequenceProto.FromString(data)))
        elif types[index].HasField("optional_type"):
            values.append(numpy_helper.to_optional(onnx.OptionalProto.FromString(data)))
        else:
            values.append(numpy_helper.to_array(onnx.TensorProto.FromString(data)))
    return values
