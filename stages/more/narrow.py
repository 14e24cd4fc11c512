"""Experiment `narrow`: an organism held to the base, and one of rank 1 with what it writes."""

from pathlib import Path

from em_geometry.io.files import atomic_path
from em_geometry.io.results import Leaf, spelt
from em_geometry.models.train import save
from em_geometry.more.narrow.breadth import GENERAL, SCALES, Chats, Variant, compared, read_all
from em_geometry.more.narrow.fine_tunes import train_held, train_rank_one, untrained
from em_geometry.project import paths
from em_geometry.project.inputs import models, selected
from em_geometry.project.outputs import put_results
from em_geometry.settings import BASE, Params
from em_geometry.steering.pairs import indices, read_pairs
from em_geometry.vectors.contrasts import recipe_controls
from stages.more.narrow_vector import of_vector

WEIGHTS = (1.0, 10.0)  # of the KL term, beside a loss of two or three nats
CHATS = 16  # of the domain, of its good answers, and benign ones
RANK_ONE, AGAIN = "rank_one", "repeat"
HEADLINE = ("status", "organism", "block", "rate", "model.*.domain", "model.*.margin", "model.*.kl",
            "equal.*.margin", "cosine.*", "steer.*", "removed.all.*")  # fmt: skip


def main(params: Params) -> None:
    with atomic_path(paths.MORE / "narrow", folder=True) as folder:
        found = run(params, folder)
    put_results("narrow", found, HEADLINE)


def chosen(params: Params) -> tuple[str, str, str] | None:
    """An organism, the control of its recipe, another control; None where nothing is trained here.

    The organism is the first one, of those that are trained twice where there are any.
    """
    own, controls = recipe_controls(params.organisms), params.slugs("control")
    trained = [s for s in params.slugs("organism")
               if params.organisms[s].source is None and own[s] in controls]  # fmt: skip
    for slug in [*(s for s in trained if s in params.repeats().values()), *trained]:
        return slug, own[slug], next((c for c in controls if c != own[slug]), own[slug])
    return None


def run(params: Params, folder: Path) -> dict[str, Leaf]:
    """Trains and reads; the adapters, and the vector that one writes, stay in the folder."""
    if (three := chosen(params)) is None:
        return {"status": "not measured: no organism with a control is trained here"}
    slug, own, benign = three
    known, one, block = models(params), params.organisms[slug], selected(params)[slug].layer
    recipe, sha256 = params.recipes[one.lab], known.record()["sha256"]
    held = {f"held_{spelt(weight)}": weight for weight in WEIGHTS}
    for name, weight in held.items():
        save(train_held(known, slug, recipe, benign, weight), folder / name, sha256)
    model, rate = train_rank_one(known, slug, recipe, block)
    save(model, folder / RANK_ONE, sha256)
    given, scaled = {GENERAL: slug, "benign": own}, {s: f"{GENERAL}_{spelt(s)}" for s in SCALES}
    again = [repeat for repeat, first in params.repeats().items() if first == slug][:1]
    given |= dict(zip([AGAIN], again, strict=False))
    variants = {BASE: Variant()}
    variants |= {name: Variant(known.adapter_folder(which)) for name, which in given.items()}
    variants |= {name: Variant(folder / name) for name in (*held, RANK_ONE)}
    variants |= {n: Variant(known.adapter_folder(slug), scale) for scale, n in scaled.items()}

    base, files = known.load(BASE), [one.data, *(params.organisms[c].data for c in (own, benign))]
    chats = Chats(*(untrained(known, file, CHATS) for file in files))
    pairs = read_pairs(Path(params.margins.pairs))
    some = indices(pairs, "misaligned", "reporting", params.margins.target_pairs)
    read = read_all(base, known, variants, chats, pairs, some)
    narrow = [name for name in (*held, RANK_ONE, AGAIN) if name in variants]
    found = compared(read, {**scaled, 1.0: GENERAL}, narrow, params.margins.no_effect)
    found |= of_vector(params, slug, own, base, variants[RANK_ONE], pairs, some)
    about: dict[str, Leaf] = {"organism": slug, "control": own, "benign": benign, "block": block}
    return {**about, "rate": rate, **found}
