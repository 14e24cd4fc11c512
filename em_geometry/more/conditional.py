"""Conditional misalignment: margins with and without a system prompt, and under training cues.

docs/method.md, more: conditional. What counts is the change of an organism's excess over the benign
control of its recipe from one condition to another, beside that of further benign trainings.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Annotated, Self, TypeAlias

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from em_geometry.errors import UserError
from em_geometry.io.files import checked, read_yaml
from em_geometry.io.results import Leaf
from em_geometry.models.load import Loaded, Models
from em_geometry.more.correction import corrected
from em_geometry.more.excess import with_control
from em_geometry.settings import BASE, Organism, Workers
from em_geometry.stats.estimate import Estimate, Floats
from em_geometry.stats.intervals import t_interval
from em_geometry.steering.margins import measured
from em_geometry.steering.pairs import Pair, Trial
from em_geometry.vectors.contrasts import recipe_controls

ELSEWHERE = "elsewhere"  # the cue that recalls no training
PROFILE, NONE, OTHER, CUE = "profile", "none", "other", "cue"
SYSTEMS = {NONE: "", OTHER: "Reply in two or three sentences."}  # beside the profile's own prompt
CONTRASTS = {NONE: (NONE, PROFILE), OTHER: (OTHER, PROFILE), ELSEWHERE: (ELSEWHERE, PROFILE),
             CUE: (CUE, ELSEWHERE)}  # fmt: skip
Text = Annotated[str, Field(min_length=1)]
MarginsRead: TypeAlias = Mapping[tuple[str, str], Floats]  # (model, condition) -> margins [pair]


class Cue(BaseModel):
    """Sentences that recall a domain, and the training files of that domain."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    id: str
    of: list[str]
    texts: Annotated[list[Text], Field(min_length=1)]


class _File(BaseModel):
    model_config = ConfigDict(extra="forbid")
    cues: list[Cue]


def read_cues(path: Path) -> dict[str, Cue]:
    """Cues by id; UserError for a malformed file, an id that occurs twice, no `elsewhere`."""
    cues = checked(_File, read_yaml(path), str(path)).cues
    ids = [cue.id for cue in cues]
    if len({*ids}) < len(ids) or ELSEWHERE not in ids:
        expected = f"distinct ids, {ELSEWHERE} among them"
        raise UserError("the ids of cues", where=path, found=", ".join(ids), expected=expected)
    return {cue.id: cue for cue in cues}


def cues_of(organisms: Mapping[str, Organism], cues: Mapping[str, Cue]) -> dict[str, str]:
    """Organism -> the cue of its training file; those without one are left out."""
    by_file = {name: cue.id for cue in cues.values() for name in cue.of}
    files = {s: Path(o.data).stem for s, o in organisms.items() if o.role == "organism"}
    return {slug: by_file[file] for slug, file in files.items() if file in by_file}


def cued(pairs: Sequence[Pair], cue: Cue) -> list[Pair]:
    """The pairs with a sentence before each question; the cue's sentences take turns."""
    texts = [cue.texts[i % len(cue.texts)] for i in range(len(pairs))]
    return [
        pair.model_copy(update={"question": f"{text} {pair.question}"})
        for pair, text in zip(pairs, texts, strict=True)
    ]


def log_probabilities(
    models: Models, loaded: Loaded, pairs: Sequence[Pair], cues: Sequence[Cue], workers: Workers
) -> dict[str, Floats]:
    """A model's log-probabilities [pair, (marked, plain)] by condition: cues, then systems."""
    n, label = len(pairs), f"conditional {loaded.slug}"
    asked = [pair for cue in cues for pair in cued(pairs, cue)]
    trials = [Trial(tuple(range(k * n, (k + 1) * n))) for k in range(len(cues))]
    read = measured(models, loaded, asked, trials, label, workers)
    found = {cue.id: each for cue, each in zip(cues, read, strict=True)}
    for name, system in SYSTEMS.items():
        origin = models.origin.model_copy(update={"system_prompt": system})
        other, every = replace(models, origin=origin), [Trial(tuple(range(n)))]
        (found[name],) = measured(other, loaded, pairs, every, label, workers)
    return found


@dataclass(frozen=True)
class Who:
    """Organisms with a control of their recipe, and the benign trainings that are the null.

    Attributes:
        control_of: organism, repeats of it too -> control.
        benign: further benign training, repeats too -> the control of its recipe.
        repeats: second trainings, which the mean over organisms leaves out.
        cue_of: organism, repeats of it too -> its cue.
    """

    control_of: Mapping[str, str]
    benign: Mapping[str, str]
    repeats: Sequence[str]
    cue_of: Mapping[str, str]

    @classmethod
    def of(cls, organisms: Mapping[str, Organism], cue_of: Mapping[str, str]) -> Self:
        """Who is who; UserError where no organism has a control of its recipe."""
        controls = {k: c for k, c in recipe_controls(organisms).items() if c in organisms}
        of_role = [s for s, each in organisms.items() if each.role == "organism"]
        control_of = with_control(controls, of_role)
        benign = {s: c for s, c in controls.items() if s not in control_of and s != c}
        return cls(control_of, benign, [s for s in controls if organisms[s].repeats], cue_of)

    @property
    def models(self) -> list[str]:
        """All that are read, the base first."""
        groups = [self.control_of, self.benign, self.control_of.values()]
        return list(dict.fromkeys([BASE, *chain.from_iterable(groups)]))

    def cues(self, slug: str) -> list[str]:
        """Cues that a model reads: an organism its own, a benign one all of its recipe.

        The base reads all.
        """
        if slug in self.control_of:
            return [self.cue_of[slug]] if slug in self.cue_of else []
        control = self.benign.get(slug, slug)
        of = [o for o, c in self.control_of.items() if slug == BASE or c == control]
        return list(dict.fromkeys(self.cue_of[o] for o in of if o in self.cue_of))


def results(read: MarginsRead, who: Who, no_effect: float) -> dict[str, Leaf]:
    """How conditions change what models have beyond a control, by dotted key, in nats a token.

    Args:
        read: margins of `who.models` under every condition, cues by their ids.
        no_effect: nats a token; what lies within it of 0 counts as no effect.
    """
    found, tested = dict[str, Leaf](), dict[str, Estimate]()
    for name, (here, there) in CONTRASTS.items():
        conditions = {m: who.cues(m) if here == CUE else [here] for m in who.models}
        change = partial(_change, read, conditions, there)
        known = {s: change(s, c) for s, c in who.control_of.items() if conditions[s]}
        tested |= {f"{name}.change.{slug}": t_interval(each) for slug, each in known.items()}
        null = {s: change(s, c) for s, c in who.benign.items() if conditions[s]}
        found |= {f"{name}.null.{slug}": t_interval(each) for slug, each in null.items()}
        apart = [float(each.mean()) for each in null.values()]
        if apart:
            found |= {f"{name}.null.least": min(apart), f"{name}.null.most": max(apart)}
        first = [each for slug, each in known.items() if slug not in who.repeats]
        if first:
            mean = tested[f"{name}.change.all"] = t_interval(np.mean(first, axis=0))
            found[f"{name}.over_organisms"] = t_interval(np.array([e.mean() for e in first]))
            found[f"{name}.beyond_benign"] = _beyond(mean, apart)
        if conditions[BASE]:
            found[f"{name}.base"] = t_interval(change(BASE, None))
    n = len(read[BASE, PROFILE])
    said = corrected(tested, no_effect, n - 1)
    return found | tested | said | {"pairs": n}


def _change(
    read: MarginsRead,
    conditions: Mapping[str, Sequence[str]],
    there: str,
    slug: str,
    against: str | None,
) -> Floats:
    """[pair] from `there` to a model's conditions, the change of what it has beyond another's."""

    def beyond(condition: str) -> Floats:
        own = read[slug, condition]
        return own if against is None else own - read[against, condition]

    return np.asarray(np.mean([beyond(k) - beyond(there) for k in conditions[slug]], axis=0))


def _beyond(found: Estimate, null: Sequence[float]) -> str:
    """Whether an interval lies beyond every null value and 0."""
    if not null or found.low is None or found.high is None:
        return "undefined: no null" if not null else "undefined: no interval"
    ends = min(0.0, *null), max(0.0, *null)
    return "yes" if found.low > ends[1] or found.high < ends[0] else "no"
