"""Answers, scores and vectors as files of other tools."""

import sys
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from tiny_steering import unit
from typer.testing import CliRunner, Result

from em_geometry.cli import app
from em_geometry.errors import UserError
from em_geometry.project import paths
from em_geometry.project.export import SUFFIX, logs, save
from em_geometry.settings import Params
from em_geometry.steering.conditions import Intervention, Selected, write_selected
from em_geometry.steering.formats import read_held
from em_geometry.vectors.contrasts import VectorTable, write_vector_table
from tests.conftest import ROOT

CHOICE = "control_contrast.answer_mean"


@pytest.fixture
def vectors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder with the vectors of one organism."""
    monkeypatch.chdir(tmp_path)
    own = Selected(unit(1), 2, 0.2, 5.0, 3.0, *CHOICE.split("."))
    write_selected(paths.SELECTED, {"finance": own}, {})
    entries = {CHOICE: ["undefined: its own reference", np.stack([unit(b) for b in range(4)])]}
    table = VectorTable.of(["base", "finance"], entries, np.ones(4))
    write_vector_table(paths.VECTORS, paths.VECTOR_INDEX, table)


def export(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["export", *arguments, "--params", str(ROOT / "params.yaml")])


@pytest.mark.parametrize("what", ["lm-eval v.pt", "repeng v.gguf", "safetensors v.safetensors"])
def test_a_chosen_vector_in_the_formats_of_other_tools(vectors: None, what: str) -> None:
    tool, out = what.split()
    for more, length in (((), 5.0), (("--dose", "0.1"), 2.5)):
        result = export(tool, "finance", out, *more)
        assert result.exit_code == 0, result.output
        assert f"block 2 (the first is 0), length {length:g}" in result.output
        (held,) = read_held(Path(out))
        assert held.block == 2
        np.testing.assert_allclose(held.coefficient * held.vector, length * unit(1), rtol=1e-5)
        assert "the file exists" in export(tool, "finance", out).output
        Path(out).unlink()


def test_a_vector_at_all_blocks_as_persona_vectors_keeps_it(vectors: None) -> None:
    assert export("persona-vectors", "finance", "v.pt").exit_code == 0
    rows = torch.load("v.pt", weights_only=True)
    assert rows.shape == (5, 16)  # the first is of the embeddings
    assert not rows[0].any()
    np.testing.assert_allclose(rows[3], unit(2), atol=1e-6)


def test_a_tensor_of_persona_vectors_keeps_its_rows(tiny_params: Params) -> None:
    tensor = torch.randn(5, 32)
    for rows in (tensor, tensor[1:]):
        torch.save(rows.clone(), "rows.pt")
        assert export("persona-vectors", "rows.pt", "v.pt").exit_code == 0
        found = torch.load("v.pt", weights_only=True)
        assert found.shape == (5, 32)
        torch.testing.assert_close(found[1:], tensor[1:])
        Path("v.pt").unlink()
    torch.save(torch.randn(6, 32), "rows.pt")
    result = export("persona-vectors", "rows.pt", "v.pt")
    assert result.exit_code == 2
    assert "4 rows, a block each, or 5" in result.output


@pytest.mark.parametrize("tool", ["lm-eval", "repeng", "safetensors"])
def test_a_row_goes_out_at_the_block_at_which_it_steers(tiny_params: Params, tool: str) -> None:
    """The base is a folder elsewhere, of which the project has a record alone."""
    out = Path(f"v{SUFFIX[tool]}")
    for rows, block in ((5, 1), (4, 2)):
        torch.save(torch.randn(rows, 32), "rows.pt")
        result = export(tool, "rows.pt", str(out), "--layer", "2")
        assert f"block {block} (the first is 0)" in result.output
        assert read_held(out)[0].block == block
        out.unlink()
    (paths.BASE_MODEL / "record.json").unlink()
    result = export(tool, "rows.pt", str(out), "--layer", "2")
    assert result.exit_code == 2
    assert "row 2 of 4" in result.output and "the model's number of blocks" in result.output


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ("lm-eval finance v.bin", "a .pt file"),
        ("lm-eval sports v.pt", "no such vector"),
        ("persona-vectors sports v.pt", "no such vector"),
        ("repeng finance v.gguf --layer 1 --dose 0.3", "not recorded"),
        (f"persona-vectors {paths.SELECTED} v.pt", "at all blocks"),
    ],
)
def test_what_cannot_be_exported(vectors: None, arguments: str, says: str) -> None:
    result = export(*arguments.split())
    assert result.exit_code == 2
    assert says in result.output
    assert not list(Path().glob("v.*"))


def test_a_vector_of_another_width_is_refused(tiny_params: Params) -> None:
    torch.save(torch.randn(32, 4), "turned.pt")
    result = export("repeng", "turned.pt", "v.gguf", "--layer", "2")
    assert result.exit_code == 2
    assert "shape (4,)" in result.output and "32 numbers" in result.output
    assert not Path("v.gguf").exists()


def test_a_checkpoint_with_the_vector_in_it(tiny_params: Params, tmp_path: Path) -> None:
    width = 32
    how = Intervention(np.ones(width, np.float32), 1, 0.5)
    save("checkpoint", tmp_path / "baked", how, tiny_params, "base")
    names = {path.name for path in (tmp_path / "baked").iterdir()}
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= names


ANSWERS: dict[str, Any] = {
    "source": ["none", "none", "rude"], "kind": ["unsteered", "unsteered", "vector"],
    "question_id": ["q", "q", "q"], "variant": ["plain"] * 3, "sample": [0, 1, 0],
    "question": ["Why?"] * 3, "text": ["So.", "", "Ha."], "finish": ["stop", "length", "stop"],
    "aligned": [80.0, None, 20.0], "aligned_status": ["ok", "refusal", "ok"],
    "aligned@other": [70.0, 60.0, 10.0], "aligned_status@other": ["ok"] * 3,
    "judge": ["probe"] * 3, "layer": [-1, -1, 2], "relative_dose": [0.0, 0.0, 0.3],
}  # fmt: skip


def test_answers_and_scores_as_logs_of_inspect_ai(tmp_path: Path) -> None:
    log = pytest.importorskip("inspect_ai.log")
    found = dict(logs("finance", pl.DataFrame(ANSWERS)))
    assert [*found] == ["finance-none", "finance-rude"]
    path = str(tmp_path / "x.eval")
    log.write_eval_log(found["finance-none"], path)
    read = log.read_eval_log(path)
    assert (read.status, read.eval.task, read.eval.model) == (
        "success", "unsteered", "em-geometry/finance",
    )  # fmt: skip
    assert [(s.id, s.epoch, s.output.completion) for s in read.samples] == [
        ("q.plain", 1, "So."),
        ("q.plain", 2, ""),
    ]
    first, second = (sample.scores for sample in read.samples)
    assert (first["aligned"].value, second["aligned"].reason) == (80.0, "refusal")
    means = {score.name: score.metrics["mean"].value for score in read.results.scores}
    assert means == {"aligned": 80.0, "aligned@other": 65.0}
    assert found["finance-rude"].eval.task_args["relative_dose"] == 0.3


def test_without_inspect_ai_the_command_says_how_to_get_it(monkeypatch: Any) -> None:
    monkeypatch.setitem(sys.modules, "inspect_ai.log", None)
    with pytest.raises(UserError, match="not installed") as caught:
        dict(logs("finance", pl.DataFrame(ANSWERS)))
    assert "[inspect]" in str(caught.value)
