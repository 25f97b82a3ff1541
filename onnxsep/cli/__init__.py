"""The command line: parse, call the library, render. Nothing heavy is imported early."""

from __future__ import annotations

import sys

from onnxsep.cli.app import app
from onnxsep.cli.console import print_error
from onnxsep.errors import OnnxsepError


def main() -> None:
    """Entry point of the ``onnxsep`` command."""
    debug = "--debug" in sys.argv[1:]
    try:
        app()
    except OnnxsepError as error:
        if debug:
            raise
        print_error(str(error))
        raise SystemExit(error.exit_code) from None
    except MemoryError:
        if debug:
            raise
        print_error("out of memory; use fewer --samples")
        raise SystemExit(1) from None
