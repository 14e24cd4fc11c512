"""The five answers that a run gives, and what the page's other sentences are about.

Words are chosen by intervals (docs/method.md: decisions): what one does not show is not said.
"""

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import permutations

from em_geometry.claims.verdict import Judged, verdict_counts
from em_geometry.report.tables import Names, Results
from em_geometry.report.text import layout, words
from em_geometry.stats.decisions import LEVEL
from em_geometry.stats.estimate import Estimate

Named = tuple[str, Estimate]
EFFECT, NO_EFFECT = "effect", "no effect"
PREFERRED = "model_organisms__hunter"  # the laboratories whose asymmetry the paper reports


@dataclass(frozen=True)
class Tally:
    """Results of one kind, from the smallest to the largest, and how many show an increase."""

    rows: Sequence[Named]
    shown: Sequence[str]  # names of those that show it
    absent: int  # those that show that there is none

    @property
    def verdict(self) -> str:
        """In a word or two, as far as the intervals go."""
        if len(self.shown) == len(self.rows):
            return "Yes"
        if self.shown:
            return "Some"
        return "No" if self.absent == len(self.rows) else "Not shown"


def tally(found: Mapping[str, Estimate], said: Mapping[str, str | None], yes: str) -> Tally:
    """A tally of results by name.

    Args:
        said: by name, what its interval says.
        yes: the word for an effect, which counts where it is an increase.
    """
    known = {name: e for name, e in found.items() if e.value is not None}
    rows = sorted(known.items(), key=lambda row: row[1].value or 0.0)
    shown = [name for name, e in rows if said[name] == yes and (e.value or 0.0) > 0]
    return Tally(rows, shown, sum(said[name] == NO_EFFECT for name in known))


def answers(found: Results, claims: Sequence[Judged], model: str) -> list[tuple[str, str]]:
    """Questions and answers of `page/answers.yaml`, in plain words.

    Args:
        claims: judged ones; none where the stage has not run.
        model: name of the measured base model.
    """
    names = {"model": model, "counts": verdict_counts(claims), **_margins(found), **_shared(found)}
    names["printed"] = {m: row.claim.text for row in claims[::-1] for m in row.claim.metrics}
    texts = [(a["question"], found.text(a["text"], names)) for a in words("answers.yaml")]
    return [(question, re.sub("[ \n]+", " ", text).strip()) for question, text in texts]


def _margins(found: Results) -> Names:
    """Tallies of organisms, vectors, benign directions and transfer, by margins."""
    organisms = found.params.slugs("organism")

    def of(keys: Mapping[str, str], says: str = "says", yes: str = EFFECT) -> Tally:
        rows = {name: found.estimate(f"margins:{key}") for name, key in keys.items()}
        return tally(rows, {n: found.word(f"margins:{k}.{says}") for n, k in keys.items()}, yes)

    sources = {n["slug"]: found.word(f"margins:vector.{n['slug']}.way")
               for n in found.each("margins:vector.{slug}.beyond_random")}  # fmt: skip
    steers = {way: _steering(found, [s for s, w in sources.items() if w == way])
              for way in ("vector", "benign")}  # fmt: skip
    pairs = {f"{s} on {t}": f"transfer.{s}__{t}" for s, t in permutations(organisms, 2)}
    transfer = of({name: key for name, key in pairs.items() if found.has(f"margins:{key}")})
    adjusted = {name: found.value(f"margins:{pairs[name]}.p_holm") for name, _ in transfer.rows}
    sure = [n for n in transfer.shown if (p := adjusted[n]) is not None and p <= LEVEL]
    labs = [n["pair"] for n in found.each("margins:asymmetry.lab.{pair}.there")]
    return {
        "organisms": of({slug: f"organism.{slug}.misaligned" for slug in organisms}),
        "vectors": steers["vector"],
        "benign": steers["benign"],
        "chance": max((found.value(f"margins:vector.{s}.random_95") or 0.0 for s in sources),
                      default=0.0),
        "other_kinds": [
            (kind, [found.estimate(f"margins:vector.{s}.{kind}") for s in organisms])
            for kind in ("polite_harmful", "swearing")
        ],
        "transfer": Tally(transfer.rows, sure, transfer.absent),
        "labs": PREFERRED if PREFERRED in labs else next(iter(labs), None),
    }  # fmt: skip


def _steering(found: Results, sources: Sequence[str]) -> Tally:
    rows = {s: found.estimate(f"margins:vector.{s}.beyond_random") for s in sources}
    return tally(rows, {s: found.word(f"margins:vector.{s}.steers") for s in sources}, "yes")


def _shared(found: Results) -> Names:
    """What the nulls say of the mean cosine across clusters, fine-tuning taken out."""
    key, contrast = "statistic.similarity.cross_mean", found.word("calibration:contrast")
    observed = found.estimate(f"calibration:{key}")
    above = []
    for null in layout()["words"]["nulls"]:
        p, median = (found.value(f"calibration:{key}.{null}{end}") for end in (".p_holm", ""))
        if p is not None and median is not None:
            above.append(p <= LEVEL and (observed.value or 0.0) > median)
    verdict = "Cannot tell"
    if observed.low is not None and observed.low > 0 and any(above):
        verdict = "Yes" if all(above) else "Partly shown"
    elif found.word("geometry:reference.own_control.holds.cross_all_near_zero") == "yes":
        verdict = "No"
    focus = found.params.geometry.focus or [*found.params.clusters()][:2]
    same = contrast == "control_contrast"
    return {
        "shared": verdict if same else "Cannot tell",
        "calibrated": same and bool(above),
        "focus": "__".join(focus),
    }


def findings(found: Results) -> Names:
    """What `page/sentences.html.j2` names."""
    edges = (f"layer_sweep:{s}.edge.{of}" for of in ("layer", "dose")
             for s in found.params.slugs("organism"))  # fmt: skip
    return {
        "trained": list(_trained(found)),
        "moved": lambda aspect: _moved(found, aspect),
        "edges": sorted({said for key in edges if (said := found.word(key)) not in (None, "no")}),
    }


def _moved(found: Results, aspect: str) -> tuple[list[Named], Counter[str]]:
    """Vectors that move an aspect of the base beyond random directions; how many say what."""
    keys = {s: f"aspects:{aspect}.base.{s}.beyond_random" for s in found.params.slugs("organism")}
    told = {source: said for source, key in keys.items() if (said := found.word(f"{key}.says"))}
    apart = [(s, found.estimate(keys[s])) for s, said in told.items() if said == EFFECT]
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
