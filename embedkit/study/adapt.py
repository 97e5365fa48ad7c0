"""Normalisation of features by corpus or speaker, and alignment of corpora (CORAL). Only numpy.

Everything is fitted on the clean view and applied to augmented views too.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]
Features = npt.NDArray[np.floating]
Rows = npt.NDArray[np.int64]
Words = npt.NDArray[np.str_]


def measure_moments(x: Features) -> tuple[Array, Array]:
    """Mean and standard deviation (ddof 0; 1 where a column is constant) of rows [row, dim]."""
    wide = x.astype(np.float64)
    sd = wide.std(0)
    return wide.mean(0), np.where(sd > 1e-9, sd, 1.0)


def coral(source: Features, target: Features) -> tuple[Array, Array]:
    """(matrix [dim, dim], shift [dim]): source @ matrix + shift has the target's mean and about its covariance.

    CORAL (Sun, Feng, Saenko, AAAI 2016, algorithm 1): both sides are standardised, as there; C = cov + I of each, and
    A = Cs^(-1/2) Ct^(1/2); the result is put back on the target's scale. The I regularises directions with little
    variance, so the covariances become similar, not equal.
    """
    (mean_s, sd_s), (mean_t, sd_t) = measure_moments(source), measure_moments(target)
    whiten = _raise_covariance((source - mean_s) / sd_s, -0.5)
    colour = _raise_covariance((target - mean_t) / sd_t, 0.5)
    matrix = (whiten @ colour) * sd_t / sd_s[:, None]
    return matrix, mean_t - mean_s @ matrix


def _raise_covariance(z: Features, exponent: float) -> Array:
    """(cov(z) + I) ^ exponent, which is symmetric."""
    values, vectors = np.linalg.eigh(np.cov(z.astype(np.float64), rowvar=False) + np.eye(z.shape[1]))
    powered: Array = (vectors * values**exponent) @ vectors.T
    return powered


@dataclass(frozen=True)
class Adaptation:
    """The scaling and the alignment of a fit's features; `apply` takes any rows.

    scale: group -> (mean, standard deviation) [dim]; "" is for rows of any other group.
    alignment: corpus -> (matrix, shift): how a mixed-in corpus is aligned to the study's own, after scaling.
    """

    scale: dict[str, tuple[Array, Array]]
    alignment: dict[str, tuple[Array, Array]]

    def apply(self, x: Features, groups: Words, corpora: Words) -> npt.NDArray[np.float32]:
        """Scale and align x [row, view, dim], whose rows have these groups and corpora [row]."""
        out = x.astype(np.float32)
        for group in np.unique(groups) if self.scale else []:
            mean, sd = self.scale.get(str(group), self.scale[""])
            rows = groups == group
            out[rows] = (out[rows] - mean.astype(np.float32)) / sd.astype(np.float32)
        for corpus, (matrix, shift) in self.alignment.items():
            rows = corpora == corpus
            out[rows] = out[rows] @ matrix.astype(np.float32) + shift.astype(np.float32)
        return out


def fit(
    x: Features, train: Rows, corpora: Words, speakers: Words, *, normalise: str, align: str, study_corpus: str
) -> Adaptation:
    """Fit an adaptation on clean features x [row, dim] of all rows of a study, of which `train` are training rows.

    normalise: "none"; "global": by all training rows; "corpus": by the training rows of the row's corpus (of a corpus
    that only tests: by all training rows); "speaker": by all rows of the row's speaker, **its test rows too**.
    align: "none"; "coral": each corpus that is mixed in, to the training rows of study_corpus, the study's own.
    """
    scale = {}
    if normalise != "none":
        scale[""] = measure_moments(x[train])
    if normalise == "corpus":
        scale |= {str(name): measure_moments(x[train[corpora[train] == name]]) for name in np.unique(corpora[train])}
    if normalise == "speaker":
        scale |= {str(name): measure_moments(x[speakers == name]) for name in np.unique(speakers)}
    adaptation = Adaptation(scale, {})
    if align == "coral":
        groups = assign_scale_groups(normalise, corpora, speakers)
        scaled = adaptation.apply(x[train, None], groups[train], corpora[train])[:, 0]
        target = scaled[corpora[train] == study_corpus]
        others = [str(name) for name in np.unique(corpora[train]) if name != study_corpus]
        adaptation.alignment.update({name: coral(scaled[corpora[train] == name], target) for name in others})
    return adaptation


def assign_scale_groups(normalise: str, corpora: Words, speakers: Words) -> Words:
    """[row]: the group whose statistics scale a row; "" where all rows are in one group."""
    return {"corpus": corpora, "speaker": speakers}.get(normalise, np.full(len(corpora), ""))
