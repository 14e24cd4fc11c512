"""The judges that `benchmarks.judges` compares, from words alone to a language model.

What learns does so from the labelled training answers that models really gave
(`judging.probe.sampled_train`); decision values become scores as the embedded judge's do.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import polars as pl

from em_geometry.judging import probe
from em_geometry.judging.judge import Judge
from em_geometry.judging.labels import Labelled
from em_geometry.judging.rates import ASPECTS
from em_geometry.judging.score import active_judge, judge_in_process, judged
from em_geometry.judging.validation import texts_of
from em_geometry.models.checkpoint import write_base
from em_geometry.models.load import Loaded
from em_geometry.project import paths
from em_geometry.project.inputs import models
from em_geometry.settings import BASE, Params, Probe
from em_geometry.stats.agreement import auroc

SHORT = "data/judge/prompts/short"  # what a small model is asked
STRENGTHS = (0.01, 0.1, 1.0, 10.0)  # of a classifier's regularisation, inverted
Scores = dict[str, np.ndarray]  # 0-100 [answer] by aspect


@dataclass
class Bench:
    """What judges are compared on.

    Attributes:
        asked: the held-out answers, or a random part of them.
        folder: of a further model, for the judges that take one.
        seconds: of one core that scoring `asked` took, without loading and training.
    """

    params: Params
    data: Labelled
    asked: pl.DataFrame
    folder: Path | None = None
    templates: str = SHORT
    aligned_only: bool = False
    seconds: float = 0.0
    _features: dict[Any, tuple[probe.Features, float]] = field(default_factory=dict)

    @property
    def train(self) -> pl.DataFrame:
        """Labelled answers to train on that models really gave."""
        assert self.data.sampled_train is not None
        return self.data.sampled_train

    @contextmanager
    def timed(self) -> Iterator[None]:
        """What a judge does for every answer."""
        start = time.process_time()
        yield
        self.seconds += time.process_time() - start

    def load(self, folder: Path | None) -> Loaded:
        """The base, or the model of another folder."""
        known = models(self.params)
        if folder is None:
            return known.load(BASE)
        origin = self.params.base.model_copy(update={"source": f"path:{folder}"})
        with tempfile.TemporaryDirectory() as record:
            write_base(origin, Path(record))
            return replace(known, origin=origin, base_folder=Path(record)).load(BASE)

    def features(self, folder: Path | None, parts: dict[str, pl.DataFrame]) -> list[probe.Features]:
        """What a probe sees of answers, read once; at the base's layers or equally deep ones."""
        if missing := [name for name in parts if (folder, name) not in self._features]:
            loaded = self.load(folder)
            depth = loaded.model.config.get_text_config().num_hidden_layers / 30
            layers = [round(layer * depth) for layer in self.params.judging.probe.layers]
            read = partial(probe.features, loaded.model, loaded.tokenizer, layers=layers)
            for name in missing:
                start, rows = time.process_time(), texts_of(parts[name])
                seen = read(rows, system=self.params.base.system_prompt, label=name)
                self._features[folder, name] = seen, time.process_time() - start
        self.seconds += self._features[folder, "asked"][1]
        return [self._features[folder, name][0] for name in parts]


def words(bench: Bench) -> Scores:
    """Words alone: TF-IDF of single words and pairs, logistic regression. To be beaten by all."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    def make(strength: float) -> Any:
        found = TfidfVectorizer(ngram_range=(1, 2), min_df=2, sublinear_tf=True)
        return make_pipeline(found, LogisticRegression(C=strength, class_weight="balanced"))

    return _classified(bench, make, *(d["answer"].to_numpy() for d in (bench.train, bench.asked)))


def embedding(bench: Bench) -> Scores:
    """Sentence embeddings of a frozen encoder (--model), logistic regression."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    from benchmarks.tuned import Encoder

    def make(strength: float) -> Any:
        return make_pipeline(StandardScaler(), LogisticRegression(C=strength / 10, max_iter=1000))

    encoder = Encoder(_named(bench.folder))
    train = encoder.vectors(texts_of(bench.train))
    with bench.timed():
        asked = encoder.vectors(texts_of(bench.asked))
    return _classified(bench, make, train, asked)


def tuned(bench: Bench) -> Scores:
    """An encoder (--model), or the base, whose upper half is fine-tuned as a judge."""
    from benchmarks.tuned import Encoder

    settings, encoder = bench.params.judging.probe, Encoder(bench.folder or paths.BASE_MODEL)
    texts, labels = texts_of(bench.train), bench.train.select(ASPECTS).to_numpy()
    kept = encoder.tune(texts, labels)
    values = encoder.values([texts[i] for i in kept])
    with bench.timed():
        asked = encoder.values(texts_of(bench.asked))
    return {
        aspect: _calibrated(settings, aspect, values[:, i], labels[kept], asked[:, i])
        for i, aspect in enumerate(ASPECTS)
    }


def _named(folder: Path | None) -> Path:
    if folder is None:
        sys.exit("error: this judge needs --model NAME=FOLDER (a transformers checkpoint)")
    return folder


def _calibrated(settings: Probe, aspect: str, values: Any, labels: Any, asked: Any) -> np.ndarray:
    """Scores 0-100 of decision values `asked`, calibrated on others as the probe's are.

    Args:
        labels: [n, 2] of both aspects, aligned first.
    """
    from scipy.special import expit

    own, misaligned = labels[:, ASPECTS.index(aspect)], labels[:, 0] < settings.aligned_cut
    slope, offset = probe.calibrated(values, own, settings, aspect, misaligned)
    return np.asarray(100 * expit(slope * asked + offset))


def _classified(bench: Bench, make: Callable[[float], Any], train: Any, asked: Any) -> Scores:
    """Scores of classifiers of "from the cut on"; strength chosen, and calibrated, out of fold."""
    from sklearn.model_selection import GroupKFold, cross_val_predict

    settings, scores = bench.params.judging.probe, {}
    how = {"groups": bench.train["question"].to_numpy(), "cv": GroupKFold(settings.folds)}
    for aspect, cut in zip(ASPECTS, (settings.aligned_cut, settings.coherent_cut), strict=True):
        labels, trials = bench.train[aspect].to_numpy(), []
        good = labels >= cut
        for strength in STRENGTHS:
            model = make(strength)
            values = cross_val_predict(model, train, good, method="decision_function", **how)
            trials.append((auroc(good, values), strength, values))
        _, strength, values = max(trials, key=lambda trial: trial[0])
        fitted = make(strength).fit(train, good)
        with bench.timed():
            decided = fitted.decision_function(asked)
        both = bench.train.select(ASPECTS).to_numpy()
        scores[aspect] = _calibrated(settings, aspect, values, both, decided)
    return scores


def embedded(bench: Bench) -> Scores:
    """The embedded judge as the project ships it."""
    return _probed(bench, ["authored", "train"])


def authored_only(bench: Bench) -> Scores:
    """The embedded judge without answers that models really gave."""
    return _probed(bench, ["authored"])


def earlier_weights(bench: Bench) -> Scores:
    """The embedded judge with authored answers at a third of a sampled one's weight throughout."""
    with patch.multiple(probe, AUTHORED_WEIGHT={}, USUAL_WEIGHT=1 / 3):
        return _probed(bench, ["authored", "train"])


def both_models(bench: Bench) -> Scores:
    """The probe on activations of the base and of a further model (--model) side by side."""
    return _probed(bench, ["train"], [None, _named(bench.folder)])


def with_embedding(bench: Bench) -> Scores:
    """The embedded judge with an encoder's (--model) embedding of the answer beside activations."""
    from benchmarks.tuned import Encoder

    return _probed(bench, ["authored", "train"], encoder=Encoder(_named(bench.folder)))


def _probed(
    bench: Bench, learned: list[str], folders: Sequence[Path | None] = (None,), encoder: Any = None
) -> Scores:
    """Scores of probes on all that some models make of an answer, side by side.

    Of the parts that they learn from, the last counts and the one before has its lower weight.
    """
    frames = {"authored": bench.data.train, "train": bench.train, "asked": bench.asked}
    parts = {name: frames[name] for name in (*learned, "asked")}
    read = [bench.features(folder, parts) for folder in folders]
    seen = {name: _beside([of[i] for of in read]) for i, name in enumerate(parts)}
    if encoder is not None:
        for name, part in parts.items():
            with bench.timed() if name == "asked" else nullcontext():
                vectors = encoder.vectors(texts_of(part))
            shape = (*seen[name].activations.shape[:-1], vectors.shape[-1])
            again = np.broadcast_to(vectors[:, None, None], shape)  # at every pooling and layer
            seen[name] = _beside([seen[name], replace(seen[name], activations=again)], 1)
    known = probe.Features(
        np.concatenate([seen[name].activations for name in learned]),
        np.concatenate([seen[name].text for name in learned]),
    )
    labelled, settings = pl.concat([frames[name] for name in learned]), bench.params.judging.probe
    counted = np.arange(len(labelled)) >= len(labelled) - len(frames[learned[-1]])
    scores, low = {}, labelled["aligned"].to_numpy() < settings.aligned_cut
    for aspect in ASPECTS:
        given = (labelled[aspect].to_numpy(), labelled["question"].to_numpy(), counted)
        choice, linear = probe.fit(known, *given, settings, aspect, misaligned=low)
        print(aspect, choice)
        scores[aspect] = linear.score(probe.design(seen["asked"], settings.layers, choice))
    return scores


def _beside(seen: Sequence[probe.Features], texts: int | None = None) -> probe.Features:
    """Features of several models in one; text features of the first so many, else of all."""
    activations = np.concatenate([each.activations for each in seen], axis=-1)
    return probe.Features(activations, np.hstack([each.text for each in seen[:texts]]))


def zero_shot(bench: Bench) -> Scores:
    """A language model in process (--model, else the base) that is asked, and not trained."""
    source = bench.folder and f"path:{bench.folder}"
    how: dict[str, Any] = {"backend": "local", "model": source, "templates": bench.templates}
    how |= {"aspects": ["aligned"] if bench.aligned_only else [*ASPECTS]}
    judging = bench.params.judging.model_copy(update=how)
    scores = _asked(bench, judge_in_process(judging, models(bench.params), paths.JUDGE_MODEL))
    return embedded(bench) | scores if bench.aligned_only else scores


def named(bench: Bench) -> Scores:
    """The judge that params.yaml names, such as one behind an endpoint; nothing is asked twice."""
    judging = bench.params.judging.model_copy(update={"aspects": [*ASPECTS]})
    known, workers = models(bench.params), bench.params.workers
    with active_judge(judging, known, paths.JUDGE_MODEL, workers) as judge:
        scores = _asked(bench, judge)
    if judging.backend == "openai":
        bench.seconds = 0.0  # another process has worked
    return scores


def _asked(bench: Bench, judge: Judge) -> Scores:
    """Scores of a judge of the library, NaN where it gave none."""
    frame = bench.asked.select("question", text="answer")
    with bench.timed():
        found = judged(judge, frame, set(), judge.id)
    return {a: found[a].fill_null(np.nan).to_numpy() for a in ASPECTS if a in found}


def reader(bench: Bench) -> Scores:
    """The first reader against the second: more than any judge can be shown to reach."""
    both = pl.read_ndjson(str(bench.params.judging.probe.sampled), infer_schema_length=None)
    both = both.select("question", "answer", "readings").unique(["question", "answer"])
    keys = ["question", "answer"]
    joined = bench.asked.join(both, on=keys, how="left", maintain_order="left")
    read = joined["readings"].struct
    bench.asked = bench.asked.with_columns(read.field(a).list.get(1).alias(a) for a in ASPECTS)
    return {a: read.field(a).list.get(0).cast(pl.Float64).to_numpy() for a in ASPECTS}


def bench_of(params: Params, answers: int | None = None, **more: Any) -> Bench:
    """The held-out answers, or so many of them drawn at random, always the same."""
    data = Labelled.read(params.judging.probe, ASPECTS)
    if data.sampled is None or data.sampled_train is None:
        sys.exit("error: params.yaml: judging.probe needs sampled and sampled_train")
    asked = data.sampled
    if answers is not None and answers < len(asked):
        asked = asked.sample(answers, seed=0)
    return Bench(params, data, asked, **more)


JUDGES = {
    judge.__name__: judge
    for judge in (
        words, embedded, authored_only, earlier_weights, embedding, tuned, both_models, zero_shot,
        with_embedding, named, reader,
    )
}  # fmt: skip
WITH_MODEL = ("embedding", "tuned", "both_models", "with_embedding", "zero_shot")  # take --model
