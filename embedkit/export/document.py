"""The documents of an export: the certificate (<file>.certificate.json), and what `stitch-export --json` prints.

"torch" is the path that trained the head, "float" the graph in float32, "file" the written file. Probabilities and
scores are 0..1.
"""

from __future__ import annotations

from typing import NotRequired, TypedDict

from embedkit.report.document import Metric
from embedkit.stats import WaysDocument


class AnswerChanges(TypedDict):
    """How far the answers of one way are from those of another, over the clips of the certificate.

    A change is that of a probability. flips: clips whose label changes; flips_interval: the 95 % interval of their
    share, [low, high]. embedding_z: the mean change of the embedding over its standard deviation across clips.
    """

    largest_change: float
    mean_change: float
    flips: int
    flips_interval: list[float]
    embedding_z: float


class TestFolds(WaysDocument):
    """WA and UA of each way on the study's own test folds, each tested against torch.

    left_out: clips that no fold was tested on. judged: whether the clips are enough for the limit of UA.
    """

    clips: int
    left_out: int
    speakers: int
    judged: bool


class LimitsDocument(TypedDict):
    """The limits of the study's card that a way was checked against; see `embedkit.cards.study.Limits`."""

    mean_change: float
    flips: float
    ua_loss: float


class AnswerComparisons(TypedDict):
    """The three ways compared on real clips. past_limits: in words, each limit that is exceeded."""

    clips: int
    float_against_torch: AnswerChanges
    file_against_torch: AnswerChanges
    file_against_float: AnswerChanges
    test_folds: TestFolds
    limits: dict[str, LimitsDocument]  # of "float" and "file"
    past_limits: list[str]


class Measurements(AnswerComparisons):
    """The comparisons, the median time of one clip of 8 s by number of threads and way, and the peak memory."""

    milliseconds: dict[str, dict[str, float]]
    peak_memory_mb: float  # million bytes


class FileIdentity(TypedDict):
    """Which file a certificate is of. ua: of the folds' own heads on their own test folds."""

    study: str
    arm: str
    head: str
    layer: int | str
    temperature: float
    encoder: str
    weights: str  # "pretrained" or "random"
    profile: str
    bytes: int
    sha256: str
    ua: Metric


class RefitGain(WaysDocument):
    """What a head that was trained on the file's own features wins back, on all test clips of the study.

    The ways are "study", "before" and "refit", each tested against "before"; see `embedkit.refit`.
    """

    clips: int
    speakers: int


class CertificateExtra(TypedDict):
    """What else a certificate may say."""

    refit: NotRequired[RefitGain]


class CertificateDocument(FileIdentity, Measurements, CertificateExtra):
    """A certificate, as it is written. The counts are of weights, by kind; see `quantize.count_weights`."""

    quantized: dict[str, int]
    four_bit: dict[str, int]
    integer_products: dict[str, int]
    weight_bytes: dict[str, int]


class ExportDocument(TypedDict):
    """What an export wrote: the paths of the file and of its model card, the file's size, and its certificate."""

    model: str
    bytes: int
    certificate: CertificateDocument
    card: str


class SoundSteps(TypedDict):
    """The recipe's steps that are inside the file; 0 and False: the step is left out. See `embedkit.cards.Sound`."""

    trim_db: float
    pre_emphasis: float
    peak: float
    max_seconds: float
    pad: bool


class EncoderOrigin(TypedDict):
    """The commit of the encoder's checkpoint ("" for a folder), and the number of its parameters."""

    revision: str
    parameters: int


class FoldsOrigin(TypedDict):
    """The kind of the study's folds and their number."""

    kind: str
    count: int


class CorpusOrigin(TypedDict):
    """A corpus that the head was trained on: the share of it, its rows by class, its speakers and its terms."""

    share: float
    classes: dict[str, int]
    speakers: int
    licence: str


class FileOrigin(TypedDict):
    """Where a file comes from, for its model card. tested: the corpus of the test folds."""

    version: str
    recipe: str
    sound: SoundSteps
    stats: list[str]
    encoder: EncoderOrigin
    head: str  # its kind
    folds: FoldsOrigin
    seeds: int
    tested: str
    corpora: dict[str, CorpusOrigin]
