"""Conversion of notebooks from text to `.ipynb`, and their execution without a browser.

A notebook is edited only as `notebooks/NN_name.py`, in jupytext's `py:percent` format. The `.ipynb`
beside it is generated, without outputs, for Colab and for readers on the web.

`execute` runs a notebook through papermill, in the notebook's own folder as Jupyter does. It is
stricter than papermill: an unknown parameter is an error, a failure names its cell, and the output
is written atomically.

jupytext and papermill belong to the extra `book` and are imported where they are used, so that the
command line works without them.
"""

from __future__ import annotations

import ast
import re
import signal
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated

import typer

from ttame.errors import TTameError, suggest
from ttame.files import replacing

if TYPE_CHECKING:
    from nbformat import NotebookNode

__all__ = ["NotebookError", "convert", "execute", "parameters_of", "write_ipynb"]
app = typer.Typer(help="Convert and execute the book's notebooks.", no_args_is_help=True)
HEADING = re.compile(r"^#{1,6} +(.+?) *#*$", re.MULTILINE)


class NotebookError(TTameError):
    """Notebook that cannot be read, parameterised or executed; the message says where and why."""


@contextmanager
def _book_extra() -> Iterator[None]:
    """Report a missing optional dependency with the command that installs it."""
    try:
        yield
    except ModuleNotFoundError as error:
        message = f"{error.name} is missing: install the book extra, pip install 'ttame[book]'"
        raise NotebookError(message) from error


def convert(source: Path) -> NotebookNode:
    """Read a `py:percent` notebook, without outputs and deterministically.

    Raises:
        NotebookError: If the file is missing, or its header names no kernel.
    """
    with _book_extra():
        import jupytext
    if not source.is_file():
        raise NotebookError(f"{source}: no such notebook")
    notebook: NotebookNode = jupytext.read(source, fmt="py:percent")
    kernel = notebook.metadata.get("kernelspec")
    if not kernel:
        raise NotebookError(f"{source}: the header names no kernelspec")
    notebook.metadata.clear()  # what else jupytext notes there changes with its version
    notebook.metadata["kernelspec"] = {"language": "python", **kernel}
    notebook.metadata["language_info"] = {"name": "python"}
    notebook.nbformat, notebook.nbformat_minor = 4, 5
    for number, cell in enumerate(notebook.cells, start=1):
        # jupytext draws random identifiers, which would change the file at every conversion.
        cell["id"] = f"cell-{number:02d}"
        cell.metadata.pop("lines_to_next_cell", None)
        if cell.cell_type == "code":  # a note to the formatter of the sources, not to readers
            cell.source = cell.source.replace("  # fmt: skip", "")
    return notebook


def write_ipynb(source: Path, target: Path | None = None) -> Path:
    """Write the `.ipynb` of a source, by default beside it, and return its path."""
    target = target or source.with_suffix(".ipynb")
    _write(convert(source), target)
    return target


def _write(notebook: NotebookNode, target: Path) -> None:
    import nbformat

    with replacing(target) as temporary:
        nbformat.write(notebook, temporary)  # type: ignore[no-untyped-call]


def parameters_of(notebook: NotebookNode, name: str) -> dict[str, object]:
    """Read the names and defaults in the cell tagged `parameters` of the notebook `name`.

    Raises:
        NotebookError: If there is not exactly one such cell, or it assigns anything but literals:
            a value computed from another would not follow when papermill overrides that one.
    """
    tagged = [cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", [])]
    if len(tagged) != 1:
        raise NotebookError(f"{name}: {len(tagged)} cells are tagged 'parameters', not one")
    values: dict[str, object] = {}
    for statement in ast.parse(tagged[0].source).body:
        match statement:
            case (
                ast.Assign(targets=[ast.Name(id=key)], value=value)
                | ast.AnnAssign(target=ast.Name(id=key), value=ast.expr() as value)
            ) if _is_literal(value):
                values[key] = ast.literal_eval(value)
            case _:
                line = ast.unparse(statement)
                raise NotebookError(f"{name}: the parameters cell may only set literals: {line!r}")
    return values


def _is_literal(value: ast.expr) -> bool:
    with suppress(ValueError):
        ast.literal_eval(value)
        return True
    return False


def _changed(
    given: Mapping[str, object], defaults: Mapping[str, object], name: str
) -> dict[str, object]:
    """Check each given parameter's name and type, and keep those that differ from the default."""
    for key, value in given.items():
        if key not in defaults:
            known = ", ".join(defaults)
            hint = suggest(key, defaults)
            raise NotebookError(f"{name}: unknown parameter {key!r}, known: {known}.{hint}")
        default = defaults[key]
        whole_for_real = isinstance(default, float) and type(value) is int
        if not (None in (value, default) or type(value) is type(default) or whole_for_real):
            kind = type(default).__name__
            raise NotebookError(f"{name}: parameter {key!r} is of type {kind}, not {value!r}")
    return {key: value for key, value in given.items() if value != defaults[key]}


def execute(source: Path, output: Path, parameters: Mapping[str, object]) -> None:
    """Execute a notebook in its own folder and write it with its outputs.

    What it took goes into its metadata under `cost`, where the system counts it: the CPU time of
    the kernel and its processes in seconds, and the peak memory of the largest in MB.

    Args:
        source: Source of the notebook, `.py`.
        output: Output file, `.ipynb`, written only once the last cell has succeeded.
        parameters: Values of the notebook's parameters, by name.

    Raises:
        NotebookError: If a parameter is unknown, a cell fails (with its traceback as a note) or the
            kernel dies.
    """
    with _book_extra():
        import papermill
        from nbclient.exceptions import DeadKernelError

    name = source.stem
    notebook = convert(source)
    changed = _changed(parameters, parameters_of(notebook, name), name)
    progress = CellProgress(name, notebook)
    before = _children()
    try:
        executed = papermill.execute_notebook(
            notebook,
            None,  # papermill would write as it goes
            parameters=changed,
            cwd=source.parent,
            progress_bar=False,
            on_cell_start=progress.started,
            # ipykernel warns at every start that its loopback sockets are not encrypted.
            extra_arguments=["--IPKernelApp.log_level=ERROR"],
        )
    except papermill.PapermillExecutionError as error:
        lines = (line.strip() for line in error.source.splitlines())
        line = next((line for line in lines if line and not line.startswith("#")), "")
        where = f"{source}: cell {progress.step} of {len(progress.headings)}, {line!r}"
        failure = NotebookError(f"{where}, failed: {error.ename}: {error.evalue}")
        failure.add_note("\n".join(error.traceback))
        raise failure from None
    except DeadKernelError as error:
        message = f"{source}: the kernel died in cell {progress.step}, perhaps out of memory"
        raise NotebookError(message) from error
    _fold_parameters(executed)
    after = _children()
    if before and after:
        executed.metadata["cost"] = {
            "cpu_seconds": round(after[0] - before[0], 1),
            "peak_mb": round(after[1] / 1e6),
        }
    _write(executed, output)
    progress.finished("" if after is None else f", at most {after[1] / 1e9:.1f} GB of memory")


def _fold_parameters(executed: NotebookNode) -> None:
    """Show the cell of changed parameters, which papermill adds, as that of their defaults."""
    tags = [cell.metadata.tags for cell in executed.cells]
    defaults = next(found for found in tags if "parameters" in found)
    for found in tags:
        if "injected-parameters" in found:
            found += [tag for tag in defaults if tag != "parameters"]


@contextmanager
def _errors_to_stderr() -> Iterator[None]:
    """End the command with one clear message; SIGTERM also stops the kernel."""

    def stop(signum: int, frame: FrameType | None) -> None:
        raise SystemExit(128 + signum)

    signal.signal(signal.SIGTERM, stop)
    try:
        yield
    except TTameError as error:
        print(*getattr(error, "__notes__", []), f"error: {error}", sep="\n", file=sys.stderr)
        raise typer.Exit(1) from None


@app.command("execute")
def execute_command(
    source: Annotated[Path, typer.Argument(help="Source of the notebook, .py.")],
    output: Annotated[Path, typer.Argument(help="Output file, .ipynb.")],
    parameter: Annotated[
        list[str] | None,
        typer.Option(
            "--parameter", "-p", metavar="NAME=VALUE", help="Parameter to override; repeatable."
        ),
    ] = None,
) -> None:
    """Execute a notebook without a browser and write it with its outputs."""
    values: dict[str, object] = {}
    with _errors_to_stderr():
        for item in parameter or []:
            key, equals, text = item.partition("=")
            if not equals:
                raise NotebookError(f"a parameter is given as NAME=VALUE, not {item!r}")
            try:
                values[key] = ast.literal_eval(text)
            except (SyntaxError, ValueError):
                values[key] = text
        execute(source, output, values)


@app.command("convert")
def convert_command(
    sources: Annotated[list[Path], typer.Argument(help="Sources of the notebooks, .py.")],
) -> None:
    """Regenerate the .ipynb beside each source, without outputs."""
    with _errors_to_stderr():
        for source in sources:
            print(write_ipynb(source))


class CellProgress:
    """Print the running notebook and cell, and the estimated time left."""

    def __init__(self, name: str, notebook: NotebookNode) -> None:
        self.name = name
        self.headings: dict[str, str] = {}  # over every code cell, by the cell's identifier
        heading = ""
        for cell in notebook.cells:
            if cell.cell_type == "markdown" and (found := HEADING.findall(cell.source)):
                heading = found[-1]
            elif cell.cell_type == "code" and cell.source.strip():
                self.headings[cell["id"]] = heading
        self.step = 0
        self.began = time.monotonic()

    def started(self, cell: NotebookNode, cell_index: int) -> None:
        """Report a cell; called by nbclient. The cell that papermill inserts is not counted."""
        if cell["id"] not in self.headings:
            return
        # The cost of later cells is unknown; they are assumed to take as long as earlier ones.
        spent = time.monotonic() - self.began
        left = spent / self.step * (len(self.headings) - self.step) if self.step else None
        self.step += 1
        rest = "" if left is None else f", about {_duration(left)} left"
        heading = self.headings[cell["id"]]
        print(f"{self.name}: cell {self.step} of {len(self.headings)}, {heading}{rest}", flush=True)

    def finished(self, memory: str) -> None:
        """Report the end; called once the kernel has ended."""
        spent = _duration(time.monotonic() - self.began)
        print(f"{self.name}: done in {spent}{memory}", flush=True)


def _children() -> tuple[float, int] | None:
    """CPU seconds of all ended processes that ran for this one, and bytes of the largest."""
    try:
        import resource
    except ModuleNotFoundError:  # of Unix alone
        return None
    unit = 1 if sys.platform == "darwin" else 1024  # bytes
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime, used.ru_maxrss * unit


def _duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 100 else f"{seconds / 60:.0f} min"


if __name__ == "__main__":
    app()
