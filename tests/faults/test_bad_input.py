"""Every kind of bad input, one row each: what a user does wrong, and what the stage answers.

`refused` demands of each: status 2, no traceback, a message with what, where, found, and expected
or try, and not one changed byte in the folder, earlier results included. Judges' replies are in
tests/judging.
"""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from safetensors.numpy import save_file

from tests.faults.miniature import MODEL
from tests.faults.stage_runs import finished, refused

PARAMS = Path("params.yaml")
Damage = Callable[[], object]
PICKLE = b"\x80\x04\x95\x0b\x00\x00\x00\x00\x00\x00\x00\x8c\x02os\x94\x8c\x06system\x94\x93\x94."


def put(path: Path, content: bytes | str) -> Damage:
    return lambda: path.write_bytes(content if isinstance(content, bytes) else content.encode())


def edit(path: Path, change: Callable[[Any], object]) -> Damage:
    """Changed data of a YAML or JSON file, or rows of JSON lines."""

    def damage() -> None:
        text = path.read_text(encoding="utf-8")
        rows = path.suffix == ".jsonl"
        read = json.loads if path.suffix == ".json" else yaml.safe_load
        found = [json.loads(line) for line in text.splitlines()] if rows else read(text)
        change(found)
        lines = [json.dumps(row) for row in (found if rows else [found])]  # JSON is YAML
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")

    return damage


def cut(path: Path) -> Damage:
    return lambda: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def pickled(folder: Path, name: str, instead_of: Path) -> Damage:
    return both(instead_of.unlink, put(folder / name, PICKLE))


def one_vector() -> None:
    """The user's folder is left with a single vector."""
    for path in sorted(Path("my vectors").glob("*"))[1:]:
        path.unlink()


def new_vector(name: str, values: Any, **metadata: str) -> Damage:
    """A further file among the user's vectors."""
    tensor = {"layers.1": np.asarray(values, dtype=np.float32)}
    return lambda: save_file(tensor, Path("my vectors", name), metadata)


def both(*damages: Damage) -> Damage:
    return lambda: [damage() for damage in damages]


def source(text: str, revision: str | None = None) -> Damage:
    return edit(PARAMS, lambda d: d["base"].update(source=text, revision=revision))


def organism(**values: Any) -> Damage:
    return edit(PARAMS, lambda d: d["organisms"]["finance"].update(values))


BASE, TRAIN = ("stages.base_model",), ("stages.organism", "finance")
ACTIVATIONS = ("stages.activations", "base")
ADAPTED = ("stages.activations", "finance")
PROBE, BASELINE = ("stages.probe_judge",), ("stages.baseline_responses",)
ANALYSE = ("em-geometry", "analyse", "my vectors")
STEER = ("em-geometry", "steer", "base", "my vectors/a.safetensors", "0.5", "Hello")
COSINES, JSON_COSINES = (
    ("em-geometry", "analyse", f"cosines.{s}", "--width", "64") for s in ("csv", "json")
)
PUBLISHED, CLAIMS = ("stages.paper_reference",), ("stages.claims",)

NEUTRAL = Path("data/prompts/neutral.jsonl")
FINANCE = Path("data/organisms/finance.jsonl")
LABELLED = Path("data/judge/labelled.jsonl")
QUESTIONS = Path("data/questions/evaluation.yaml")
LEDGER, GRAM = Path("data/papers/geometric_structure.yaml"), Path("data/paper/cosines.json")
FAMILY = Path("data/paper/family.json")
ADAPTER = Path("data/adapters/finance")
LORA = ADAPTER / "adapter_model.safetensors"
WEIGHTS = Path(MODEL, "model.safetensors")
VECTOR = Path("my vectors/a.safetensors")
CSV = Path("cosines.csv")
MEGABYTE = "word " * 200_000
PINNED = "0123456789abcdef0123456789abcdef01234567"


def row(name: str, command: tuple[str, ...], damage: Damage, *says: str) -> Any:
    """What is wrong, a command that reads it, how to make it, words that the message must hold."""
    return pytest.param(command, damage, says, id=name)


def first_claim(change: Callable[[dict[str, Any]], object]) -> Damage:
    """A change of the ledger's first claim."""
    return edit(LEDGER, lambda ledger: change(ledger["claims"][0]))


TABLE = [
    # params.yaml; tests/faults/test_params_fuzz.py has every key of every section
    row("params: no file", BASE, PARAMS.unlink, "no params file", "make profile"),
    row("params: probe beyond the model", PROBE,
        edit(PARAMS, lambda d: d["judging"]["probe"].update(layers=[9])),
        "judging.probe.layers", "0 to 3"),
    row("params: another model", ("stages.activations", "nobody"), lambda: None,
        "unknown model", "base, finance, sports, full"),
    # prompts; io's own tests have every way in which a file is malformed, and those of profiles
    row("prompts: missing", ACTIVATIONS, NEUTRAL.unlink, "file not found", str(NEUTRAL)),
    row("prompts: empty", ACTIVATIONS, put(NEUTRAL, ""), "no rows", str(NEUTRAL)),
    row("prompts: duplicate id", ACTIVATIONS, edit(NEUTRAL, lambda r: r[1].update(id=r[0]["id"])),
        "occurs twice", "n001"),
    row("prompts: empty text", ACTIVATIONS, edit(NEUTRAL, lambda r: r[0].update(prompt=" ")),
        "empty", "n001"),
    row("prompts: 1 MB of text", ACTIVATIONS,
        edit(NEUTRAL, lambda r: r[0].update(prompt=MEGABYTE)), "longer than the model's context"),
    # chats that organisms are trained on; tests/models has more, tests/claims and geometry too
    row("dataset: missing", TRAIN, FINANCE.unlink, "file not found", str(FINANCE)),
    row("dataset: of another format", TRAIN, put(FINANCE, '{"instruction": "a", "output": "b"}'),
        "em-geometry chats convert"),
    row("dataset: nothing to learn", TRAIN, edit(FINANCE, lambda r: [
        x["messages"][1].update(weight=0) for x in r]), "weight", "nothing to train on"),
    row("dataset: one row", TRAIN, edit(FINANCE, lambda r: r.__delitem__(slice(1, None))),
        "too few examples", str(FINANCE)),
    row("dataset: 1 MB of text", TRAIN,
        edit(FINANCE, lambda r: r[1]["messages"][1].update(content=MEGABYTE)),
        "longer than the model's context"),
    row("dataset: unknown organism", ("stages.organism", "../finance"), lambda: None,
        "unknown organism"),
    # labelled answers of the embedded judge
    row("labels: NaN", PROBE, edit(LABELLED, lambda r: r[0].update(aligned=float("nan"))),
        "'aligned'", "line 1"),
    row("labels: out of range", PROBE, edit(LABELLED, lambda r: r[1].update(coherent=101)),
        "'coherent'", "line 2"),
    row("labels: no held-out row", PROBE,
        edit(LABELLED, lambda r: [x.update(split="train") for x in r]), "of this split"),
    row("labels: 1 MB of text", PROBE, edit(LABELLED, lambda r: r[0].update(answer=MEGABYTE)),
        "longer than the model's context"),
    # questions
    row("questions: missing", BASELINE, QUESTIONS.unlink, "file not found", str(QUESTIONS)),
    row("questions: none of a set", BASELINE, put(QUESTIONS, "questions: []"), "no questions"),
    row("questions: key missing", BASELINE,
        edit(QUESTIONS, lambda d: d["questions"][0].pop("topic")), "questions.0.topic"),
    row("questions: duplicate id", BASELINE,
        edit(QUESTIONS, lambda d: d["questions"].append(d["questions"][0])), "occurs twice"),
    row("questions: empty text", BASELINE,
        edit(QUESTIONS, lambda d: [q.update(prompt=" ") for q in d["questions"]]), "empty"),
    row("questions: 1 MB of text", BASELINE,
        edit(QUESTIONS, lambda d: d["questions"].insert(
            0, d["questions"][0] | {"id": "long", "prompt": MEGABYTE})),
        "longer than the model's context"),
    row("questions: unknown variant", BASELINE,
        edit(PARAMS, lambda d: d["questions"].update(variants=["poem"])), "questions.variants"),
    # adapters and base; tests/models has more
    row("adapter: missing", ADAPTED, lambda: shutil.rmtree(ADAPTER), "no LoRA adapter"),
    row("adapter: pickle", ADAPTED, pickled(ADAPTER, "adapter_model.bin", LORA),
        "no LoRA adapter", "adapter_model.bin", "pickle"),
    row("organism: pickled checkpoint", ADAPTED,
        both(organism(source=f"path:{MODEL}"), pickled(Path(MODEL), "pytorch_model.bin", WEIGHTS)),
        "safetensors", MODEL),
    row("base: no folder", BASE, source("path:nowhere"), "no safetensors weights", "nowhere"),
    row("base: pickle", BASE, pickled(Path(MODEL), "pytorch_model.bin", WEIGHTS),
        "no safetensors weights", "pytorch_model.bin", "pickle"),
    row("base: truncated", ACTIVATIONS, cut(WEIGHTS), "cannot be loaded", MODEL),
    row("base: no such package", BASE, source("package:no-such-package-here"), "not installed"),
    row("base: no model in the package", BASE, source("package:pytest"), "0 .gguf files"),
    *(row(f"base: not pinned: {revision}", BASE, source("hub:a/b", revision), "base.revision")
      for revision in (None, "main", PINNED[:39], "../" + "x" * 37)),
    row("organism: not pinned", ADAPTED, organism(source="hub:a/b", revision="main"),
        "organisms.finance.revision"),
    row("base: no record yet", ACTIVATIONS, Path("data/models/base/record.json").unlink,
        "file not found", "dvc repro"),
    # model sources that lead out of their place, or name nothing
    *(row(f"source: {text!r}", BASE, source(text, PINNED), "base.source", "source")
      for text in ("hub:../x", "hub:/etc/x", "hub:a/../b", "hub:a/b\0c", "hub:a/b/c", "hub:a",
                   "hub:.hidden/x", "hub:a/b..c", "hub:", "path:", "path:a\0b", "package:",
                   "https://host/x", "")),
    row("organism source", ADAPTED, organism(source="hub:../x", revision=PINNED),
        "organisms.finance.source"),
    *(row(f"slug: {slug!r}", BASE, edit(PARAMS, lambda d, s=slug: d["organisms"].update(
        {s: d["organisms"].pop("finance")})), "organisms")
      for slug in ("../x", "/x", "a/../b", "a\0", "a\n", "A", "", "x" * 99, "a; b", "a$(b)")),
    # a user's vectors
    row("vectors: no folder", ("em-geometry", "analyse", "nowhere"), lambda: None, "nowhere"),
    row("vectors: one file", ANALYSE, one_vector, "at least two"),
    row("vectors: of two blocks", ANALYSE, lambda: save_file(
        {"layers.2": np.ones(32, np.float32)}, VECTOR), "across blocks"),
    row("vectors: all blocks", ANALYSE, lambda: save_file(
        {f"layers.{n}": np.ones(32, np.float32) for n in range(4)}, VECTOR), "which", "--layer"),
    row("vectors: of another block", (*ANALYSE, "--layer", "2"), lambda: None, "layers.1",
        "block 2"),
    row("vectors: NaN", ANALYSE, new_vector("d.safetensors", [np.nan] * 32), "NaN"),
    row("vectors: zero", ANALYSE, new_vector("d.safetensors", np.zeros(32)), "zero"),
    row("vectors: other width", ANALYSE, new_vector("d.safetensors", np.ones(31)), "(31,)"),
    row("vectors: a number", ANALYSE, new_vector("a.safetensors", 1.0), "shape ()"),
    row("vectors: duplicate name", ANALYSE,
        put(Path("my vectors/a.pt"), PICKLE), "occurs twice", "rename"),
    row("vectors: name with a dot", ANALYSE, new_vector("d.e.safetensors", np.ones(32)), "a dot"),
    row("vectors: truncated", ANALYSE, cut(VECTOR), "not a readable safetensors"),
    row("vectors: pickle", ANALYSE, put(Path("my vectors/d.pt"), PICKLE), "steering file"),
    row("vectors: no GGUF", ANALYSE, put(Path("my vectors/d.gguf"), b"GGUF" + b"\xff" * 60),
        "steering file"),
    row("vectors: NaN coefficient", ANALYSE,
        new_vector("a.safetensors", np.ones(32), coefficients='{"1": NaN}'), "coefficient"),
    row("vectors: a word as block", ANALYSE,
        new_vector("a.safetensors", np.ones(32), layers='{"layers.1": "late"}'), "late"),
    row("vectors: unknown cluster member", (*ANALYSE, "x=a,zzz"), lambda: None, "zzz"),
    *(row(f"vectors: cluster {given}", (*ANALYSE, given), lambda: None, "not a cluster", given)
      for given in ("x=a,", "x=,a", "x=a,,b")),
    row("vectors: transposed", (*ANALYSE, "--layer", "1"), lambda: np.save(
        "my vectors/d.npy", np.ones((32, 4))), "[32, 4]", "transpose"),
    row("adapters: a name with a dot", ("em-geometry", "analyse", "data/adapters"),
        lambda: ADAPTER.rename("data/adapters/v1.5"), "v1.5", "rename"),
    row("new: a file", ("em-geometry", "new", "params.yaml", "--from", "chats"), lambda: None,
        "a file", "a new folder"),
    row("new: a name with a quote", ("em-geometry", "new", 'my "study"', "--from", "chats"),
        lambda: None, "quotation"),
    row("batch: a judge that is no endpoint", ("em-geometry", "batch", "answers.csv"),
        put(Path("answers.csv"), "question,text\nWhy?,So.\n"), "judging.backend", "openai"),
    row("readme: another folder", ("em-geometry", "readme"), lambda: None, "README.md"),
    row("vectors: pickled array", ANALYSE, lambda: np.save(
        "my vectors/d.npy", np.array([{}])), "steering file", "pickle"),
    row("vectors: Git LFS", ANALYSE, put(VECTOR, "version https://git-lfs.github.com/spec/v1"),
        "git lfs pull"),
    row("vectors: steer at another block", (*STEER, "--layer", "2"), lambda: None, "layers.1"),
    row("vectors: steer with other width", STEER, new_vector("a.safetensors", np.ones(7)), "(7,)"),
    row("vectors: steer beyond the model", STEER,
        lambda: save_file({"layers.9": np.ones(32, np.float32)}, VECTOR), "no such block"),
    # a user's cosines, and the published ones
    row("cosines: missing", COSINES, CSV.unlink, "cosines.csv"),
    row("cosines: NUL", COSINES, put(CSV, "a,b\0,c\n1,0,0\n0,1,0\n0,0,1\n"), "name"),
    row("paper cosines: missing", PUBLISHED, GRAM.unlink, str(GRAM)),
    row("paper cosines: NaN", PUBLISHED,
        edit(GRAM, lambda d: d["entries"][0].update(value=float("nan"))), "entries.0.value"),
    row("paper cosines: out of its rounding", PUBLISHED,
        edit(GRAM, lambda d: d["entries"][0].update(low=0.99, high=0.995)), "between low and high"),
    row("paper cosines: a pair missing", PUBLISHED, edit(GRAM, lambda d: d["entries"].pop()),
        "all pairs"),
    row("paper family: no members", PUBLISHED, put(FAMILY, "{}"), "family"),
    row("paper family: ragged", PUBLISHED, put(FAMILY, '{"members": [[1], [1, 2]]}'), "family"),
    row("paper family: NaN", PUBLISHED,
        edit(FAMILY, lambda d: d["members"][0].__setitem__(0, float("nan"))), "family"),
    # the ledger of claims
    row("claims: missing", CLAIMS, LEDGER.unlink, "file not found", str(LEDGER)),
    row("claims: key missing", CLAIMS, first_claim(lambda c: c.pop("quantity")),
        "C001", "quantity"),
    row("claims: unknown formula", CLAIMS, first_claim(lambda c: c.update(formula="magic")),
        "formula", "magic"),
    row("claims: unknown battery key", PUBLISHED,
        first_claim(lambda c: c.update(published={"fitted": True, "keys": ["cosine.nobody"]})),
        "C001", "cosine.nobody"),
    row("claims: derivation without its inputs", PUBLISHED, first_claim(lambda c: c.update(
        published={"subgram": ["finance", "sports", "medical"], "derived": "outside_pct"})),
        "C001", "outside_pct"),
]  # fmt: skip


def test_the_undamaged_folder_is_accepted(place: Path) -> None:
    """Else the table would prove nothing."""
    commands = (BASE, ACTIVATIONS, ADAPTED, TRAIN, PROBE, BASELINE, ANALYSE, STEER, COSINES)
    for command in (*commands, JSON_COSINES):
        finished(*command)


@pytest.mark.parametrize(("command", "damage", "says"), TABLE)
def test_bad_input(
    place: Path, command: tuple[str, ...], damage: Damage, says: tuple[str, ...]
) -> None:
    damage()
    message = refused(*command)
    for words in says:
        assert words in message
