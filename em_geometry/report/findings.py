"""The verdict of a run, and what the page's other sentences are about.

Words are chosen by intervals (docs/method.md: decisions): what one does not show is not said.
"""

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import permutations

from em_geometry.claims.verdict import CONTRADICTED, UNMEASURED, Judged, verdict_counts
from em_geometry.io.results import with_printed
from em_geometry.report.tables import Names, Results, environment
from em_geometry.report.text import decimals, layout, short, words
from em_geometry.stats.decisions import LEVEL, detectable, effect
from em_geometry.stats.estimate import Estimate

Named = tuple[str, Estimate]
EFFECT, NO_EFFECT, UNTOLD = "effect", "no effect", "cannot tell"
PREFERRED = "model_organisms__hunter"  # the laboratories whose asymmetry the paper reports
MEAN, LABS = "calibration:statistic.similarity.cross_mean", "margins:asymmetry.lab"
RATES = "judged_rates:corrected."
TESTS = [f"test{number}" for number in range(1, 6)]


@dataclass(frozen=True)
class Summary:
    """What the verdict rests on, by names of its own, and its sentences."""

    numbers: Mapping[str, Estimate]  # of a count, n is what it is of
    words: Mapping[str, str]
    paper: Mapping[str, float]  # what the paper prints in place of some of the numbers
    sentences: Sequence[str]

    def rows(self) -> dict[str, dict[str, object]]:
        """The numbers as metrics, beside those that the paper prints."""
        return {name: with_printed(e, self.paper.get(name)) for name, e in self.numbers.items()}


def summary(found: Results, claims: Sequence[Judged], model: str) -> Summary:
    """The verdict of `page/verdict.yaml`, and its numbers, but for stages that have not run.

    Args:
        claims: judged ones; none where the stage has not run.
        model: name of the measured base model.
    """
    focus = (found.params.geometry.focus or [*found.params.clusters()])[:2]
    labs = found.names("margins:asymmetry.lab")
    pair = PREFERRED if PREFERRED in labs else next(iter(labs), "")
    there, _, back = pair.partition("__")
    read = _paths(found, "__".join(focus), pair)
    numbers = {name: found.estimate(path) for name, path in read.items()}
    numbers |= _claims(claims) | _margins(found) | _counts(found)
    numbers = {name: e for name, e in numbers.items() if e.value is not None}
    said = {"model": model, "focus": " and ".join(focus), "there": there, "back": back}
    said |= _words(found, numbers)
    printed = {m: (row.claim.text, n) for row in claims[::-1]
               for m, n in zip(row.claim.metrics, row.claim.printed, strict=False)}  # fmt: skip
    read["angle_deg"] = f"geometry:cluster_angle.{'__'.join(focus)}_deg"  # as the ledger has it
    told = {name: printed[m] for name, m in read.items() if name in numbers and m in printed}
    names = {
        **numbers,
        **said,
        "paper": dict.fromkeys(read) | {name: text for name, (text, _) in told.items()},
    }
    names["kappa_gate"] = short(found.params.judging.kappa_gate)
    names["no_effect"] = short(found.params.margins.no_effect)
    paper = {name: value for name, (_, value) in told.items() if value is not None}
    return Summary(numbers, said, paper, _sentences(names))


def _paths(found: Results, focus: str, labs: str) -> dict[str, str]:
    """Where the numbers are that a stage has written."""
    reference, lab = "geometry:reference.", f"margins:asymmetry.lab.{labs}"
    read = {
        "cosine": f"{reference}own_control.cross_mean",
        "cosine_base": f"{reference}base.cross_mean",
        "angle_deg": f"{reference}own_control.angle_deg.{focus}",
        "angle_beyond_90_pct": "geometry:multiverse.holds.angle_above_90",
        "transfer_there_pct": f"{lab}.e1_there",
        "transfer_back_pct": f"{lab}.e1_back",
        "transfer_gap_nats": lab,
        "transfer_all_nats": "margins:transfer.all_organisms",
        "judge_kappa": "judge:gate.event_kappa",
        "rate_organisms_pct": f"{RATES}organisms_unsteered.corrected",
        "rate_steered_pct": f"{RATES}base_vectors.corrected",
        "rate_base_pct": f"{RATES}base.corrected",
    }
    if found.word("calibration:contrast") == "control_contrast":  # else it is of other vectors
        read |= {f"p_{null}": f"{MEAN}.{null}.p_holm" for null in layout()["words"]["nulls"]}
    return read


def _words(found: Results, numbers: dict[str, Estimate]) -> dict[str, str]:
    """What the numbers say; beside a gap that cannot be told, the smallest that would be."""
    said = {"judge": found.word("judge:gate.says") or "not validated"}
    said["shared"] = _shared(found, numbers)
    gap, params = numbers.get("transfer_gap_nats"), found.params.margins
    if gap:
        pair = next(p for p in found.names(LABS) if found.estimate(f"{LABS}.{p}") == gap)
        said["gap"] = effect(gap, params.no_effect)
        if said["gap"] == EFFECT and (found.value(f"{LABS}.{pair}.p_holm") or 1.0) > LEVEL:
            said["gap"] = UNTOLD
        if said["gap"] == UNTOLD:
            numbers["transfer_gap_missed_nats"] = Estimate(detectable(gap))
    return said


def _sentences(names: Names) -> list[str]:
    """`page/verdict.yaml`, filled with these."""
    templates = environment(autoescape=False)
    templates.globals["rest"] = lambda name: _rest(names, name)
    found = []
    for each in words("verdict.yaml"):
        known = {*each.get("needs", ())} <= {*names}
        text = templates.from_string(each["text" if known else "otherwise"]).render(names)
        found.append(re.sub("[ \n]+", " ", text).strip())
    return [text for text in found if text]


def _rest(names: Names, of: str) -> str:
    """Of what is counted by name `of`: how many show none, and how many cannot be told."""
    none, untold = (names.get(f"{of}_{kind}") for kind in ("none", "untold"))
    parts = (
        [f"{short(none.value)} without effect (within {names['no_effect']} nats a token)"]
        if none
        else []
    )
    if untold:
        missed = names.get(f"{of}_missed")
        below = (
            f", as less than {decimals(missed.value, 2)} nats a token would be missed"
            if missed
            else ""
        )
        parts.append(f"{short(untold.value)} not to be told{below}")
    return f" ({'; '.join(parts)})" if parts else ""


def _claims(claims: Sequence[Judged]) -> dict[str, Estimate]:
    """Counts of both verdicts on what the paper prints."""
    if not claims:
        return {}
    counts = verdict_counts(claims)["printed"]
    own, run = counts["published"], counts["run"]
    total = own.total()
    rows = {
        "printed_follow": own["reproduced"],
        "printed_contradict": own[CONTRADICTED],
        "printed_open": total - own["reproduced"] - own[CONTRADICTED],
        "claims_reproduced": run["reproduced"],
        "claims_differ": run["differs"],
        "claims_cannot_tell": run["cannot tell"],
        "claims_unmeasured": run[UNMEASURED] + run[CONTRADICTED],
    }
    return {name: Estimate(count, n=total) for name, count in rows.items()}


def _margins(found: Results) -> dict[str, Estimate]:
    """How many organisms, vectors and pairs show an effect on margins, and what the others miss."""
    organisms = found.params.slugs("organism")
    pairs = [f"transfer.{s}__{t}" for s, t in permutations(organisms, 2)]
    at = {s: f"margins:organism.{s}.misaligned" for s in organisms}
    questions = next((e for e in map(found.estimate, at.values()) if e.value is not None), None)
    rows = {} if questions is None else {"questions": Estimate(questions.n)}
    rows |= _tally(found, "organisms", [*at.values()], says="says")
    steers = [f"margins:vector.{s}" for s in organisms]
    rows |= _tally(found, "vectors", steers, says="steers", end=".beyond_random")
    return rows | _tally(found, "pairs", [f"margins:{p}" for p in pairs], says="says", by_holm=True)


def _tally(
    found: Results, name: str, keys: Sequence[str], says: str, end: str = "", by_holm: bool = False
) -> dict[str, Estimate]:
    """How many results show an increase, how many none, and of how many it cannot be told.

    Args:
        says: last part of the key of what an interval says.
        end: of the key of the result itself.
        by_holm: those count only whose p, adjusted for their number, is below the level too.
    """
    shown = none = untold = 0
    missed = 0.0
    known = [key for key in keys if found.value(key + end) is not None]
    for key in known:
        word, p = found.word(f"{key}.{says}"), found.value(f"{key}.p_holm")
        sure = not by_holm or (p is not None and p <= LEVEL)
        if word in (EFFECT, "yes") and (found.value(key + end) or 0.0) > 0 and sure:
            shown += 1
        elif word == NO_EFFECT:
            none += 1
        elif word == UNTOLD or not sure:
            untold, missed = untold + 1, max(missed, detectable(found.estimate(key + end)))
    if not known:
        return {}
    n = len(known)
    counts = {name: shown, f"{name}_none": none, f"{name}_untold": untold}
    rows = {key: Estimate(k, n=n) for key, k in counts.items() if k or key == name}
    return rows | ({f"{name}_missed": Estimate(missed)} if missed > 0 else {})


def _counts(found: Results) -> dict[str, Estimate]:
    """Tests that can tell a core from none, fine-tunes trained twice, labs told apart."""
    rows = {}
    for name, stage in (
        ("tests_able", "calibration:power."),
        ("published_tests_able", "published:calibration.power_full_width."),
    ):
        said = [found.word(f"{stage}{test}.verdict_paper") for test in TESTS]
        if None not in said:
            rows[name] = Estimate(said.count("discriminates"), n=len(TESTS))
    if (independent := found.value("published:verdict.count")) is not None:
        rows["published_tests_independent"] = Estimate(independent, n=len(TESTS))
    originals, repeats = found.params.originals(), {*found.params.repeats().values()}
    rows["trained_twice"] = Estimate(len(repeats), n=len(originals))
    at = "factorial:confounding.lab__cluster."
    apart, of = found.value(f"{at}separable"), found.value(f"{at}contrasts")
    if apart is not None and of is not None:
        rows["labs_told_apart"] = Estimate(apart, n=of)
    return rows


def _shared(found: Results, numbers: dict[str, Estimate]) -> str:
    """What the nulls say of the mean cosine across clusters; how far the widest of them reaches."""
    observed, above = found.estimate(MEAN), []
    for null in layout()["words"]["nulls"]:
        p, drawn = numbers.get(f"p_{null}"), found.estimate(f"{MEAN}.{null}")
        if p and drawn.value is not None:
            above.append((p.value or 0.0) <= LEVEL and (observed.value or 0.0) > drawn.value)
            chance = numbers.get("chance", Estimate(-1.0))
            if drawn.high is not None and drawn.high > (chance.value or 0.0):
                numbers["chance"] = Estimate(drawn.high)
    if observed.low is not None and observed.low > 0 and any(above):
        return "shown" if all(above) else "partly shown"
    if found.word("geometry:reference.own_control.holds.cross_all_near_zero") == "yes":
        return "not there"
    return "not to be told"


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
    """Vectors that move an aspect of the base beyond random directions; how many say what.

    Of an effect that Holm's p over all vectors and aspects does not confirm it cannot be told.
    """
    keys = {s: f"aspects:{aspect}.base.{s}.beyond_random" for s in found.params.slugs("organism")}
    told = {source: said for source, key in keys.items() if (said := found.word(f"{key}.says"))}
    for source, said in told.items():
        if said == EFFECT and (found.value(f"{keys[source]}.p_holm") or 0.0) > LEVEL:
            told[source] = UNTOLD
    apart = [(s, found.estimate(keys[s])) for s, said in told.items() if said == EFFECT]
    return sorted(apart, key=lambda a: -abs(a[1].value or 0.0)), Counter(told.values())


def _trained(found: Results) -> Iterator[Names]:
    """Organisms that were measured as they were while they were trained."""
    for slug in dict.fromkeys(n["slug"] for n in found.each("monitoring:{slug}.checkpoint")):
        yield {
            "slug": slug,
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
