"""Stage `report`: the figures and the page.

    python -m em_geometry.report.make_report

Writes `plots/figure1..6.{png,svg}`, `plots/report.html` and `plots/claims_<unit>.csv`, from
metrics, plots and judged answers. An input that is missing is named where it would stand.
"""

from __future__ import annotations

from markupsafe import Markup

from em_geometry.io.atomic import atomic_path
from em_geometry.io.files import write_text
from em_geometry.project.command import PARAMS, ParamsFile
from em_geometry.report.chart import Figure
from em_geometry.report.figures import PLOTS, draw_all, model_name, read_table
from em_geometry.report.html import MAIN_FIGURES, Picture, render
from em_geometry.report.ledger import draw_ledger
from em_geometry.report.lookup import Metrics
from em_geometry.report.samples import read_answers
from em_geometry.settings.params import Params, load_params

PAGE = PLOTS / "report.html"
OFFERED = ("claims.csv", "transfer_conditions.csv", "sensitivity.csv")  # for download


def main(params: Params) -> None:
    """Draws the figures and renders the page."""
    metrics = Metrics.read(profile=params.profile)
    pictures = [_picture(figure) for figure in draw_all(params, metrics)]
    claims = read_table(PLOTS / "claims.csv")
    if claims is not None:
        draw_ledger(claims, model_name(params), PLOTS)
    files = {
        name: (PLOTS / name).read_text(encoding="utf-8")
        for name in OFFERED
        if (PLOTS / name).is_file()
    }
    page = render(params, metrics, pictures, read_answers(params), files)
    write_text(PAGE, page)
    print(f"{PAGE}: {len(page.encode()) / 1e6:.2f} MB, {len(pictures)} figures")


def _picture(figure: Figure) -> Picture:
    """The figure for the page; the main figures are files of their own too."""
    text = figure.svg()
    if figure.name in MAIN_FIGURES:
        write_text(PLOTS / f"{figure.name}.svg", text)
        with atomic_path(PLOTS / f"{figure.name}.png") as temporary:
            temporary.write_bytes(figure.png())
    svg = Markup(text)  # noqa: S704 (our own drawing)
    return Picture(figure.name, figure.title, figure.caption, svg, figure.spec())


def cli(params: ParamsFile = PARAMS) -> None:
    """Draw the figures and write the report page."""
    main(load_params(params))
