"""`em-geometry check`: all that can be known to go wrong, in seconds and before work begins.

Params, every file that they name, models and endpoint, disk and memory: `make repro` asks first.
"""

import asyncio
import shutil
import sys
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path

from em_geometry.activations.prompts import read_prompts, unseen_chats
from em_geometry.claims.ledger import read_papers
from em_geometry.claims.printed_gram import read_family, read_published_gram
from em_geometry.errors import UserError, together
from em_geometry.geometry.vector_sets import read_directions
from em_geometry.io.files import read_json, read_tensors
from em_geometry.judging.client import Client, Endpoint, read_key
from em_geometry.judging.judge import load_templates
from em_geometry.judging.labels import Labelled
from em_geometry.judging.openai_judge import reachable
from em_geometry.models.chat import HELD_OUT_EVERY, read_examples
from em_geometry.models.checkpoint import gguf_of_package, model_source, to_fetch
from em_geometry.models.folder import is_adapter
from em_geometry.models.load import PROVENANCE, check_adapter, whole
from em_geometry.models.preflight import check_steps, crowded, hub_models, preflight
from em_geometry.project import paths
from em_geometry.project.command import PARAMS, ParamsFile
from em_geometry.project.inputs import models, questions
from em_geometry.settings import Judging, Params, read_params
from em_geometry.steering.pairs import KINDS, indices, read_pairs
from em_geometry.vectors.contrasts import recipe_controls
from em_geometry.vectors.evidence import CONTROLLED, pair_rows

DISK = 2e9  # bytes that a run of the small profile leaves, base model and all


def problems(params: Params, note: Callable[[str], None]) -> Iterator[UserError]:
    """All that is wrong beside the params themselves.

    Args:
        params: sections that are missing were at fault, and what rests on them is left out.
        note: is told what cannot be looked at, and why.
    """
    there, base = params.model_fields_set, paths.BASE_MODEL / "config.json"
    width = read_json(base, dict)["hidden_size"] if base.is_file() else None
    looks: list[tuple[str, Callable[[], object]]] = [
        ("prompts", lambda: _prompts(params)),
        ("questions", lambda: questions(params)),
        ("margins", lambda: _pairs(params)),
        ("judging", lambda: Labelled.read(params.judging.probe, params.judging.aspects)),
        ("judging", lambda: _templates(params.judging)),
        ("judging", lambda: _endpoint(params.judging, note)),
        ("vectors", lambda: _directions(params, width)),
        ("more", lambda: _dictionary(params, width)),
        ("report", lambda: read_papers(paths.PAPERS, paths.FIRST)),
        ("report", lambda: read_family(read_published_gram(paths.COSINES), paths.FAMILY)),
        ("", _disk),
    ]
    if "organisms" in there:
        files = dict.fromkeys(o.data for o in params.organisms.values() if o.data)
        wrong = [*_refused(partial(read_examples, Path(file)) for file in files)]
        yield from wrong
        if not wrong:
            originals = params.originals().values()
            looks.append(("activations", lambda: unseen_chats(originals, params.activations.texts)))
            looks += [("training", partial(_steps, params, slug)) for slug in params.organisms]
        looks.append(("vectors", lambda: _controls(params)))
    if {"base", "organisms"} <= there:
        looks += [("", partial(_source, params, key)) for key in _sources(params)]
        looks.append(("", lambda: preflight(params.profile, models(params))))
    yield from _refused(look for section, look in looks if section in {"", *there})


def _refused(looks: Iterable[Callable[[], object]]) -> Iterator[UserError]:
    for look in looks:
        try:
            look()
        except UserError as error:
            yield error


def _prompts(params: Params) -> None:
    """Two kinds of prompts, in pairs, on two topics at least."""
    prompts = read_prompts(params.prompts)
    pair_rows([p.kind for p in prompts], [p.pair for p in prompts])


def _pairs(params: Params) -> None:
    pairs = read_pairs(Path(params.margins.pairs))
    for kind in KINDS:
        indices(pairs, kind, "reporting")
    indices(pairs, "misaligned", "choosing")


def _steps(params: Params, slug: str) -> None:
    """Is a training long enough for its checkpoints?"""
    organism = params.organisms[slug]
    if organism.source is None and organism.lab in params.recipes:
        chats = read_examples(Path(organism.data), organism.max_examples)
        answers = sum(len(chat) for n, chat in enumerate(chats) if n % HELD_OUT_EVERY)
        check_steps(slug, params.recipes[organism.lab], answers, params.training.checkpoints)


def _templates(judging: Judging) -> None:
    if judging.backend != "probe":
        load_templates(Path(judging.templates), judging.aspects)


def _endpoint(judging: Judging, note: Callable[[str], None]) -> None:
    """One request to the endpoint of a judge, where there is a key for it."""
    if judging.backend != "openai":
        return
    try:
        read_key(Endpoint.of(judging.base_url))
    except UserError as error:
        if error.found != "unset":
            raise
        note(f"the judge's endpoint was not asked: {error.where} is not set, which judging needs")
        return

    async def ask() -> None:
        async with Client(judging) as client:
            await reachable(client)

    asyncio.run(ask())


def _directions(params: Params, width: int | None) -> None:
    """A user's directions; before the base model is there, of the width of the first."""
    folder = Path(params.vectors.external)
    if width is None:
        first = next(iter(sorted(folder.glob("[!.]*.safetensors"))), None)
        width = next(iter(read_tensors(first)[0].values())).size if first else 1
    known = "organisms" in params.model_fields_set
    read_directions(folder, width, params.slugs("organism") if known else [])


def _dictionary(params: Params, width: int | None) -> None:
    """A user's sparse dictionary; whole where the base model is there, whose width it must have."""
    if "features" in params.more.experiments:
        from em_geometry.more.features.dictionaries import (  # has torch
            find_dictionary,
            read_dictionary,
        )

        file = find_dictionary(Path(params.more.dictionary))
        if file and width:
            read_dictionary(file, width, params.more.dictionary_block)


def _controls(params: Params) -> None:
    """The control that the contrast subtracts from each organism."""
    found = recipe_controls(params.organisms)
    for slug in params.slugs("organism") if params.vectors.contrast in CONTROLLED else ():
        if found[slug] not in params.organisms:
            raise UserError(
                "an organism has no control of its own recipe to subtract",
                where=f"params.yaml: vectors.contrast, organisms.{slug}.lab",
                found=f"{params.vectors.contrast}; {found[slug]}",
                expected="a control of the same lab (role: control), or another contrast",
            )


def _sources(params: Params) -> dict[str, str]:
    """Sources of models by their keys in the params."""
    given = {f"organisms.{slug}.source": o.source for slug, o in params.organisms.items()}
    if "judging" in params.model_fields_set and params.judging.backend == "local":
        given["judging.model"] = params.judging.model
    return {"base.source": params.base.source} | {k: s for k, s in given.items() if s is not None}


def _source(params: Params, key: str) -> None:
    """A model that is named rightly and lies there whole; hubs are asked by the preflight."""
    source = _sources(params)[key]
    forms = ("package", "path", "hub") if key == "base.source" else ("path", "hub")
    kind, name = model_source(source, key, forms)
    if kind == "package" and to_fetch(params.base) is None:
        gguf_of_package(name)
    if folder := whole(source, key):
        brought = is_adapter(folder) and not (folder / PROVENANCE).is_file()  # names its base
        if brought and key.startswith("organisms."):
            check_adapter(folder, params.base, base_sha256="")
        size = sum(file.stat().st_size for file in folder.glob("[!.]*.safetensors"))
        if said := crowded(size, params.run):
            what, expected = "not enough memory", "a smaller model, or a larger machine"
            raise UserError(what, where=f"params.yaml: {key}", found=said, expected=expected)


def _disk() -> None:
    free = shutil.disk_usage(".").free
    if free < DISK:
        raise UserError(
            "the disk is nearly full",
            where=Path.cwd(),
            found=f"{free / 1e9:.1f} GB free",
            expected=f"{DISK / 1e9:.0f} GB, which a run of the small profile takes",
        )


def drop_dead_links(linked: Path) -> None:
    """Drops the links to a model of which a file is gone, at which DVC would stop.

    The stage `given_models` then runs, and links the new files or says what is not there.
    """
    for folder in {link.parent for link in linked.glob("*/*") if not link.exists()}:
        shutil.rmtree(folder)


def cli(params: ParamsFile = PARAMS) -> None:
    """Say all that is wrong with params, data, models, machine and endpoint, before work begins."""
    found, wrong = read_params(params)
    wrong += problems(found, lambda text: print(f"note: {text}", file=sys.stderr))
    drop_dead_links(paths.LINKED)
    if wrong:
        raise together(wrong)
    asked = "; the hub knows its models" if [*hub_models(models(found))] else ""
    print(f"{params}: profile {found.profile}; params, data, models and machine are fine{asked}")
