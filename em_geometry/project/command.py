"""The command line of a stage: params in, clear errors and exit codes out."""

from __future__ import annotations

import functools
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Annotated, Any

import typer

from em_geometry.errors import UserError
from em_geometry.project.paths import PARAMS as PARAMS  # for stages: where --params looks

# Plain help: the coloured one takes as long to load as all the rest.
PLAIN: dict[str, Any] = {
    "add_completion": False, "pretty_exceptions_enable": False, "rich_markup_mode": None,
}  # fmt: skip
# Keys of ours; libraries quote headers in their errors. The AWS pair is that of `dvc push`.
SECRETS = ("OPENAI_API_KEY", "HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "AWS_SECRET_ACCESS_KEY")
ParamsFile = Annotated[Path, typer.Option("--params", help="The active profile.")]
Targets = Annotated[
    list[str] | None, typer.Argument(help="Slugs of targets; all, where none is named.")
]


def command(function: Callable[..., Any]) -> Callable[..., Any]:
    """Wraps a command: a UserError is printed (exit 2); Ctrl-C and SIGTERM end cleanly."""

    @functools.wraps(function)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        signal.signal(signal.SIGTERM, _terminate)
        try:
            return function(*args, **kwargs)
        except UserError as error:
            print(redacted(str(error)), file=sys.stderr)
            raise SystemExit(2) from None
        except KeyboardInterrupt:
            print("interrupted; finished units are kept in the journal", file=sys.stderr)
            raise SystemExit(130) from None
        except _Terminated:
            print("terminated; finished units are kept in the journal", file=sys.stderr)
            raise SystemExit(143) from None

    return wrapped


def redacted(text: str) -> str:
    """`text` with the values of `SECRETS` replaced by the variables' names."""
    for name in SECRETS:
        value = os.environ.get(name, "").strip()
        if value:
            text = text.replace(value, f"<{name}>")
    return text


class _Terminated(SystemExit):
    """SIGTERM, told where it is caught: a handler that prints can meet a print under way."""


def _terminate(number: int, frame: FrameType | None) -> None:
    raise _Terminated(143)


def run(function: Callable[..., Any]) -> None:
    """Runs one function as a Typer command (`python -m stages.<stage>`)."""
    application(function)()


def application(function: Callable[..., Any]) -> typer.Typer:
    """The Typer application of one function."""
    app = typer.Typer(**PLAIN)
    app.command()(command(function))
    return app
