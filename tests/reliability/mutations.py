"""Damaged models, made from sound ones by chance: the same number gives the same damage.

Damage is done to bytes, as a broken copy would, and to the fields of the protobuf message, as a
broken or malicious exporter would: the latter gets past the parser and reaches the code behind.
"""

from __future__ import annotations

import dataclasses
import functools
import random
from collections.abc import Callable

import numpy as np
import onnx
import onnx.parser
import onnx_ir as ir
from onnx import numpy_helper

from ..small_models import small_network
from .field_damage import FIELDS

# One branch each way, Constant nodes, a Loop-free If, shapes computed in the graph.
_BRANCHES = """
    <ir_version: 8, opset_import: ["" : 17]>
    branches (float[N, 3, 8, 8] x) => (float[N, 4] y, float[N, 4, 8, 8] inner) {
        scale = Constant <value = float[1] {0.5}> ()
        inner = Conv <pads = [1, 1, 1, 1], group = 1> (x, w, b)
        size = Shape (inner)
        total = ReduceSum <keepdims = 0> (inner)
        zero = Constant <value = float {0}> ()
        positive = Greater (total, zero)
        z = If (positive) <
            then_branch = yes () => (float[N, 4, 8, 8] p) { p = Mul (inner, scale) },
            else_branch = no () => (float[N, 4, 8, 8] q) { q = Neg (inner) }
        >
        pooled = GlobalAveragePool (z)
        flat = Flatten (pooled)
        y = Softmax <axis = 1> (flat)
    }
"""
_QUANTIZED = """
    <ir_version: 8, opset_import: ["" : 17]>
    quantized (float[N, 3, 8, 8] x) => (float[N, 8, 4, 4] y) {
        q = QuantizeLinear (x, s, z)
        d = DequantizeLinear (q, s, z)
        w = DequantizeLinear <axis = 0> (wq, ws, wz)
        y = Conv <pads = [1, 1, 1, 1], strides = [2, 2]> (d, w)
    }
"""


@dataclasses.dataclass(frozen=True)
class Mutation:
    """One damaged model.

    Attributes:
        number: Which one; base and kind are ``number`` modulo their counts.
        base: Name of the sound model.
        kind: Name of the damage.
        content: The file.
    """

    number: int
    base: str
    kind: str
    content: bytes


def mutation(number: int) -> Mutation:
    """The damaged model of that number."""
    bases = sound_models()
    names = sorted(bases)
    kinds = sorted(KINDS)
    kind = kinds[number % len(kinds)]
    base = names[number // len(kinds) % len(names)]
    chance = random.Random(f"{number} {kind}")  # not hash(): that differs from run to run
    return Mutation(number, base, kind, KINDS[kind](chance, bases[base]))


@functools.cache
def sound_models() -> dict[str, bytes]:
    """The models that are damaged, by name."""
    generator = np.random.default_rng(0)

    def normal(*shape: int) -> np.ndarray:
        return generator.standard_normal(shape).astype(np.float32)

    integers = generator.integers(-100, 100, (8, 3, 3, 3)).astype(np.int8)
    return {
        "branches": _with(_BRANCHES, w=normal(4, 3, 3, 3), b=normal(4)),
        "quantized": _with(
            _QUANTIZED,
            s=np.float32(0.02),
            z=np.uint8(128),
            wq=integers,
            ws=np.full(8, 0.01, np.float32),
            wz=np.zeros(8, np.int8),
        ),
        "small": ir.to_proto(small_network()).SerializeToString(),
    }


def _with(text: str, **arrays: np.ndarray) -> bytes:
    proto = onnx.parser.parse_model(text)
    proto.graph.initializer.extend(
        numpy_helper.from_array(np.asarray(array), name) for name, array in arrays.items()
    )
    return bytes(proto.SerializeToString())


def _truncated(chance: random.Random, data: bytes) -> bytes:
    return data[: chance.randrange(len(data))]


def _one_bit(chance: random.Random, data: bytes) -> bytes:
    return _flipped(chance, data, 1)


def _many_bits(chance: random.Random, data: bytes) -> bytes:
    return _flipped(chance, data, chance.randrange(2, 64))


def _one_bit_outside_the_weights(chance: random.Random, data: bytes) -> bytes:
    """Most of a file is weights, where a bit does no harm: aim at the graph around them."""
    proto = onnx.ModelProto.FromString(data)
    weights = [tensor.raw_data for tensor in proto.graph.initializer if len(tensor.raw_data) > 64]
    free = np.ones(len(data), bool)
    for raw in weights:
        start = data.find(raw)
        free[start : start + len(raw)] = False
    places = np.flatnonzero(free)
    damaged = bytearray(data)
    for _ in range(chance.randrange(1, 4)):
        damaged[places[chance.randrange(len(places))]] ^= 1 << chance.randrange(8)
    return bytes(damaged)


def _flipped(chance: random.Random, data: bytes, count: int) -> bytes:
    damaged = bytearray(data)
    for _ in range(count):
        damaged[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
    return bytes(damaged)


def _overwritten(chance: random.Random, data: bytes) -> bytes:
    start, length = _piece(chance, data)
    return data[:start] + chance.randbytes(length) + data[start + length :]


def _zeroed(chance: random.Random, data: bytes) -> bytes:
    start, length = _piece(chance, data)
    return data[:start] + bytes(length) + data[start + length :]


def _cut_out(chance: random.Random, data: bytes) -> bytes:
    start, length = _piece(chance, data)
    return data[:start] + data[start + length :]


def _repeated(chance: random.Random, data: bytes) -> bytes:
    start, length = _piece(chance, data)
    return data[: start + length] + data[start:]


def _inserted(chance: random.Random, data: bytes) -> bytes:
    start, length = _piece(chance, data)
    return data[:start] + chance.randbytes(length) + data[start:]


def _piece(chance: random.Random, data: bytes) -> tuple[int, int]:
    return chance.randrange(len(data)), chance.choice([1, 2, 8, 64, 512])


Kind = Callable[[random.Random, bytes], bytes]

_BYTES: tuple[Kind, ...] = (
    _truncated, _one_bit, _many_bits, _one_bit_outside_the_weights, _overwritten, _zeroed,
    _cut_out, _repeated, _inserted,
)  # fmt: skip


def _field(change: Callable[[random.Random, onnx.ModelProto], None]) -> Kind:
    """A change of the message as a change of the bytes."""

    @functools.wraps(change)
    def changed(chance: random.Random, data: bytes) -> bytes:
        proto = onnx.ModelProto.FromString(data)
        change(chance, proto)
        return bytes(proto.SerializeToString())

    return changed


#: Every kind of damage, by its name in words.
KINDS: dict[str, Kind] = {
    **{kind.__name__[1:].replace("_", " "): kind for kind in _BYTES},
    **{kind.__name__[1:].replace("_", " "): _field(kind) for kind in FIELDS},
}
BYTE_KINDS = frozenset(kind.__name__[1:].replace("_", " ") for kind in _BYTES)
