"""Command lines: params in, clear errors and exit codes out."""

import functools
import inspect
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer

from em_geometry.errors import UserError, redacted
from em_geometry.project.paths import PARAMS as PARAMS  # for commands: where --params looks

# Plain help: the coloured one takes as long to load as all the rest.
PLAIN: dict[str, Any] = {
    "add_completion": False, "pretty_exceptions_enable": False, "rich_markup_mode": None,
}  # fmt: skip
# Keys of ours; libraries quote headers in their errors. The AWS pair is that of `dvc push`.
ParamsFile = Annotated[Path, typer.Option("--params", help="The active profile.")]
Main = TypeVar("Main", bound=Callable[..., None])
Slugs = Annotated[list[str] | None, typer.Argument(help="Slugs; all, where none is named.")]


def stage(main: Main) -> Main:
    """Marks a stage's `main(params)` or `main(params, *slugs)`, the last function of its file.

    Where the file is run (`python -m stages.<stage>`), it runs with what the command line says.
    """
    if main.__module__ == "__main__":
        command_line(main)()
    return main


def command_line(main: Callable[..., None]) -> typer.Typer:
    """The command line of a stage; its help is the docstring of the stage's file."""
    from em_geometry.settings import load_params

    def plain(params: ParamsFile = PARAMS) -> None:
        main(load_params(params, whole=False))

    def named(slugs: Slugs = None, params: ParamsFile = PARAMS) -> None:
        main(load_params(params, whole=False), *(slugs or ()))

    function = (main, plain, named)[len(inspect.signature(main).parameters)]
    return application(function, help=sys.modules[main.__module__].__doc__)


def application(function: Callable[..., Any], help: str | None = None) -> typer.Typer:
    """The Typer application of one function; without `help`, its docstring says what it does."""
    app = typer.Typer(**PLAIN)
    app.command(help=help)(command(function))
    return app


def command(function: Callable[..., Any]) -> Callable[..., Any]:
    """Wraps a command: a UserError is printed (exit 2); Ctrl-C and SIGTERM end cleanly."""

    @functools.wraps(function)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        ended: list[int] = []

        def terminate(number: int, frame: Any) -> None:
            """As Ctrl-C, which asyncio handles too: work under way is cancelled first.

            It prints nothing itself, as it may meet a print under way.
            """
            ended.append(number)
            interrupt = signal.getsignal(signal.SIGINT)
            if not callable(interrupt):  # ignored, as in the background of a script
                raise KeyboardInterrupt
            interrupt(signal.SIGINT, frame)

        signal.signal(signal.SIGTERM, terminate)
        try:
            return function(*args, **kwargs)
        except UserError as error:
            print(redacted(str(error)), file=sys.stderr)
            raise SystemExit(2) from None
        except KeyboardInterrupt:
            word, status = ("terminated", 143) if ended else ("interrupted", 130)
            print(f"{word}; finished units are kept in the journal", file=sys.stderr)
            raise SystemExit(status) from None

    return wrapped
