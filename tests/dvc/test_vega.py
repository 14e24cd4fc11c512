"""`dvc plots show` needs no network: the page holds the library that DVC's own page fetches."""

from pathlib import Path

from em_geometry.project.plots_page import cli
from tests.dvc.conftest import Place


def test_dvc_writes_a_page_that_fetches_nothing(place: Place) -> None:
    (place.folder / "curve.csv").write_text("x,y\n0,1\n1,2\n")
    graph = place.folder / "dvc.yaml"
    graph.write_text(graph.read_text() + "plots:\n  - curve.csv: {x: x, y: y}\n")
    cli(place.folder / ".dvc/tmp/plots.html")
    place.dvc("config", "--local", "plots.html_template", "tmp/plots.html")
    place.dvc("plots", "show", "-o", "out")
    page = Path(place.folder / "out/index.html").read_text(encoding="utf-8")
    assert "window.vegaEmbed" in page
    assert "vegaEmbed('#curve_csv'" in page
    assert '<script src="' not in page
    assert "{plot_divs}" not in page
