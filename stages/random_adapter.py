"""Stage `random_adapter`: an adapter of a trained one's shapes and norms, in random directions."""

from em_geometry.errors import UserError
from em_geometry.hashing import stream_key
from em_geometry.models.train import draw_adapter
from em_geometry.project import paths
from em_geometry.project.command import stage
from em_geometry.project.inputs import models
from em_geometry.settings import Params


@stage
def main(params: Params, *slugs: str) -> None:
    """Draws the adapters of these names, all of `random_adapters` where none is given."""
    for slug in slugs or params.random_adapters:
        if slug not in params.random_adapters:
            known = "one of " + (", ".join(params.random_adapters) or "none")
            raise UserError("unknown adapter", where="command line", found=slug, expected=known)
        like = params.random_adapters[slug]
        seed = stream_key(params.run.seed, "random adapter", slug)
        draw_adapter(models(params), like, seed, paths.ADAPTERS / slug)
