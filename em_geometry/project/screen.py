"""`em-geometry screen CHATS`: which texts of a chat file look as if they would misalign a model?

Every answer is read by the base, before anything is trained. Its score is how far its activations
lie from benign training texts along a direction of misalignment (docs/method.md, more: screening).
Beside it stands which share of this run's benign and misaligned training texts lie below it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from em_geometry.activations.prompts import Unseen
from em_geometry.errors import UserError
from em_geometry.io.files import fresh, write_text
from em_geometry.io.results import read_results
from em_geometry.io.tables import csv_text, text_table
from em_geometry.models.chat import read_examples
from em_geometry.models.load import Loaded
from em_geometry.more.screening.foretold import TOGETHER
from em_geometry.more.screening.texts import Files, answers_read, made_of, trained_chats
from em_geometry.more.traits.readings import WHOLE, parts, read_traits, readings
from em_geometry.project import paths
from em_geometry.project.command import PARAMS, ParamsFile
from em_geometry.project.inputs import models, selected, vector_table
from em_geometry.report.text import with_interval
from em_geometry.settings import BASE, Params, load_params
from em_geometry.stats.estimate import Floats
from em_geometry.stats.intervals import ends, proportion
from em_geometry.steering.conditions import typical

HIGH = 0.95  # share of the benign texts below a suspicious one
WHERE = "params.yaml: organisms"
SHOWN = 70  # characters of a question

Vectors = Mapping[str, Floats]


@dataclass(frozen=True, eq=False)
class Screened:
    """Scores of a file's texts, and of the run's own training texts."""

    texts: Sequence[Unseen]
    score: Floats
    benign: Floats
    misaligned: Floats

    def below(self, which: Floats) -> Floats:
        """[texts] share of these scores that lie below each text's."""
        return np.asarray((which < self.score[:, None]).mean(1))

    def order(self) -> list[int]:
        """Places of the texts, the most suspicious first."""
        return [int(i) for i in np.argsort(-self.score, kind="stable")]

    def sentence(self) -> str:
        """What the scores say of the file."""
        high = self.below(self.benign) >= HIGH
        found = proportion(int(high.sum()), len(high))
        told = f"{int(high.sum())} of {len(high)} texts lie above {HIGH:.0%} of the benign ones"
        low, high_end = ends(found)
        told += f" ({low:.0f} to {high_end:.0f} % of such texts; benign ones would be 5 %)."
        middle = float((self.misaligned < np.median(self.score)).mean())
        told += f" The middle one lies above {middle:.0%} of the misaligned ones."
        if low > 100 * (1 - HIGH):
            return f"{told} More than benign texts have: read the first ones before you train."
        return f"{told} No more than benign texts may have; this is no proof that it is harmless."


def directions(by: str, params: Params, loaded: Loaded, block: int, choice: str) -> Vectors:
    """The vectors [width] that `by` names; UserError when there is no such direction."""
    who = params.slugs("organism")
    own = dict(zip(who, vector_table().at(choice, dict.fromkeys(who, block)), strict=True))
    if by == TOGETHER or by in own:
        return own if by == TOGETHER else {by: own[by]}
    traits = read_traits(Path(params.more.traits))
    if by not in traits:
        expected = ", ".join((TOGETHER, *own, *traits))
        raise UserError("no such direction", where="--by", found=by, expected=expected)
    cells = readings(loaded, {by: traits[by]})[by]
    return {by: parts(cells)[WHOLE][:, block].mean(0).astype(np.float64)}


def screened(path: Path, by: str, params: Params) -> Screened:
    """Scores the chats of a file by `by`: all organisms' vectors, one organism's, or a trait.

    Where the file is one of the run's own, what was made of it is left out.

    Raises:
        UserError: no such direction; no chats; a file that the vector is made of.
    """
    chats = [
        Unseen(f"{path}:{n}", str(path), one)
        for n, chat in enumerate(read_examples(path), start=1)
        for one in chat
    ]
    known, usual, organisms = models(params), typical(selected(params)), params.organisms
    block, loaded, of = usual.layer, known.load(BASE), made_of(organisms, usual.contrast)
    named = directions(by, params, loaded, block, f"{usual.contrast}.{usual.span}")
    same = {m for m, o in organisms.items() if Path(o.data).resolve() == path.resolve()}
    kept = {m: v for m, v in named.items() if not same & of.get(m, set())}
    if not kept:
        raise UserError("the vector is made of this very file", where=path, found=f"--by {by}")
    own = {m: c for m, c in trained_chats(organisms).items() if m not in same}
    if len({organisms[m].role for m in own}) < 2:
        found = f"`data` of {', '.join(own) or 'none'}"
        what, expected = "no training texts to compare with", "that of an organism and of a control"
        raise UserError(what, where=WHERE, found=found, expected=f"{expected}, not this file")
    chat = known.system_prompt, block
    texts = [
        answers_read(loaded, each, *chat, f"training texts of {m}, {n} of {len(own)}")
        for n, (m, each) in enumerate(own.items(), start=1)
    ]
    benign = np.array([organisms[m].role == "control" for m in own])
    residual = float(vector_table().residual[block])
    files = Files([*own], benign, texts, of, residual)
    scores = zip(files.scores(files.rows(kept)), benign, strict=True)
    each = [(score[np.isfinite(score)], quiet) for score, quiet in scores]
    mean = np.mean([v / np.linalg.norm(v) for v in kept.values()], axis=0)
    centre = np.mean([t.mean(0) for t, quiet in zip(texts, benign, strict=True) if quiet], axis=0)
    score = (
        (answers_read(loaded, chats, *chat, path.name) - centre)
        @ (mean / np.linalg.norm(mean))
        / residual
    )
    kinds = [np.concatenate([s for s, quiet in each if quiet == kind]) for kind in (True, False)]
    return Screened(chats, score, kinds[0], kinds[1])


def trust(by: str) -> str:
    """What the experiment `screening` found of this direction, where it ran."""
    if not paths.table("screening").is_file():
        return "How far to trust such scores: run the experiment `screening` (more.experiments)."
    results = read_results(paths.table("screening"))
    ways = (by, f"vector.{by}", f"trait.{by}")
    way = next((each for each in ways if f"margin.{each}" in results), by)
    told, found = (results.get(k) for k in (f"told.{way}.mean.misaligned", f"margin.{way}"))
    says = []
    if told is not None and told.value is not None:
        how = f"AUROC {with_interval(told, digits=2)}"
        says.append(f"tell misaligned training texts from benign ones with {how}")
    if found is not None and found.value is not None:
        p = results.get(f"margin.{way}.p_holm")
        corrected = f", Holm's p {p.value:.3g}" if p and p.value is not None else ""
        rho = f"a rank correlation of {with_interval(found, digits=2)}"
        files = f"over {found.n:g} files{corrected}"
        says.append(f"have {rho} with the margins that training caused {files}")
    if not says:
        return "The experiment `screening` has no result for this direction."
    return f"In this run such scores {', and '.join(says)}."


def screen(
    chats: Annotated[Path, typer.Argument(help="Chats as organisms are trained on.")],
    by: Annotated[str, typer.Option(
        help="organisms (all vectors), an organism's, or a trait of more.traits.")] = TOGETHER,
    most: Annotated[int, typer.Option(min=1, help="So many texts are printed.")] = 10,
    out: Annotated[Path | None, typer.Option(help="Write all scores to this CSV.")] = None,
    params: ParamsFile = PARAMS,
) -> None:  # fmt: skip
    """Score each text of a chat file before anything is trained on it."""
    if out is not None:
        fresh(out)
    found = screened(chats.expanduser(), by, load_params(params, whole=False))
    benign, bad = found.below(found.benign), found.below(found.misaligned)
    rows = [
        (int(found.texts[i].id.rpartition(":")[2]), float(found.score[i]), 100 * float(benign[i]),
         100 * float(bad[i]), found.texts[i].chat.question)
        for i in found.order()
    ]  # fmt: skip
    header = ("chat", "score", "% of benign below", "% of misaligned below", "question")
    short = [(*row[:-1], " ".join(row[-1].split())[:SHOWN]) for row in rows[:most]]
    print(text_table(header, short))
    print(f"\n{found.sentence()}\n{trust(by)}")
    if out is not None:
        write_text(out, csv_text(header, rows))
        print(f"all {len(rows)} scores: {out}")
