"""What the page's sentences and cautions are about: the results that they name."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from em_geometry.report.tables import Names, Results, layout
from em_geometry.report.text import decimals, joined
from em_geometry.stats.estimate import Estimate

NAMED = 6  # intervals or ratios that the first lines name; the rest is one click away
Named = tuple[str, Estimate]


@dataclass(frozen=True)
class Caution:
    """Something to be careful with; `page/sentences.html.j2` has the words.

    Attributes:
        kind: which caution.
        about: what its sentence is about.
        items: what it names, the most important first.
    """

    kind: str
    about: Sequence[str | Estimate] = ()
    items: Sequence[str] = ()

    @property
    def first(self) -> str:
        """The items that the first lines name, with the number of the others."""
        shown = self.items if self.kind == "quiet" else self.items[:NAMED]
        rest = len(self.items) - len(shown)
        return "; ".join(shown) + f"; and {rest} more" if rest else joined(shown)


def findings(found: Results, model: str) -> Names:
    """What the sentences use beside single results."""
    asymmetries = _numbers(found, "transfer", "asymmetry")
    changes = _all(found, "transfer", "risk_difference")
    tests = layout()["words"]["tests"]
    told = (found.word(f"calibration:power.{test}.verdict_paper") for test in tests)
    return {
        "told": [verdict for verdict in told if verdict],
        "rates": sorted(_rates(found), key=lambda r: r[1].value or 0.0),
        "cross": [e for k, e in changes if len({*k.split("__")}) == 2],
        "largest": max(asymmetries, key=lambda a: a[1].value or 0.0, default=None),
        "trained": list(trained(found)),
        "moved": lambda aspect: moved(found, aspect),
        "cautions": list(cautions(found, model)),
    }


def _all(found: Results, stage: str, path: str) -> list[Named]:
    """Results right under a key, by name."""
    rows = found.metrics.group(stage, path).items()
    return [(key, e) for key, e in rows if "." not in key]


def _numbers(found: Results, stage: str, path: str) -> list[Named]:
    return [(key, e) for key, e in _all(found, stage, path) if e.value is not None]


def _rates(found: Results) -> Iterator[Named]:
    """Unsteered rates of the organisms that have one."""
    for slug in found.params.slugs("organism"):
        rate = found.estimate(f"baseline:{slug}.em_betley")
        if found.has(f"baseline:{slug}.above_controls") and rate.value is not None:
            yield slug, rate


def moved(found: Results, aspect: str) -> tuple[str, int, list[Named]]:
    """What an aspect is compared with, of how many vectors, and those that move it apart."""
    for path, against in (
        ("beyond_random", "a random direction of the same norm"),
        ("change", "no steering"),
    ):
        effects = _all(found, "aspects", f"{path}.{aspect}")
        if effects:
            apart = [
                (source, e)
                for source, e in effects
                if e.low is not None and e.high is not None and not e.low <= 0 <= e.high
            ]
            return against, len(effects), sorted(apart, key=lambda a: -abs(a[1].value or 0.0))
    return "no steering", 0, []


def trained(found: Results) -> Iterator[Names]:
    """Organisms that were measured while they were being trained on some bad data."""
    for slug in dict.fromkeys(n["slug"] for n in found.each("monitoring:{slug}.{mix}.checkpoint")):
        paths = [
            f"monitoring:{slug}.{n['mix']}"
            for n in found.each(f"monitoring:{slug}.{{mix}}.detector")
        ]
        shares = [path.rpartition("mix_")[2] for path in paths]
        steps = [
            f"{path}.checkpoint.{s}.n" for path in paths for s in found.names(f"{path}.checkpoint")
        ]
        yield {
            "slug": slug,
            "shares": shares,
            "own": _left(found, [f"{path}.detector.own" for path in paths]),
            "unseen": _left(found, [f"{path}.detector.unseen_k" for path in paths]),
            "behaviour": joined([_since(found, f"{path}.behaviour.first_step") for path in paths]),
            "answers": max((found.value(step) or 0.0 for step in steps), default=0.0),
        }


def _left(found: Results, detectors: Sequence[str]) -> str:
    """`from step 7 and never (AUROC over checkpoints 0.90 and 0.40)`."""
    words = [word for key in detectors if (word := found.word(key))]
    if words:
        return words[0]
    areas = [decimals(found.value(f"{key}.auroc_checkpoints") or 0.0, 2) for key in detectors]
    since = joined([_since(found, f"{key}.first_step") for key in detectors])
    return f"{since} (AUROC over checkpoints {joined(areas)})"


def _since(found: Results, key: str) -> str:
    step = found.estimate(key)
    return step.status if step.value is None else f"from step {step.value:.0f}"


def cautions(found: Results, model: str) -> Iterator[Caution]:
    """What a reader must know before any number, the most serious first."""
    gate = found.word("judge:gate")
    if gate is None:
        yield Caution("no gate")
    elif gate != "passed":
        yield Caution("gate", [gate])
    above = {s: found.word(f"baseline:{s}.above_controls") for s in found.params.slugs("organism")}
    quiet = [slug for slug, said in above.items() if said not in (None, "yes")]
    if quiet:
        yield Caution("quiet", items=quiet)
    contrast = found.word("layer_sweep:contrast")
    beyond = found.estimate(f"layer_sweep:efficacy.{contrast}.beyond_random")
    if beyond.value is not None and not (beyond.low is not None and beyond.low > 0):
        yield Caution("weak", [beyond])
    every, limit = list(_intervals(found)), found.params.report.wide_interval
    wide = [f"{k} ({decimals(e.width, 0)} points)" for k, e in every if e.width and e.width > limit]
    if wide:
        yield Caution("wide", [str(len(wide)), str(len(every))], wide)
    undefined = [label for label, e in every if e.value is None]
    if undefined:
        yield Caution("undefined", [str(len(undefined))], undefined)
    yield Caution("the paper's model" if "llama" in model.lower() else "model", [model])


def _intervals(found: Results) -> Iterator[Named]:
    """Every number with an interval, by name; named pairs and groups first."""
    named = found.names("transfer:named_pair")
    for path in ("named_pair", "lab_pair"):
        for key in found.names(f"transfer:{path}"):
            for kind in ("e1", "risk_difference"):
                yield _label(kind, key), found.estimate(f"transfer:{path}.{key}.{kind}")
    for kind in ("asymmetry", "risk_difference", *(f"effectiveness.e{i}" for i in (1, 3, 2))):
        for key, measured in _all(found, "transfer", kind):
            if key not in named or kind == "effectiveness.e2":
                yield _label(kind, key), measured
    for target in found.params.targets:
        if found.has(f"baseline:{target}"):
            yield f"unsteered rate of {target}", found.estimate(f"baseline:{target}.em_betley")


def _label(kind: str, key: str) -> str:
    source, target = key.split("__")
    words: str = layout()["words"]["effects"][kind.rpartition(".")[2]]
    return words.format(source=source, target=target)
