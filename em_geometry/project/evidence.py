"""What lies behind the selected vectors of the run."""

from em_geometry.geometry.references import Evidence, Finetunes
from em_geometry.project.inputs import activations, prompts, selected, texts
from em_geometry.settings import Params
from em_geometry.vectors.contrasts import recipe_controls
from em_geometry.vectors.evidence import evidence


def evidence_of(params: Params, read_as: str | None = None) -> tuple[Evidence, str, str]:
    """What lies behind the selected vectors, with their contrast (or another) and span."""
    organisms, random = params.organisms, [*params.random_adapters]
    slugs, repeats = (params.slugs("organism"), params.slugs("control")), params.repeats()
    family = Finetunes(*slugs, recipe_controls(organisms), repeats, random)
    who = family, params.clusters(), {slug: o.data for slug, o in organisms.items()}
    spans, share = params.spans(), params.geometry.massive_share
    frames = prompts(), texts(), selected(params)
    return evidence(activations, *frames, *who, spans, share, read_as)
