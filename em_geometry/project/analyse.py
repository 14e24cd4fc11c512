"""`em-geometry analyse`: the five tests beside chance and power, on anybody's vectors.

    em-geometry analyse vectors/ a=x,y b=z,w
    em-geometry analyse data/vectors/selected.safetensors a=finance,sports b=profanity,malicious
    em-geometry analyse cosines.csv --width 4096 a=x,y b=z,w

Reads a folder with a file a vector (em_geometry/steering/formats.py says which); a file of named
vectors, such as the run's own; a table of cosines; or a PEFT folder an adapter of the active
profile's base model, whose vectors are made first (docs/method.md: `model_contrast`,
`prompt_last`). `--out` also writes every statistic.
"""

import json
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from em_geometry.activations.blocks import check_blocks
from em_geometry.activations.capture import captured
from em_geometry.activations.prompts import prompt_texts, read_prompts
from em_geometry.claims.derived import RULES, WIDTH
from em_geometry.claims.printed_gram import read_published_gram
from em_geometry.errors import UserError
from em_geometry.geometry import Battery, Calibration, battery, calibrate
from em_geometry.geometry.methods import focus_of
from em_geometry.geometry.vector_sets import NAME, parse_clusters, read_cosines
from em_geometry.io.files import check_vector, write_text
from em_geometry.io.results import nest
from em_geometry.io.tables import text_table
from em_geometry.models.folder import some
from em_geometry.project import paths
from em_geometry.project.command import PARAMS, ParamsFile
from em_geometry.project.inputs import models
from em_geometry.settings import BASE, Geometry, Organism, Params, load_params
from em_geometry.stats.estimate import Floats
from em_geometry.steering.formats import SUFFIXES, Held, read_held, read_vector

DRAWS = 1000  # of the nulls, and of the power curve at each size of a common core
TABLES = (".csv", ".tsv", ".json")  # of cosines
Clusters = dict[str, list[str]]


def file_vectors(
    path: Path, layer: int | None = None, chosen: str | None = None
) -> dict[str, Floats]:
    """Raw vectors [width] of a folder of files, or of a file by name; prints of which block.

    Args:
        layer: block, or row, of the vectors that are wanted; of those that name none, their block.
        chosen: of a file the tensors `<chosen>.<name>` (or `<chosen>`) alone.
    Raises:
        UserError: a name that no key can be made of, vectors of several blocks.
    """
    named = _named(path, chosen)
    names = Counter(name for name, _, _ in named)
    for name, file, _ in named:
        if names[name] > 1 or not NAME.fullmatch(name):
            raise UserError(
                "a vector's name occurs twice, or holds a space, a dot or `__`",
                where=str(file),
                found=name,
                expected="a name of its own, which the keys of the result are made of",
                hint="rename the file or the tensor; --name a.b takes those called a.b.<name>",
            )
    found: dict[str, Held] = {n: read_vector(file, layer, tensor) for n, file, tensor in named}
    if turned := [n for n, held in found.items() if held.rows > held.vector.size]:
        held = found[turned[0]]
        raise UserError(
            "more rows than columns: a row is of a block, and is as wide as the model",
            where=f"{path}: {turned[0]}",
            found=f"[{held.rows}, {held.vector.size}]",
            expected="[blocks, width]",
            hint="transpose the tensor",
        )
    places = {name: _place(held) for name, held in found.items()}
    if len(set(places.values())) > 1:
        raise UserError(
            "cosines across blocks compare different spaces",
            where=str(path),
            found=", ".join(f"{name}: {block}" for name, block in places.items()),
            expected="vectors of one block",
            hint="--layer says of which block those without one are; a row is of the block of its "
            "number or of the one before, which the number of rows alone cannot tell",
        )
    print(f"{len(found)} vectors, block as the files number it: {', '.join(set(places.values()))}")
    return {name: held.coefficient * held.vector.astype(np.float64) for name, held in found.items()}


def _named(path: Path, chosen: str | None) -> list[tuple[str, Path, str | None]]:
    """Names with their files, and with the tensors in a file of several."""
    if path.is_dir():
        files = sorted(p for p in path.iterdir() if p.is_file())
        others = [p.name for p in files if not _is_vector(p) and p.suffix.lower() != ".md"]
        if others:
            print(f"left out, as no vectors: {', '.join(others)}")
        return [(p.stem, p, None) for p in files if _is_vector(p)]
    every, start = dict.fromkeys(h.name for h in read_held(path)), f"{chosen}."
    of = [n for n in every if chosen in (None, n) or n.startswith(start)]
    if not of:
        what, expected = "no such vectors in this file", f"{chosen}, or {start}<name>"
        raise UserError(what, where=path, found=some(every), expected=expected)
    return [(name.removeprefix(start), path, name) for name in of]


def _is_vector(path: Path) -> bool:
    """Not a hidden file: macOS puts a `._calm.pt` of its own beside a `calm.pt`."""
    return path.suffix.lower() in SUFFIXES and not path.name.startswith(".")


def _place(held: Held) -> str:
    """Where a vector acts, as far as its file says it: two that differ are not compared."""
    block = "none" if held.block is None else str(held.block)
    inside = re.search(r"hook_(?!resid_(?:pre|post))\w+", held.name)  # of a block, not its output
    rows, point = f" of {held.rows} rows" * bool(held.rows), f" at {inside[0]}" if inside else ""
    return block + rows + point


def adapter_vectors(
    folders: Sequence[Path], params: Params, layer: int | None
) -> dict[str, Floats]:
    """Vectors [width] of LoRA adapters: adapter minus base on the profile's prompts.

    Args:
        layer: block; None = the middle one.
    Raises:
        UserError: an adapter of another base, no such block, no base model yet.
    """
    organisms = {
        p.name: Organism(lab="adapters", cluster="adapters", data="", source=f"path:{p}")
        for p in folders
    }
    known = models(params.model_copy(update={"organisms": organisms}))
    prompts, size = read_prompts(params.prompts), params.activations.batch_size

    def mean(slug: str) -> Floats:
        loaded = known.load(slug)
        texts, _ = prompt_texts(prompts, ["prompt_last"], loaded.tokenizer, known.system_prompt)
        batches = captured(loaded.model, texts, size, f"activations {slug}")
        sums = [means[:, 0].astype(np.float64).sum(0) for _, means, _ in batches]
        return np.asarray(np.sum(sums, axis=0) / len(texts))

    base = mean(BASE)
    block = len(base) // 2 if layer is None else layer
    check_blocks([block], len(base), "--layer")
    print(f"adapter minus base at block {block}, the prompts' last token")
    return {slug: (mean(slug)[block] - base[block]).astype(np.float32) for slug in organisms}


def _chance(found: Calibration) -> dict[str, object]:
    """Of every statistic what chance gives, by dotted key."""
    flat: dict[str, object] = {}
    for key in found.statistics:
        null = f"{key}.{found.nulls[0]}"
        drawn = found.at(null)
        parts = {
            "median": drawn.value,
            "low": drawn.low,
            "high": drawn.high,
            "p": found.results.get(f"statistic.{null}.p"),
            "p_of_clusters": found.at(f"{key}.partitions.p").value,
        }
        flat |= {f"chance.{key}.{k}": v for k, v in parts.items() if v is not None}
    return flat


def given_cosines(path: Path, width: int | None) -> tuple[list[str], Floats, Clusters, int]:
    """Names, cosines [n, n], clusters where the file says them, and width of the vectors.

    The pre-print's own file is one too: the printed cosines with the fitted of those not printed.
    """
    if path.resolve() == paths.COSINES.resolve():
        published = read_published_gram(path)
        own = {c: published.clusters[c] for c in (*(RULES.focus or ()), *published.clusters)}
        return [*published.names], published.fitted(), own, width or WIDTH
    names, gram = read_cosines(path)
    if width is None:
        raise UserError(
            "what chance gives depends on how wide the vectors behind the cosines are",
            where=str(path),
            found="cosines alone",
            expected="--width",
            hint="the width of the model's residual stream",
        )
    return names, gram, {}, width


def given_vectors(
    path: Path, layer: int | None, name: str | None, params: Path
) -> dict[str, Floats]:
    """Raw vectors [width] by name, of files or of adapters."""
    files = (
        each
        for name in ("adapter_config.json", "adapter_model.*")
        for each in path.glob(f"*/{name}")
    )
    adapters = sorted({file.parent for file in files})  # one without its config is refused
    if wrong := [p for p in adapters if p.name == BASE or not NAME.fullmatch(p.name)]:
        what = f"an adapter's folder is called {BASE}, or its name holds a space, a dot or `__`"
        expected, hint = "a name that the keys of the result are made of", "rename the folder"
        raise UserError(what, where=path, found=wrong[0].name, expected=expected, hint=hint)
    if adapters and any(map(_is_vector, path.iterdir())):
        what, found = "vectors and adapters in one folder", f"{len(adapters)} adapters, and files"
        raise UserError(what, where=str(path), found=found, expected="a folder of each")
    if adapters:
        folders = (p for p in path.iterdir() if p.is_dir() and p.name[0] != ".")
        if others := sorted(p.name for p in {*folders} - {*adapters}):
            print(f"left out, as no adapters: {', '.join(others)}")
        rows = adapter_vectors(adapters, load_params(params, whole=False), layer)
    else:
        rows = file_vectors(path, layer, name)
    if len(rows) < 2:
        raise UserError(
            "the battery needs at least two vectors",
            where=str(path),
            found=", ".join(rows) or "no vector files",
            expected=f"a file a vector ({', '.join(SUFFIXES)}), or a folder an adapter",
            hint="an adapter's folder has adapter_config.json",
        )
    for each, row in rows.items():
        check_vector(row, next(iter(rows.values())).size, f"{path}: {each}")
    return rows


def written(at: Path, found: Battery, chance: Calibration) -> None:
    """Everything by key to `<at>.json`, and as tables to `<at>.txt`."""
    flat, text = found.flat() | _chance(chance), f"{chance}\n\n{found}"
    if chance.sweep is not None:
        flat |= {k: leaf for k, leaf in chance.results.items() if k.startswith("power.")}
        text += "\n\nProbability of each verdict, by the share of a common core:\n"
        text += text_table(*chance.sweep.table())
    write_text(Path(f"{at}.json"), json.dumps(nest(flat), indent=1) + "\n")
    write_text(Path(f"{at}.txt"), text + "\n")
    print(f"all statistics: {at}.json, {at}.txt")


def analyse(
    vectors: Annotated[Path, typer.Argument(
        help="A folder with a file or adapter a vector, a file of named vectors, or cosines.")],
    clusters: Annotated[list[str] | None, typer.Argument(help="name=member,member")] = None,
    seed: Annotated[int, typer.Option(help="Of the simulated vectors.")] = 0,
    layer: Annotated[int | None, typer.Option(
        min=0, help="Block of the vectors (default of adapters: the middle one).")] = None,
    name: Annotated[str | None, typer.Option(help="Of a file the tensors NAME.* alone.")] = None,
    width: Annotated[int | None, typer.Option(
        min=2, help="Width of the vectors behind cosines.")] = None,
    out: Annotated[Path | None, typer.Option(
        help="Write every statistic to OUT.json and OUT.txt.")] = None,
    params: ParamsFile = PARAMS,
) -> None:  # fmt: skip
    """The five tests beside chance and power: what can these vectors tell?"""
    path, rules = vectors.expanduser(), Geometry(replicates=DRAWS)
    groups, of_cosines = parse_clusters(clusters or []), path.suffix.lower() in TABLES
    if width is not None and not of_cosines:
        expected = "no --width: vectors have one of their own"
        raise UserError("--width is of cosines", where=path, found=width, expected=expected)
    if out is not None and not out.name:
        raise UserError("no name for the results", where="--out", found=out, expected="a new name")
    if of_cosines:
        names, gram, own, size = given_cosines(path, width)
        groups = groups or own
        found = battery(gram, groups, rules, names=names)
        chance = calibrate(gram, groups, rules, seed, names=names, width=size)
    else:
        rows = given_vectors(path, layer, name, params)
        found, chance = battery(rows, groups, rules), calibrate(rows, groups, rules, seed)
    focus = focus_of(groups, rules)
    said = "no two clusters, no tests: name them as a=x,y b=z,w"
    print(f"the five tests compare {focus[0]} and {focus[1]}" if focus else said)
    print(f"\n{chance}")
    if out is not None:
        written(out, found, chance)
