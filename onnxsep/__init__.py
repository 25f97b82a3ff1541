"""Makes a finished convolutional ONNX model smaller and faster, and proves it.

The functions here mirror the commands of the same name::

    import onnxsep

    result = onnxsep.optimize("model.onnx", data="photos/", max_drop=0.5)
    result.save("model.onnxsep.onnx")

They are read when they are first asked for, so that ``import onnxsep`` costs nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from onnxsep.api import (
        benchmark,
        check,
        compare,
        diagnose,
        inspect,
        list_targets,
        optimize,
    )
    from onnxsep.data import Preprocessing
    from onnxsep.errors import OnnxsepError
    from onnxsep.model import load_model, save_model
    from onnxsep.pipeline import Result
    from onnxsep.reporting import write_report

    __version__: str

# No submodule may bear one of these names: importing it would put the module in the name's place.
_HOMES = {
    "OnnxsepError": "onnxsep.errors",
    "Preprocessing": "onnxsep.data",
    "Result": "onnxsep.pipeline",
    "benchmark": "onnxsep.api",
    "check": "onnxsep.api",
    "compare": "onnxsep.api",
    "diagnose": "onnxsep.api",
    "inspect": "onnxsep.api",
    "list_targets": "onnxsep.api",
    "load_model": "onnxsep.model",
    "optimize": "onnxsep.api",
    "save_model": "onnxsep.model",
    "write_report": "onnxsep.reporting",
}

__all__ = [
    "OnnxsepError",
    "Preprocessing",
    "Result",
    "benchmark",
    "check",
    "compare",
    "diagnose",
    "inspect",
    "list_targets",
    "load_model",
    "optimize",
    "save_model",
    "write_report",
]

# Hidden from type checkers, which would take it as leave to ask for any name.
if not TYPE_CHECKING:

    def __getattr__(name: str) -> object:
        import importlib

        if name == "__version__":
            import importlib.metadata

            value: object = importlib.metadata.version("onnxsep")
        elif name in _HOMES:
            value = getattr(importlib.import_module(_HOMES[name]), name)
        else:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        globals()[name] = value
        return value

    def __dir__() -> list[str]:
        return sorted({*globals(), *__all__, "__version__"})
