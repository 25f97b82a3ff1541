"""The command line: parse, call the library, render. Nothing heavy is imported early."""

from __future__ import annotations

import errno
import os
import sys

_INTERRUPTED = 130


def main() -> None:
    """Entry point of the ``onnxsep`` command: every ending has an exit code and one sentence."""
    debug = "--debug" in sys.argv[1:]
    try:
        # Inside the try, because Ctrl-C may come while modules are still being read.
        from onnxsep.cli.app import app
        from onnxsep.cli.console import print_error
        from onnxsep.errors import OnnxsepError
    except KeyboardInterrupt:
        sys.stderr.write("error: interrupted; nothing was written\n")
        raise SystemExit(_INTERRUPTED) from None
    try:
        app()
    except OnnxsepError as error:
        if debug:
            raise
        print_error(*error.lines)
        raise SystemExit(error.exit_code) from None
    except KeyboardInterrupt:
        print_error("interrupted")
        raise SystemExit(_INTERRUPTED) from None
    except MemoryError:
        if debug:
            raise
        print_error("out of memory; use fewer --samples")
        raise SystemExit(1) from None
    except BrokenPipeError:
        # Who reads our table may stop reading; the interpreter must not complain at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except OSError as error:
        if debug:
            raise
        print_error(_sentence(error))
        raise SystemExit(6) from None


def _sentence(error: OSError) -> str:
    """What the system refused, where our own code did not foresee it."""
    reason = error.strerror or str(error)
    if error.filename is not None:
        return f"{os.fsdecode(error.filename)}: {reason}"
    if error.errno == errno.ENOSPC:
        import tempfile

        return (
            f"{reason}: standard output or the temporary folder {tempfile.gettempdir()} is full; "
            "make room, or set TMPDIR to another folder"
        )
    return f"cannot write to standard output: {reason}"
