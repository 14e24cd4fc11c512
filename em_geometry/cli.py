"""The `em-geometry` command: what is no stage of the graph.

    em-geometry plan --usd-per-hour 2.5
    python -m em_geometry.cli plan --usd-per-hour 2.5

A subcommand's module is imported when the subcommand is called, so that `--help` is quick.
"""

import importlib
from typing import Any

import typer
from typer.core import TyperGroup
from typer.main import get_command

from em_geometry.project.command import PLAIN, application

# name: (its function in em_geometry.project, or its Typer application; what it does)
COMMANDS = {
    "analyse": ("analyse:analyse", "The five tests beside chance and power, on any vectors."),
    "batch": ("rejudge:batch", "Judge answers through OpenAI's Batch API."),
    "chats": ("chats:app", "Chats of other formats as training files."),
    "check": ("check:cli", "All that can be known to go wrong, before work begins."),
    "export": ("export:cli", "Answers, scores and vectors as files of other tools."),
    "new": ("new:new", "Begin a study of your own vectors, adapters or chats."),
    "families": ("families:cli", "Keep this run's numbers, and print them beside other models'."),
    "page": ("results_page:cli", "Fill the numbers of docs/results-<name>.md from this run."),
    "papers": ("published:papers", "Papers, and what several of them make claims about."),
    "paper-tag": ("paper_tag:cli", "Write the Git tag of `dvc metrics diff paper`."),
    "plan": ("plan:plan", "What the active profile will cost."),
    "profile": ("profile:switch", "Make a profile the active one."),
    "published": ("published:cli", "Recompute a paper's claims from its own numbers."),
    "readme": ("readme:cli", "Write the verdict of this run into README.md."),
    "rejudge": ("rejudge:cli", "Score existing answers with another judge."),
    "screen": ("screen:screen", "Score each text of a chat file before training on it."),
    "status": ("plan:status", "What of the run is done, and what remains."),
    "steer": ("steer:cli", "Answer with and without a steering vector."),
    "verdict": ("readme:verdict", "What the paper claims, what follows, what this run shows."),
    "verify-cache": ("verify_cache:cli", "Check DVC's cache and remote for damage."),
}


class Subcommands(TyperGroup):
    """Puts the real command in place of the name and summary that the list shows."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """The command that the first argument names, and the arguments after it."""
        name, _, rest = super().resolve_command(ctx, args)
        module, attribute = COMMANDS[args[0]][0].split(":")
        found = getattr(importlib.import_module(f"em_geometry.project.{module}"), attribute)
        wrapped = found if isinstance(found, typer.Typer) else application(found)
        return name, get_command(wrapped), rest


app = typer.Typer(
    **PLAIN,
    cls=Subcommands,
    no_args_is_help=True,
    help="Commands on a project of EM Geometry; `dvc repro` runs the analysis itself.",
)
for _name, (_, _summary) in COMMANDS.items():
    app.command(_name, help=_summary)(lambda: None)

if __name__ == "__main__":
    app()
