"""`make audit`: the pinned packages against published advisories.

    python -m stages.common.audit

Asks the OSV database (https://osv.dev, which holds PyPI's advisories) once for all lines of
requirements.lock. Exits with 1 when one is affected. Where the database cannot be reached, it
says that nothing was checked and exits with 0: a build does not fail for want of a network.
"""

from __future__ import annotations

import json
import re
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated

import typer

from stages.common.command import run
from stages.common.errors import UserError, first_line

LOCK = Path("requirements.lock")
SERVICE = "https://api.osv.dev/v1/querybatch"
TIMEOUT_S = 30.0
PIN = re.compile(r"([A-Za-z0-9][A-Za-z0-9._-]*)(?:\[[^\]]*\])?==([^\s;#]+)")


def read_lock(path: Path) -> list[tuple[str, str]]:
    """(package, version) of every line; UserError for a line that is no pin."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(
            "the lock cannot be read", where=str(path), found=first_line(error),
            expected="lines of name==version",
        ) from None  # fmt: skip
    pins = []
    for number, line in enumerate(lines, start=1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        found = PIN.match(line.strip())
        if found is None:
            raise UserError(
                "a line of the lock pins no version", where=f"{path}, line {number}",
                found=line.strip(), expected="name==version",
            )  # fmt: skip
        pins.append((found[1], found[2].partition("+")[0]))  # 2.13.0+cpu has 2.13.0's advisories
    if not pins:
        raise UserError(
            "the lock holds no package", where=str(path), found="0 pins", expected="name==version"
        )
    return pins


def ask(pins: Sequence[tuple[str, str]], service: str) -> list[list[str]]:
    """Ids of the advisories on each pin, in order.

    Raises:
        OSError, ValueError: no service there, or one that answers something else.
    """
    queries = [{"package": {"ecosystem": "PyPI", "name": n}, "version": v} for n, v in pins]
    request = urllib.request.Request(  # noqa: S310 (the user's own service, or the constant)
        service,
        data=json.dumps({"queries": queries}).encode(),
        headers={"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=TIMEOUT_S) as reply:  # noqa: S310
        said = json.load(reply)
    results = said.get("results") if isinstance(said, Mapping) else None
    if not isinstance(results, list) or len(results) != len(pins):
        raise ValueError("an answer of another shape")
    return [sorted(str(v["id"]) for v in result.get("vulns") or []) for result in results]


def main(lock: Path, service: str) -> bool:
    """Prints what is known about the pinned packages; False when one is affected."""
    pins = read_lock(lock)
    try:
        found = ask(pins, service)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        print(f"not checked: {service} cannot be asked ({first_line(error)})")
        return True
    affected = [(pin, ids) for pin, ids in zip(pins, found, strict=True) if ids]
    for (name, version), ids in affected:
        print(f"{name}=={version}: " + ", ".join(f"https://osv.dev/{i}" for i in ids))
    print(f"{len(pins)} packages checked, {len(affected)} with advisories")
    return not affected


def cli(
    lock: Annotated[Path, typer.Option(help="The pinned packages.")] = LOCK,
    service: Annotated[str, typer.Option(help="An OSV service's batch query.")] = SERVICE,
) -> None:
    """Check the pinned packages against published advisories (needs the network)."""
    if not main(lock, service):
        raise typer.Exit(1)


if __name__ == "__main__":
    run(cli)
