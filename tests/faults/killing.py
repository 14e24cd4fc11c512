"""`dvc repro` under SIGKILL: where it strikes is read from what the stages print."""

import os
import random
import re
import signal
import subprocess
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

from tests.e2e.graph import environment

REPRO = [sys.executable, "-m", "dvc", "repro"]
STAGE = re.compile(r"Running stage '(.+)'")
PROGRESS = re.compile(r".+: \d+ of \d+ \S+?,")  # units were finished


@dataclass(frozen=True)
class Kill:
    """One SIGKILL.

    Attributes:
        lines: of progress that the stage prints before it; 0 = while it starts and loads.
        delay: seconds after that line.
        victim: the stage; or all, DVC among them.
    """

    lines: int
    delay: float
    victim: str


def told(lines: list[str]) -> Counter[str]:
    """Lines of progress in an undisturbed run, by the stage that printed them."""
    found, stage = Counter[str](), ""
    for line in lines:
        if match := STAGE.search(line):
            stage = match[1]
        elif PROGRESS.match(line):
            found[stage] += 1
    return found


def planned(
    kills: Mapping[str, int], told: Mapping[str, int], rng: random.Random
) -> dict[str, list[Kill]]:
    """Kills by stage instance, so many of each stage as `kills` says, in seeded places.

    The n kills of an instance together fall within its lines, as what was finished before one of
    them is not printed again.
    """
    spread: dict[str, int] = defaultdict(int)
    for stage, number in kills.items():
        instances = sorted(name for name in told if name.split("@")[0] == stage)
        rng.shuffle(instances)
        for i in range(number):
            spread[instances[i % len(instances)]] += 1
    plan = {}
    for name, number in sorted(spread.items()):
        plan[name] = []
        for _ in range(number):
            victim = rng.choice(("stage", "all"))
            lines = rng.randint(0, max(1, told[name] // number))
            delay = rng.uniform(0.0, 0.3) if lines else rng.uniform(0.5, 4.0)
            plan[name].append(Kill(lines, delay, victim))
    return plan


class Repro:
    """`dvc repro` in a folder, again and again, until no kill is left and it ends by itself."""

    def __init__(self, folder: Path, plan: dict[str, list[Kill]]) -> None:
        self.folder, self.plan = folder, plan
        self.log: list[str] = []
        self.struck: list[str] = []
        self.starts = 0

    def run(self) -> None:
        while self._start():
            assert self.starts < 100, "the kills do not end"

    def _start(self) -> bool:
        """One `dvc repro`; True when it was killed."""
        self.starts += 1
        process = subprocess.Popen(
            REPRO, cwd=self.folder, env=environment() | {"PYTHONUNBUFFERED": "1"}, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip
        assert process.stdout is not None
        killed = self._watch(process, iter(process.stdout))
        process.wait(timeout=60)
        said = "".join(self.log[-60:])
        assert killed == (process.returncode != 0), f"{self.struck}, {process.returncode}: {said}"
        return killed

    def _watch(self, process: subprocess.Popen[str], lines: Iterator[str]) -> bool:
        """Kills as planned; True when the run does not end by itself."""
        stage, kill, seen, killed = "", None, 0, False
        for line in lines:
            self.log.append(line)
            starts = STAGE.search(line)
            if killed and starts:
                killed = False  # the last stage had done its work: nothing was disturbed
                self.struck.pop()
            if killed:
                continue  # what was under way
            if starts:
                stage, seen = starts[1], 0
                kill = next(iter(self.plan.get(stage, [])), None)
            seen += PROGRESS.match(line) is not None
            if kill and seen == kill.lines:
                time.sleep(kill.delay)
                if strike(process, kill.victim):
                    self.struck.append(f"{stage} {kill}")
                    self.plan[stage].pop(0)
                    killed = True
                kill = None
        return killed


def strike(process: subprocess.Popen[str], victim: str) -> bool:
    """Kills one of the processes below `dvc repro`, or all; False when the stage has ended."""
    below = psutil.Process(process.pid).children(recursive=True)
    chosen = [child for child in below if "stages." in commandline(child)]
    if not chosen:
        return False
    if victim == "all":
        os.killpg(process.pid, signal.SIGKILL)
    for child in chosen:
        with suppress(psutil.NoSuchProcess):
            child.kill()
    psutil.wait_procs(below, timeout=20)  # DVC asks which run
    return True


def commandline(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""
