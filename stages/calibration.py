"""Stage `calibration`: intervals, nulls and power for the measured geometry. No model runs."""

from __future__ import annotations

from em_geometry.geometry.calibration import calibrate_rows
from em_geometry.geometry.power import curves
from em_geometry.io.files import write_text
from em_geometry.io.results import Leaf, write_results
from em_geometry.io.tables import csv_text
from em_geometry.project import paths
from em_geometry.project.command import PARAMS, ParamsFile, run
from em_geometry.project.readers import read_evidence
from em_geometry.settings import Params, load_params
from em_geometry.steering.selected import read_selected
from em_geometry.vectors.evidence import evidence

HEADLINE = (
    "effective_dimension.*",
    "core",
    "core.p",
    "statistic.cluster_angle.*_deg",
    "statistic.similarity.cross_mean",
    "statistic.statistic.test?.covariance.p",
    "power.test?.verdict_paper",
)


def main(params: Params) -> None:
    """Calibrates the geometry of the selected vectors."""
    organisms, spans = params.organisms, params.activations.spans
    selected = read_selected(paths.SELECTED, params.slugs("organism"))
    share = params.geometry.massive_share
    data, contrast, span = evidence(
        read_evidence(), selected, organisms, spans, params.vectors, share
    )
    found = calibrate_rows(data, params.geometry, params.run.seed)
    assert found.sweep is not None
    results: dict[str, Leaf] = {"contrast": contrast, "span": span, **found.results}
    write_results(paths.table("calibration"), paths.metrics("calibration"), results, HEADLINE)
    write_text(paths.plot("power.csv"), csv_text(*curves(found.sweep)))
    write_text(paths.plot("nulls.csv"), csv_text(*found.nulls_table()))


def cli(params: ParamsFile = PARAMS) -> None:
    """Calibrate the geometry: intervals, nulls and power."""
    main(load_params(params))


if __name__ == "__main__":
    run(cli)
