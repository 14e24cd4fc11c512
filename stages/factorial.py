"""Stage `factorial`: is it the laboratory or the mechanism?

Where `organisms.*.factors` name a designed experiment (profile `deconfounded`): the effect of each
factor on the angle between two vectors, on an organism's similarity to the base, and on the
difference of the two directions of transfer. In every profile: how far laboratory and cluster are
one and the same.
"""

from em_geometry.io.files import read_parquet
from em_geometry.io.results import Leaf, Nested, flatten
from em_geometry.project import paths
from em_geometry.project.command import stage
from em_geometry.project.evidence import evidence_of
from em_geometry.project.inputs import activations, prompts, selected
from em_geometry.project.outputs import put_results
from em_geometry.settings import BASE, Params
from em_geometry.transfer import factors
from em_geometry.transfer.outcomes import Margins
from em_geometry.transfer.prediction import gains
from em_geometry.vectors.contrasts import prompt_span
from em_geometry.vectors.evidence import prompt_rows

NO_FACTORS = "no factors named in params: organisms.*.factors"


def measured(params: Params, design: factors.Design) -> dict[str, Leaf | Nested]:
    """Effects of the factors on angles, on similarity to the base and on transfer."""
    slugs, seed = params.slugs("organism"), params.run.seed
    data, contrast, span = evidence_of(params)
    asked, vectors = prompts(), selected(params)
    of_prompts = prompt_span(params.vectors.span, params.activations.spans)
    blocks = [dict.fromkeys((BASE, slug), vectors[slug].layer) for slug in slugs]
    samples = [prompt_rows(activations, asked, "prompt_contrast", of_prompts, at) for at in blocks]
    transferred = gains(Margins.of(read_parquet(paths.MARGINS)), slugs)
    found: dict[str, Leaf | Nested] = {
        "angle_deg": {
            **factors.angle_effects(data.sample, design, seed),
            "contrast": contrast,
            "span": span,
        },
        "base_similarity": factors.similarity_effects(samples, design, seed),
        "asymmetry": factors.asymmetry_effects(transferred, design, seed),
    }
    return found | factors.verdicts(dict(flatten(found)), params.transfer.level)


@stage
def main(params: Params) -> None:
    """Writes confounding in every profile, and the factors' effects where there are factors."""
    organisms = [params.organisms[slug] for slug in params.slugs("organism")]
    groups = {"lab": [o.lab for o in organisms], "cluster": [str(o.cluster) for o in organisms]}
    levels = {f: [o.factors[f] for o in organisms] for f in organisms[0].factors}
    results: dict[str, Leaf | Nested] = {
        "status": "ok" if levels else NO_FACTORS,
        "organisms": len(organisms),
        "confounding": factors.confounding(levels or groups),
    }
    if levels:
        design = factors.Design(levels, [o.data for o in organisms])
        results |= {
            "first_level": {f: each[0] for f, each in levels.items()},
            "texts": len({*design.texts}),
            "texts_a_cell": design.texts_a_cell(),
            "texts_a_cell_needed": factors.NEEDED,
            **measured(params, design),
        }
    headline = ["status", "organisms", "texts*", "confounding.*.cramers_v", "*.effect.*"]
    put_results("factorial", results, headline)
