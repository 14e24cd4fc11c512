"""Stage `report`: the figures and the page; an input that is missing is named in its place."""

from em_geometry.claims.ledger import read_claims
from em_geometry.claims.lookup import Metrics
from em_geometry.claims.verdict import judge_claim, printed_beside
from em_geometry.io.files import atomic_path, write_text
from em_geometry.project import paths
from em_geometry.project.command import stage
from em_geometry.project.outputs import put_rows, put_summary
from em_geometry.report.families import with_families
from em_geometry.report.figures import READ, draw_all, read_table
from em_geometry.report.findings import summary
from em_geometry.report.page import provenance, render
from em_geometry.report.samples import read_answers
from em_geometry.report.tables import Results
from em_geometry.settings import Params

OFFERED = ("claims.csv", "papers.csv", "contradictions.csv", "judge_settings.csv", "multiverse.csv")


@stage
def main(params: Params) -> None:
    model = params.model_name
    ran = Metrics.read(paths.TABLES, params.more.experiments)
    metrics = with_families(ran, model, paths.FAMILIES, params)
    ledger = read_claims(paths.CLAIMS)
    judged = [judge_claim(claim, metrics) for claim in ledger]
    told = judged if paths.plot("claims.csv").is_file() else []  # the stage `claims` has run
    put_summary(summary(Results(metrics.stages, params), told, model))
    put_rows("versus_paper", printed_beside(told))
    tables = {name: read_table(paths.plot(f"{name}.csv")) for name in READ}
    figures = draw_all(params, model, metrics, judged, tables)
    with atomic_path(paths.PRINT, folder=True) as folder:
        for figure in figures:
            write_text(folder / f"{figure.name}.svg", figure.svg)
            (folder / f"{figure.name}.pdf").write_bytes(figure.file("pdf"))
    for figure in figures:
        with atomic_path(paths.plot(f"{figure.name}.png")) as temporary:
            temporary.write_bytes(figure.file("png"))
    offered = {name: paths.plot(name) for name in OFFERED}
    shown, answers = params.report.responses_shown, (paths.BASELINE_JUDGEMENTS, paths.JUDGEMENTS)
    record, word = paths.BASE_MODEL / "record.json", metrics.word("judge:judge")
    page = render(
        params,
        metrics,
        model,
        told,
        figures,
        read_answers(answers, params.originals(), params.judging.aspects, shown),
        {name: p.read_text(encoding="utf-8") for name, p in offered.items() if p.is_file()},
        provenance(params, word, record, paths.LOCK),
    )
    write_text(paths.REPORT, page)
    print(f"{paths.REPORT}: {len(page.encode()) / 1e6:.2f} MB, {len(figures)} figures")
