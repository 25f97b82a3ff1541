"""The Typer application and the commands that hang on it."""

from __future__ import annotations

from typing import Annotated

import typer

from onnxsep.cli.bench import bench_command
from onnxsep.cli.check import check_command
from onnxsep.cli.compare import compare_command
from onnxsep.cli.doctor import doctor_command
from onnxsep.cli.inspect import inspect_command
from onnxsep.cli.optimize import optimize_command
from onnxsep.cli.targets import targets_command

app = typer.Typer(
    name="onnxsep",
    help="Make a convolutional ONNX model smaller and faster, and prove it.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("optimize")(optimize_command)
app.command("bench")(bench_command)
app.command("inspect")(inspect_command)
app.command("compare")(compare_command)
app.command("check")(check_command)
app.command("targets")(targets_command)
app.command("doctor")(doctor_command)


def _print_version(wanted: bool) -> None:
    if wanted:
        import importlib.metadata

        typer.echo(f"onnxsep {importlib.metadata.version('onnxsep')}")
        raise typer.Exit


@app.callback()
def _common(
    version: Annotated[
        bool,
        typer.Option(
            "--version",
            help="Print the version and leave.",
            is_eager=True,
            callback=_print_version,
        ),
    ] = False,
) -> None:
    del version
