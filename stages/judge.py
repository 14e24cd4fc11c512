"""Stage `judge`: how far the judges in use agree with labels made by reading.

The active judge, and the embedded one beside it, are asked about answers that neither was trained
on. What they said is in the journal, so that another cut asks about nothing that it already knows.
"""

from typing import Any

import polars as pl

from em_geometry.judging import probe, validation
from em_geometry.judging.labels import Labelled
from em_geometry.judging.score import active_judge, refuse_failed
from em_geometry.project import paths
from em_geometry.project.command import stage
from em_geometry.project.inputs import models
from em_geometry.project.outputs import put_results
from em_geometry.settings import Params

HEADLINE = ("judge", "gate.*", "gate.*.event_kappa", "gate.*.auroc")  # pooled, and by model


@stage
def main(params: Params) -> None:
    judging, organisms = params.judging, params.slugs("organism")
    data = Labelled.read(judging.probe, judging.aspects)
    common = data.held_out if data.sampled is None else data.sampled
    raters, found, asked = {"label": common["aligned"].to_numpy()}, dict[str, Any](), []
    for backend in dict.fromkeys(("probe", judging.backend)):
        settings = judging.model_copy(update={"backend": backend})
        with active_judge(settings, models(params), paths.JUDGE_MODEL, params.workers) as judge:
            asking = validation.Validation(judge, judging)
            found[backend] = asking.whole(data, organisms)
            raters[backend] = asking.scores(validation.texts_of(common))["aligned"]
            asked += asking.asked
    every = pl.concat(asked, how="diagonal_relaxed")
    refuse_failed([every.unique(["question", "text", "judge"])], judging.allow_errors)
    active = found.pop(judging.backend)
    active["aspects"] = {a: validation.believed(active, a) for a in judging.aspects}
    more = 0 if data.sampled_train is None else len(data.sampled_train)
    counts = {"n_train": len(data.train) + more, "n_counted": more or len(data.train)}
    results = {"probe": {a: c | counts for a, c in probe.chosen(paths.JUDGE_MODEL).items()}}
    results |= active
    results |= {"others": found, "agreement": validation.raters_agreement(raters, judging)}
    put_results("judge", results, HEADLINE)
    print(f"{active['judge']}: gate {active['gate']['says']}")
    for aspect, status in active["aspects"].items():
        print(f"{aspect}: {status}")
