"""Stage `probe_judge`: trains the embedded judge, a probe on the base model's activations."""

from em_geometry.judging import probe
from em_geometry.judging.labels import Labelled
from em_geometry.project import paths
from em_geometry.project.command import stage
from em_geometry.project.inputs import models
from em_geometry.settings import BASE, Params


@stage
def main(params: Params) -> None:
    settings, aspects = params.judging.probe, params.judging.aspects
    data, system = Labelled.read(settings, aspects), params.base.system_prompt
    loaded = models(params).load(BASE)
    probes = probe.train(loaded, data.train, data.sampled_train, settings, aspects, system)
    probe.save(probes, loaded.sha256, paths.JUDGE_MODEL)
