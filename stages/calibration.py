"""Stage `calibration`: intervals, nulls and power for the measured geometry. No model runs."""

from em_geometry.geometry.calibration import calibrate_rows
from em_geometry.io.results import Leaf
from em_geometry.project.command import stage
from em_geometry.project.evidence import evidence_of
from em_geometry.project.outputs import put_plot, put_results
from em_geometry.settings import Params

HEADLINE = (
    "effective_dimension.finetunes",
    "core",
    "core.p",
    "statistic.similarity.cross_mean.exchanged.p",
    "power.test?.verdict_paper",
)


@stage
def main(params: Params) -> None:
    data, contrast, span = evidence_of(params)
    found = calibrate_rows(data, params.geometry, params.run.seed)
    assert found.sweep is not None
    results: dict[str, Leaf] = {"contrast": contrast, "span": span, **found.results}
    put_results("calibration", results, HEADLINE)
    put_plot("power", *found.sweep.table())
    print(found)
