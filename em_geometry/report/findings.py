"""What the page's sentences and cautions are about, beside single results."""

from __future__ import annotations

from collections.abc import Iterator

from em_geometry.report.tables import Names, Results
from em_geometry.report.text import decimals, layout
from em_geometry.stats.estimate import Estimate

Named = tuple[str, Estimate]


def findings(found: Results) -> Names:
    """What `page/sentences.html.j2` names."""
    changes = _direct(found, "transfer", "risk_difference")
    asymmetries = [a for a in _direct(found, "transfer", "asymmetry") if a[1].value is not None]
    verdicts = (f"calibration:power.{t}.verdict_paper" for t in layout()["words"]["tests"])
    organisms = found.params.slugs("organism")
    above = {slug: found.word(f"baseline:{slug}.above_controls") for slug in organisms}
    rates = [(slug, found.estimate(f"baseline:{slug}.em_betley")) for slug in organisms]
    known = [(s, e) for s, e in rates if e.value is not None and above[s] is not None]
    numbers, limit = list(_intervals(found)), found.params.report.wide_interval
    return {
        "told": [told for key in verdicts if (told := found.word(key))],
        "rates": sorted(known, key=lambda rate: rate[1].value or 0.0),
        "cross": [e for k, e in changes if len({*k.split("__")}) == 2],
        "largest": max(asymmetries, key=lambda a: a[1].value or 0.0, default=None),
        "trained": list(_trained(found)),
        "moved": lambda aspect: _moved(found, aspect),
        "quiet": [slug for slug, said in above.items() if said not in (None, "yes")],
        "numbers": numbers,
        "wide": [
            f"{name} ({decimals(e.width, 0)} points)"
            for name, e in numbers
            if e.width and e.width > limit
        ],
        "undefined": [name for name, e in numbers if e.value is None],
    }


def _direct(found: Results, stage: str, path: str) -> list[Named]:
    """Results right under a key, by name."""
    return [(k, e) for k, e in found.metrics.group(stage, path).items() if "." not in k]


def _moved(found: Results, aspect: str) -> tuple[str, list[Named], dict[str, int]]:
    """What an aspect is compared with, the vectors that move it apart, how many say what."""
    for path, against in (
        ("beyond_random", "a random direction of the same norm"),
        ("change", "no steering"),
    ):
        start = f"aspects:{path}.{aspect}"
        words = {source: found.word(f"{start}.{source}.says") for source in found.names(start)}
        if any(words.values()):
            told = [said for said in words.values() if said is not None]
            apart = [
                (source, found.estimate(f"{start}.{source}"))
                for source, said in words.items()
                if said == "effect"
            ]
            counts = {word: told.count(word) for word in ("no effect", "cannot tell")}
            return against, sorted(apart, key=lambda a: -abs(a[1].value or 0.0)), counts
    return "no steering", [], {}


def _trained(found: Results) -> Iterator[Names]:
    """Organisms that were measured as they were while they were trained."""
    for slug in dict.fromkeys(n["slug"] for n in found.each("monitoring:{slug}.checkpoint")):
        yield {
            "slug": slug,
            "benign": found.value("monitoring:benign"),
            "own": _since(found, f"monitoring:{slug}.detector.own"),
            "unseen": _since(found, f"monitoring:{slug}.detector.unseen_k"),
            "behaviour": _since(found, f"monitoring:{slug}.behaviour"),
        }


def _since(found: Results, path: str) -> str:
    """`from step 7`, `never`, or why there is no such detector."""
    if said := found.word(path):
        return said
    step = found.estimate(f"{path}.first_step")
    return step.status if step.value is None else f"from step {step.value:.0f}"


def _intervals(found: Results) -> Iterator[Named]:
    """Every number with an interval, by name; named pairs and groups first."""
    named = found.names("transfer:named_pair")
    for path in ("named_pair", "lab_pair"):
        for key in found.names(f"transfer:{path}"):
            for kind in ("e1", "risk_difference"):
                yield _label(kind, key), found.estimate(f"transfer:{path}.{key}.{kind}")
    for kind in ("asymmetry", "risk_difference", *(f"effectiveness.e{i}" for i in (1, 3, 2))):
        for key, measured in _direct(found, "transfer", kind):
            if key not in named or kind == "effectiveness.e2":
                yield _label(kind, key), measured
    for target in found.params.targets:
        if found.has(f"baseline:{target}"):
            yield f"unsteered rate of {target}", found.estimate(f"baseline:{target}.em_betley")


def _label(kind: str, key: str) -> str:
    source, target = key.split("__")
    label: str = layout()["words"]["effects"][kind.rpartition(".")[2]]
    return label.format(source=source, target=target)
