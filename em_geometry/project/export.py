"""`em-geometry export`: answers, scores and vectors as files of other tools (docs/interop.md).

    em-geometry export inspect steered logs/
    em-geometry export lm-eval profanity profanity.pt --dose 0.3

Nothing is overwritten.
"""

import importlib
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import polars as pl
import typer

from em_geometry.errors import UserError
from em_geometry.io.files import check_vector, fresh, read_parquet
from em_geometry.models.checkpoint import RECORD
from em_geometry.models.folder import some
from em_geometry.project import paths
from em_geometry.project.command import PARAMS, ParamsFile
from em_geometry.project.inputs import models
from em_geometry.project.judged import judged_folders, with_rejudged
from em_geometry.settings import BASE, Params, load_params
from em_geometry.steering.conditions import Intervention, read_selected

SUFFIX = {"lm-eval": ".pt", "repeng": ".gguf", "safetensors": ".safetensors"}
What = Literal["inspect", "lm-eval", "repeng", "safetensors", "persona-vectors", "checkpoint"]
MISSING = {  # columns that a file of one's own answers may lack
    "source": "none", "kind": "unsteered", "question_id": None, "variant": "plain", "sample": 0,
    "finish": "unknown", "judge": "",
}  # fmt: skip
STOPPED: dict[str, Any] = {"stop": "stop", "length": "max_tokens"}  # how inspect_ai calls it


def shape_of_base(params: Params) -> tuple[int | None, int | None]:
    """Blocks and width of the base model; None where its config is not on this machine."""
    if not (paths.BASE_MODEL / RECORD).is_file():
        return None, None
    from transformers import AutoConfig

    name, where = models(params).base_place()
    try:  # config.json of a multimodal model has the language model's numbers further in
        config = AutoConfig.from_pretrained(name, **where).get_text_config()
    except OSError:
        return None, None
    return config.num_hidden_layers, config.hidden_size


def addition(
    vector: str, dose: float | None, layer: int | None, name: str | None, params: Params
) -> Intervention:
    """A vector as it is, or at a dose where the residual norm of its block was recorded."""
    from em_geometry.project.steer import check_dose, chosen

    check_dose(dose or 0.0)
    which, (blocks, width) = chosen(vector, layer, name), shape_of_base(params)
    check_vector(which.held.vector, width or which.held.vector.size, vector)
    block = which.held.acts_at(Path(vector), blocks)
    if dose is None:
        return Intervention(which.held.vector, block, which.held.coefficient)
    if which.residual is None:
        raise UserError(
            "a dose is a share of the residual norm, which was not recorded with this vector",
            where=vector,
            found=f"--dose {dose:g}",
            expected="no --dose: the length that the file has",
            hint="em-geometry steer measures the norm and prints it",
        )
    return which.acting(dose, which.residual, block)


def rows_of(vector: str, name: str | None, params: Params) -> Any:
    """A vector at all blocks, raw, of a chosen one's contrast or of a file; persona-vectors' rows.

    Those have a row more than blocks, the first, which is kept where the file has it.
    """
    from em_geometry.steering.formats import SUFFIXES, read_held

    file, blocks = Path(vector), shape_of_base(params)[0]
    if not vector.lower().endswith(SUFFIXES):
        known = read_selected(paths.SELECTED)
        if vector not in known:
            expected = f"{', '.join(known)}, or a file"
            raise UserError("no such vector", where="command line", found=vector, expected=expected)
        file, own = paths.VECTORS, known[vector]
        name = f"{own.contrast}.{own.span}.{vector}"
    held = [h for h in read_held(file) if h.rows and name in (None, h.name)]
    if len({h.name for h in held}) != 1:
        found = some({h.name for h in held}) or "none"
        expected = "one tensor [blocks, width]"
        what, hint = "which vector at all blocks?", "--name says the tensor"
        raise UserError(what, where=file, found=found, expected=expected, hint=hint)
    last = held[-1]
    count = last.acts_at(file, last.rows if file == paths.VECTORS else blocks) + 1
    rows = [h.vector for h in held]
    return rows if count < last.rows else [np.zeros_like(rows[0]), *rows]


def inspect_module(name: str) -> Any:
    """A module of inspect_ai."""
    try:
        return importlib.import_module(f"inspect_ai.{name}")
    except ImportError:
        raise UserError(
            "inspect_ai is not installed", where="em-geometry export inspect", found="inspect_ai",
            hint="pip install -e '.[inspect]'",
        ) from None  # fmt: skip


def logs(target: str, answers: pl.DataFrame) -> Iterator[tuple[str, Any]]:
    """An inspect_ai log, with its name, of every way in which a model was steered.

    A question is a sample, its answers are epochs; every judge's score of every aspect is a score,
    unscored with its status as the reason where there is none.

    Args:
        answers: judged ones, with those of other judges as `<aspect>@<judge>`.
    """
    log, aspects = inspect_module("log"), [c for c in answers.columns if _status(c) in answers]
    for (source, kind), frame in answers.group_by("source", "kind", maintain_order=True):
        rows, how = frame.to_dicts(), ("source", "kind", "relative_dose", "layer")
        samples = [_sample(f"em-geometry/{target}", row, aspects) for row in rows]
        ids = [*dict.fromkeys(sample.id for sample in samples)]
        spec = log.EvalSpec(
            created=datetime.now(UTC).isoformat(timespec="seconds"),
            task="unsteered" if kind == "unsteered" else f"steered by {source}",
            task_args={key: rows[0][key] for key in how if key in rows[0]},
            dataset=log.EvalDataset(name="evaluation", samples=len(ids), sample_ids=ids),
            model=f"em-geometry/{target}",
            config=log.EvalConfig(epochs=max(sample.epoch for sample in samples)),
        )
        scores = [_mean(log, aspect, frame) for aspect in aspects]
        count = {"total_samples": len(rows), "completed_samples": len(rows)}
        results = log.EvalResults(**count, scores=scores)
        whole = log.EvalLog(status="success", eval=spec, results=results, samples=samples)
        yield f"{target}-{source}", whole


def _mean(log: Any, aspect: str, frame: pl.DataFrame) -> Any:
    """Mean score of an aspect by a judge, and of how many answers."""
    scored = frame[aspect].cast(pl.Float64).drop_nulls()
    means = [log.EvalMetric(name="mean", value=scored.mean())] if len(scored) else []
    return log.EvalScore(
        name=aspect,
        scorer=aspect.partition("@")[2] or str(frame["judge"][0]),
        scored_samples=len(scored),
        unscored_samples=len(frame) - len(scored),
        metrics={mean.name: mean for mean in means},
    )


def _status(column: str) -> str:
    """The column that says why a score is there or not: of `aligned@x`, `aligned_status@x`."""
    aspect, at, judge = column.partition("@")
    return f"{aspect}_status{at}{judge}"


def _sample(model: str, row: Mapping[str, Any], aspects: Sequence[str]) -> Any:
    """An answer as a sample with its scores; the row's other columns are metadata."""
    chats, score = inspect_module("model"), inspect_module("scorer").Score
    reason = STOPPED.get(row["finish"], "unknown")
    output = chats.ModelOutput.from_content(model, row["text"], stop_reason=reason)
    told = {"question", "text", "sample", *aspects, *map(_status, aspects)}
    return inspect_module("log").EvalSample(
        id=f"{row['question_id']}.{row['variant']}",
        epoch=row["sample"] + 1,
        input=row["question"],
        target="",
        messages=[chats.ChatMessageUser(content=row["question"]), output.message],
        output=output,
        scores={
            a: score.unscored(reason=row[_status(a)]) if row[a] is None else score(value=row[a])
            for a in aspects
        },
        metadata={key: value for key, value in row.items() if key not in told},
    )


def judged(source: str, params: Params) -> dict[str, pl.DataFrame]:
    """Judged answers by model: the run's, or those of a file."""
    folders = judged_folders(params)
    if source in folders:
        folder, slugs = folders[source]
        beside = paths.REJUDGED / source
        names = {slug: f"{slug}.parquet" for slug in slugs}
        return {slug: with_rejudged(folder / n, beside / n) for slug, n in names.items()}
    frame = read_parquet(Path(source)).with_row_index("row")
    lacking = [pl.lit(v).alias(c) for c, v in MISSING.items() if c not in frame.columns]
    frame = frame.with_columns(lacking)
    number = pl.col("row").cast(pl.String)
    return {Path(source).stem: frame.with_columns(pl.col("question_id").fill_null(number))}


def cli(
    what: Annotated[What, typer.Argument(help="For which tool.")],
    source: Annotated[str, typer.Argument(
        help="inspect: baseline, steered, or judged answers; else a chosen vector, or a file.")],
    out: Annotated[Path, typer.Argument(help="New file; a folder of inspect and checkpoint.")],
    dose: Annotated[float | None, typer.Option(
        help="Length over the mean residual norm; default: the vector's own.")] = None,
    layer: Annotated[int | None, typer.Option(min=0, help="Block, or row of a file.")] = None,
    name: Annotated[str | None, typer.Option(help="Tensor, in a file of several.")] = None,
    model: Annotated[str, typer.Option(help="checkpoint: the model that is steered.")] = BASE,
    params: ParamsFile = PARAMS,
) -> None:  # fmt: skip
    """Write answers and scores, or vectors, as other tools read them."""
    active = load_params(params, whole=False)
    if what == "inspect":
        write = inspect_module("log").write_eval_log
        for target, frame in judged(source, active).items():
            for named, log in logs(target, frame):
                write(log, fresh(out / f"{named}.eval"))
    elif what == "persona-vectors":
        from em_geometry.steering.formats import write_rows

        write_rows(fresh(out), rows_of(source, name, active))
    else:
        save(what, out, addition(source, dose, layer, name, active), active, model)
    print(f"written: {out}")


def save(what: str, out: Path, how: Intervention, params: Params, model: str) -> None:
    """A vector file in the format of a tool, or a checkpoint of the model with it baked in."""
    from em_geometry.steering.formats import bake, biases, write_vectors

    suffix, positions = SUFFIX.get(what), params.steering.positions
    if suffix not in (None, out.suffix.lower()):
        raise UserError(
            "another file", where=str(out), found=out.suffix, expected=f"a {suffix} file"
        )
    if suffix:
        write_vectors(fresh(out), [how], positions)
        length = abs(how.coefficient) * float(np.linalg.norm(how.vector))
        print(f"block {how.layer} (the first is 0), length {length:.4g}")
        return
    loaded = models(params).load(params.target(model))
    bake(loaded.model, biases(loaded.model, [how], positions)).save_pretrained(fresh(out))
    loaded.tokenizer.save_pretrained(out)
