"""What the page's sentences and cautions are about, beside single results."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from em_geometry.report.tables import Names, Results
from em_geometry.report.text import decimals, layout
from em_geometry.stats.estimate import Estimate

Named = tuple[str, Estimate]


def findings(found: Results) -> Names:
    """What `page/sentences.html.j2` names."""
    verdicts = (f"calibration:power.{t}.verdict_paper" for t in layout()["words"]["tests"])
    organisms = found.params.slugs("organism")
    above = {slug: found.word(f"baseline:{slug}.above_controls") for slug in organisms}
    rates = [(slug, found.estimate(f"baseline:{slug}.em_betley")) for slug in organisms]
    known = [(s, e) for s, e in rates if e.value is not None and above[s] is not None]
    numbers, limit = list(_intervals(found)), found.params.report.wide_interval
    return {
        "told": [told for key in verdicts if (told := found.word(key))],
        "rates": sorted(known, key=lambda rate: rate[1].value or 0.0),
        "judged": [
            e for k, e in found.metrics.group("transfer").items() if k.endswith(".beyond_random")
        ],
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


def _moved(found: Results, aspect: str) -> tuple[list[Named], Counter[str]]:
    """Vectors that move an aspect of the base beyond random directions; how many say what."""
    keys = {s: f"aspects:{aspect}.base.{s}.beyond_random" for s in found.params.slugs("organism")}
    told = {source: said for source, key in keys.items() if (said := found.word(f"{key}.says"))}
    apart = [(s, found.estimate(keys[s])) for s, said in told.items() if said == "effect"]
    return sorted(apart, key=lambda a: -abs(a[1].value or 0.0)), Counter(told.values())


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
    """Every number of judged answers with an interval, by name; named pairs first."""
    for key, label in layout()["words"]["effects"].items():
        for names in found.each(f"transfer:{key}"):
            yield label.format(**names), found.estimate(f"transfer:{key.format(**names)}")
    for target in found.params.targets:
        if found.has(f"baseline:{target}"):
            yield f"unsteered rate of {target}", found.estimate(f"baseline:{target}.em_betley")
