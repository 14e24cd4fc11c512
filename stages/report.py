"""Stage `report`: the figures and the page; an input that is missing is named in its place."""

from em_geometry.claims.ledger import read_claims
from em_geometry.claims.lookup import Metrics
from em_geometry.claims.verdict import judge_claim
from em_geometry.io.files import atomic_path, write_text
from em_geometry.project import paths
from em_geometry.project.command import stage
from em_geometry.report.figures import READ, draw_all, model_name, read_table
from em_geometry.report.ledger import draw_ledger
from em_geometry.report.page import Picture, render
from em_geometry.report.provenance import provenance
from em_geometry.report.samples import read_answers
from em_geometry.settings import Params

OFFERED = ("claims.csv", "transfer_conditions.csv", "sensitivity.csv")  # for download


@stage
def main(params: Params) -> None:
    metrics = Metrics.read(paths.TABLES, params.profile)
    ledger = read_claims(paths.CLAIMS)
    tables = {name: read_table(paths.plot(f"{name}.csv")) for name in READ}
    pictures = []
    for figure in draw_all(params, metrics, ledger, tables):
        pictures.append(Picture(figure, figure.svg()))
        if figure.name.startswith("figure"):
            write_text(paths.plot(f"{figure.name}.svg"), pictures[-1].svg)
            with atomic_path(paths.plot(f"{figure.name}.png")) as temporary:
                temporary.write_bytes(figure.png())
    claims = []
    if paths.plot("claims.csv").is_file():  # the stage `claims` has run
        claims = [judge_claim(claim, metrics, params.report.wide_interval) for claim in ledger]
        draw_ledger(claims, model_name(params), paths.PLOTS)
    offered = {name: paths.plot(name) for name in OFFERED}
    page = render(
        params,
        metrics,
        model_name(params),
        claims,
        pictures,
        read_answers(params, paths.JUDGEMENTS),
        {name: p.read_text(encoding="utf-8") for name, p in offered.items() if p.is_file()},
        provenance(
            params,
            metrics.text("judge", "judge"),
            paths.BASE_MODEL / "record.json",
            paths.LOCK,
            paths.RESPONSES,
        ),
    )
    write_text(paths.REPORT, page)
    print(f"{paths.REPORT}: {len(page.encode()) / 1e6:.2f} MB, {len(pictures)} figures")
