"""Verbs about model files."""

from pathlib import Path
from typing import Annotated

import msgspec
import typer

from veilsum.cli.output import Printer
from veilsum.errors import ConfigError


def register(app: typer.Typer) -> None:
    """Add the verbs of this module."""
    group = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Models that jobs train or query.")
    group.command("show")(model_show)
    group.command("import-onnx")(model_import_onnx)
    app.add_typer(group, name="model")


def model_show(
    ctx: typer.Context,
    file: Annotated[Path, typer.Argument(help="A model file (.vsm).", dir_okay=False)],
) -> None:
    """Show a model's digest, which jobs agree on, and its layers; weights are not shown."""
    from veilsum.learn.model import Model
    from veilsum.node import architecture

    printer: Printer = ctx.obj
    model = Model.load(file)
    graph = model.graph
    inputs = {name: architecture.in_words(value.shape) for name, value in graph.inputs.items()}
    printer.say(f"digest  {graph.digest().hex()}")
    printer.say(
        f"public  {architecture.weights_digest(model)}  (of the weights, where a job makes them public)"
    )
    for name, shape in inputs.items():
        printer.say(f"input   {name}: {shape}")
    layers = architecture.layers(graph)
    printer.table(["layer", "operation", "result", "numbers"], [list(layer) for layer in layers])
    printer.say(f"{sum(layer.numbers for layer in layers):,} numbers in weights")
    printer.result(
        {
            "digest": graph.digest().hex(),
            "public": architecture.weights_digest(model),
            "inputs": inputs,
            "layers": [layer._asdict() for layer in layers],
            "graph": msgspec.to_builtins(graph),
        }
    )


def model_import_onnx(
    ctx: typer.Context,
    file: Annotated[Path, typer.Argument(help="An ONNX file.", dir_okay=False)],
    *,
    output: Annotated[Path, typer.Option("--output", "-o", help="The model file to write.")] = Path(
        "model.vsm"
    ),
) -> None:
    """Convert an ONNX file to a model file; what cannot be computed on shares is refused by its place."""
    from veilsum.learn.from_onnx import from_onnx

    printer: Printer = ctx.obj
    if output.exists():
        raise ConfigError(f"{output} exists already", remedy="give another name with --output")
    model = from_onnx(file)
    model.save(output)
    digest = model.graph.digest().hex()
    printer.say(f"wrote {output}")
    printer.say(f"digest  {digest}")
    printer.result({"written": str(output), "digest": digest})
