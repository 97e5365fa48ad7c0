"""Small workspaces with caches of made-up features, for the tests of studies and searches."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from embedkit import cards
from embedkit.cache import Cache, Identity, create_cache
from embedkit.corpora import Utterance
from embedkit.workspace import Workspace, init_workspace

LABELS = {
    "iemocap": ["ang", "hap", "exc", "neu", "sad"],
    "crema-d": ["ANG", "HAP", "NEU", "SAD"],
    "ravdess": ["angry", "happy", "neutral", "calm", "sad"],
}
DIM, LAYERS = 6, 3


def class_of(label: str) -> int:
    return "ahns".index({"e": "h", "c": "n"}.get(label[0].lower(), label[0].lower()))


def utterances(corpus: str, speakers: int, each: int, sessions: bool = True) -> list[Utterance]:
    """`each` turns of every label for every speaker, and one of a label that no class has."""
    return [
        Utterance(
            id=f"{corpus}-{s}-{label}-{i}",
            file=f"{s}/{label}-{i}.wav",
            label=label,
            speaker=f"{corpus}:{s + 1}",
            session=f"Ses0{s // 2 + 1}" if sessions else "",
        )
        for s in range(speakers)
        for label, count in [*((label, each) for label in LABELS[corpus]), ("xxx", 1)]
        for i in range(count)
    ]


def write_cache(
    root: Path,
    rows: list[Utterance],
    *,
    views: int = 1,
    random: bool = False,
    recipe: str = "exact",
    signal: float = 1.0,
    labels: str = "all",
    twins: Sequence[tuple[int, int]] = (),
    encoder: str = "ntu-spml/distilhubert",
) -> Path:
    """A cache of features in which each class lies around a corner of its own, the deeper the layer the clearer.

    twins: pairs of rows whose sound is identical.
    """
    corpus = rows[0].speaker.split(":")[0]
    card = cards.read(cards.Recipe, root / "cache" / f"{recipe}.toml")
    identity = Identity(
        corpus,
        card.model_dump(mode="json", include={"precision", "sound", "augment"}),
        encoder,
        "0" * 40,
        "1" * 64,
        random,
        views=views,
        labels=labels,
    )
    path = root / "cache" / recipe / encoder.replace("/", "--") / f"{corpus}.h5"
    create_cache(path, identity, rows, LAYERS, DIM)
    noise = np.random.default_rng(len(rows)).normal(size=(len(rows), 1 + views, LAYERS, 2, DIM))
    for i, row in enumerate(rows):
        if row.label != "xxx":
            noise[i, :, :, 0, class_of(row.label)] += signal * np.array([0.5, 1.0, 2.0])
    digests = [hashlib.blake2b(row.id.encode(), digest_size=16).hexdigest() for row in rows]
    for first, second in twins:
        digests[second] = digests[first]
    with Cache.open(path, write=True) as cache:
        cache.fill_rows(range(len(rows)), noise.astype(np.float16), [3.0] * len(rows), digests)
    return path


def make_workspace(root: Path) -> Workspace:
    workspace = init_workspace(root)
    write_cache(root, utterances("iemocap", 10, 4))
    write_cache(root, utterances("crema-d", 4, 10, sessions=False))
    write_cache(root, utterances("ravdess", 3, 5, sessions=False))
    (root / "heads" / "quick.toml").write_text(
        'kind = "logistic"\n[fixed]\nC = 0.05\n[search]\nC = { type = "float", low = 1e-4, high = 10.0, log = true }\n'
    )
    (root / "heads" / "net.toml").write_text(
        'kind = "mlp"\nviews = "draw"\n[fixed]\nhidden = 8\nepochs = 6\npatience = 2\nlr = 1e-2\nactivation = "gelu"\n'
    )
    return workspace
