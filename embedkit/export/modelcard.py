"""The model card: what a file is, how it was checked, what it costs and what it is not for, in Markdown.

`describe_certificate` is the part of it that `stitch-export` prints too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from embedkit.classes import CLASSES
from embedkit.export.document import CertificateDocument, FileOrigin, SoundSteps
from embedkit.report import Block, Bullets, Heading, Table, Text, render
from embedkit.stats import IntervalDocument

# Of the hub's checkpoints that embedkit knows, as their pages on the hub say.
LICENCES = {
    "ntu-spml/distilhubert": "Apache-2.0",
    "facebook/hubert-base-ls960": "Apache-2.0",
    "openai/whisper-tiny.en": "Apache-2.0",
}
WAYS = {"torch": "torch (what was trained)", "float": "float ONNX", "file": "this file"}
PROFILES = {
    "float": "all weights in 32-bit floating point: the reference",
    "size": "weights in 8 bits, arithmetic in floating point",
    "speed": "weights in 8 bits, most products computed in 8-bit integers",
    "small": "most weights in 4 bits, the rest in 8, arithmetic in floating point",
}


def build_page(file: str, certificate: CertificateDocument, about: FileOrigin) -> str:
    """The card of a file, in Markdown. file: its name."""
    blocks: list[Block] = [Heading(f"{file}: speech emotion in one ONNX file", 1), *_describe_file(certificate, about)]
    blocks += [
        Heading("How to use it"),
        *_describe_usage(file),
        Heading("Certificate"),
        *describe_certificate(certificate),
    ]
    blocks += [Heading("What it was trained on"), *_describe_training(certificate, about)]
    blocks += [Heading("What it is not for"), _describe_limits(certificate), Heading("Is this file whole?")]
    blocks.append(
        Text(
            f"It carries its own SHA-256, `{certificate['sha256']}` (of the file with these 64 characters as zeros);"
            f" `embedkit predict {file} voice-note.wav` refuses a copy that was cut short or changed."
        )
    )
    return render.render_markdown(blocks)


# ---------------------------------------------------------------- what it is


def _describe_file(c: CertificateDocument, about: FileOrigin) -> list[Block]:
    encoder = about["encoder"]
    revision = f", revision `{encoder['revision']}`" if encoder["revision"] else ""
    licence = LICENCES.get(c["encoder"], "not known here: see where its weights came from")
    temperature = f", its logits divided by {c['temperature']:.3g} (fitted on validation rows)"
    blocks: list[Block] = []
    if c["weights"] == "random":
        blocks.append(Text("**The encoder's weights are random: good for trying out size and speed, no more.**"))
    lines = [
        f"gives a voice recording a probability of each class: {', '.join(CLASSES)}",
        f"profile `{c['profile']}`: {PROFILES[c['profile']]}; {c['bytes']:,} bytes",
        f"encoder: {c['encoder']}{revision}, {encoder['parameters']:,} parameters, {c['weights']} weights;"
        f" its licence: {licence}",
        f"features: {_describe_layer(c['layer'])}, {' and '.join(about['stats'])} over time",
        f"head: {c['head']} (kind {about['head']}), refitted on all rows of the study{temperature}",
        f"sound, all inside the file (recipe `{about['recipe']}`): {_describe_sound(about['sound'])}",
        f"study `{c['study']}`, arm `{c['arm']}`; made by embedkit {about['version']}",
    ]
    return [*blocks, Bullets(lines)]


def _describe_layer(layer: int | str) -> str:
    of_all = {"concat": "all hidden states, one after the other", "weighted": "a learned weighted sum of hidden states"}
    return of_all.get(str(layer), f"hidden state {layer}")


def _describe_sound(s: SoundSteps) -> str:
    steps = [
        (s["trim_db"], f"ends cut where they are {s['trim_db']:g} dB below the loudest frame"),
        (s["pre_emphasis"], f"pre-emphasis {s['pre_emphasis']:g}"),
        (s["peak"], f"scaled to a peak of {s['peak']:g}"),
        (s["max_seconds"], f"only the first {s['max_seconds']:g} s are used"),
        (s["pad"], "padded with zeros to that length"),
    ]
    return ", ".join(words for used, words in steps if used) or "as it is"


def _describe_usage(file: str) -> list[Block]:
    return [
        Table(
            [
                ["", "name", "type", "what"],
                [
                    "in",
                    "`signal`",
                    "float32 [batch, samples]",
                    "16 kHz, mono, about -1 to 1; anything after a clip's end",
                ],
                ["in", "`lengths`", "int64 [batch]", "how many samples of each row are the clip"],
                ["out", "`probabilities`", "float32 [batch, 4]", ", ".join(CLASSES)],
                ["out", "`logits`", "float32 [batch, 4]", "before the softmax"],
                ["out", "`embedding`", "float32 [batch, dim]", "the input of the head"],
            ]
        ),
        Text(
            "```python\n"
            "import numpy, onnxruntime, soundfile\n\n"
            "options = onnxruntime.SessionOptions()\n"
            'options.add_session_config_entry("session.qdq_matmulnbits_accuracy_level", "1")  # as it was certified\n'
            f'session = onnxruntime.InferenceSession("{file}", options)\n'
            'samples, rate = soundfile.read("voice-note.wav", dtype="float32")  # expected: mono, rate 16000\n'
            'feeds = {"signal": samples[None], "lengths": numpy.array([len(samples)])}\n'
            '(probabilities,) = session.run(["probabilities"], feeds)\n'
            "```"
        ),
        Text(
            "Or, with resampling, voice activity detection and windows for long recordings:"
            f" `embedkit predict {file} voice-note.wav`, or `embedkit.runtime.Predictor` (without torch)."
        ),
    ]


# ---------------------------------------------------------------- the certificate


def describe_certificate(c: CertificateDocument) -> list[Block]:
    """What the certificate found: tables, each with a paragraph that explains it."""
    return [*_tabulate_changes(c), *_tabulate_test_folds(c), *_tabulate_refit(c), *_tabulate_costs(c)]


def _tabulate_changes(c: CertificateDocument) -> list[Block]:
    rows = [["against torch", "mean change", "largest", "labels that flip", "95 %", "embedding z", "limits"]]
    for way, change in (("float", c["float_against_torch"]), ("file", c["file_against_torch"])):
        limits = c["limits"][way]
        low, high = change["flips_interval"]
        rows.append([
            WAYS[way],
            f"{change['mean_change']:.2g}",
            f"{change['largest_change']:.2g}",
            f"{change['flips']} of {c['clips']}",
            f"{low:.1%} to {high:.1%}",
            f"{change['embedding_z']:.2g}",
            f"mean change {limits['mean_change']:g}, flips {limits['flips']:.0%}, UA {limits['ua_loss']:g} less",
        ])  # fmt: skip
    return [
        Text(
            f"{c['clips']} clips went through the path that trained the head (torch), through the graph in floating"
            " point, and through this file. Change: of a probability, 0 to 1. z: the mean change of the embedding over"
            " its standard deviation across clips."
        ),
        Table(rows),
    ]


def _tabulate_test_folds(c: CertificateDocument) -> list[Block]:
    f = c["test_folds"]
    if not f["clips"]:
        return [Text("No fold of the study was tested on any of these clips, so nothing is said of UA.")]
    rows = [["embeddings of", "WA", "95 %", "UA", "95 %", "against torch (paired, p by Holm)"]]
    verdicts = {x["way"]: f"{x['difference']:+.4f}: {x['verdict']}" for x in f["comparisons"]}
    for way, scores in f["ways"].items():
        cells = [cell for score in (scores["wa"], scores["ua"]) for cell in _format_estimate(score)]
        rows.append([WAYS[way], *cells, verdicts.get(way, "")])
    few = "" if f["judged"] else " They are too few for the limit of UA to apply."
    left_out = f" {f['left_out']} clips that no fold was tested on are left out." if f["left_out"] else ""
    return [
        Text(
            f"On the study's own test folds, {f['clips']} clips of {f['speakers']} speakers: each embedding is"
            " classified by the head of its fold, which was not trained on it."
            f"{left_out}{few} Intervals and tests are by speaker."
        ),
        Table(rows),
    ]


def _tabulate_refit(c: CertificateDocument) -> list[Block]:
    """What the head that was trained on the file's own features wins back (`embedkit.refit`)."""
    if "refit" not in c:
        return []
    f = c["refit"]
    verdicts = {x["way"]: f"{x['difference']:+.4f}: {x['verdict']}" for x in f["comparisons"]}
    names = {
        "study": "features and heads of the study",
        "before": "this file's features, heads of the study",
        "refit": "this file's features, heads trained on them",
    }
    rows = [["", "WA", "95 %", "UA", "95 %", "against the second (paired, p by Holm)"]]
    for way, name in names.items():
        scores = f["ways"][way]
        cells = [cell for score in (scores["wa"], scores["ua"]) for cell in _format_estimate(score)]
        rows.append([name, *cells, verdicts.get(way, "")])
    return [
        Text(
            "The head of this file was trained on the features of this file's encoder. What that wins back, on all"
            f" {f['clips']} test clips of {f['speakers']} speakers, by the folds' own heads:"
        ),
        Table(rows),
    ]


def _format_estimate(score: IntervalDocument) -> tuple[str, str]:
    """The cells of a score and of its interval."""
    if score["estimate"] is None:
        return "-", ""
    return f"{score['estimate']:.3f}", "" if score["low"] is None else f"{score['low']:.3f} to {score['high']:.3f}"


def _tabulate_costs(c: CertificateDocument) -> list[Block]:
    milliseconds = c["milliseconds"]
    rows = [
        ["one clip of 8 s", *(f"{n} thread{'s' if n != '1' else ''}" for n in milliseconds), "times as fast as float"]
    ]
    for way in ("torch", "float", "file"):
        cells = [f"{each[way]:.0f} ms" if way in each else "-" for each in milliseconds.values()]
        faster = " / ".join(f"{each['float'] / each[way]:.2f}" for each in milliseconds.values() if way in each)
        rows.append([WAYS[way], *cells, faster])
    weight_rows = [["weights", *_list_dtypes(c["weight_bytes"])]]
    for kind in dict.fromkeys(name.rpartition(" ")[0] for name in c["weight_bytes"]):
        weight_rows.append(
            [kind, *(_format_bytes(c["weight_bytes"].get(f"{kind} {dtype}")) for dtype in weight_rows[0][1:])]
        )
    return [
        Text("Time (medians, taken in turns on the machine that made the file) and memory:"),
        Table(rows),
        Text(
            "A fresh program that only loads this file and classifies one such clip takes"
            f" {c['peak_memory_mb']:.0f} million bytes of memory at its peak. What the file's bytes are:"
        ),
        Table(weight_rows),
        Text(_describe_quantization(c)),
    ]


def _list_dtypes(weight_bytes: Mapping[str, int]) -> Sequence[str]:
    return list(dict.fromkeys(name.rpartition(" ")[2] for name in weight_bytes))


def _format_bytes(count: int | None) -> str:
    return f"{count:,}" if count else ""


def _describe_quantization(c: CertificateDocument) -> str:
    total = sum(c["quantized"].values())
    if not total:
        return "No weight is quantized."
    counted = ", ".join(f"{count} {kind}" for kind, count in c["quantized"].items())
    four, integer = sum(c["four_bit"].values()), sum(c["integer_products"].values())
    return f"Quantized weights: {total} ({counted}), {four} of them in 4 bits. Products in integers: {integer}."


# ---------------------------------------------------------------- where it comes from, and where not to take it


def _describe_training(c: CertificateDocument, about: FileOrigin) -> list[Block]:
    rows = [["corpus", "share", "speakers", *CLASSES, "terms"]]
    for name, corpus in about["corpora"].items():
        counts = [f"{corpus['classes'].get(label, 0):,}" for label in CLASSES]
        rows.append([name, f"{corpus['share']:.0%}", str(corpus["speakers"]), *counts, corpus["licence"]])
    folds, ua = about["folds"], c["ua"]
    low, high = ua["interval"]["low"], ua["interval"]["high"]
    interval = "" if low is None else f", 95 % {low:.3f} to {high:.3f} by speaker"
    deviation = "" if ua["sd"] is None else f" (sd over folds {ua['sd']:.3f})"
    seeds = f", {about['seeds']} seeds" if about["seeds"] > 1 else ""
    return [
        Table(rows),
        Text(
            f"By {folds['count']} folds of kind `{folds['kind']}`{seeds}, tested on {about['tested']}: UA"
            f" {ua['mean']:.3f}{deviation}, pooled {ua['pooled']:.3f}{interval}. These are the folds' own heads; the"
            " head in this file was trained on the rows that they were tested on, so only their figures tell how well"
            " it does on new speakers in such recordings."
        ),
    ]


def _describe_limits(c: CertificateDocument) -> Block:
    lines = [
        "Corpora of this kind are acted: people say given sentences in a given mood. How people feel who do not act is"
        " another question, on which this file was not tested.",
        "It knows four classes only; speech that is none of them still gets one.",
        "It was trained on few speakers, of few languages, ages and accents. It can be wrong more often for some people"
        " than for others; measure that on your own recordings before it matters.",
        "Not for deciding over people: work, school, credit, health, police, borders. Laws may forbid that too.",
        "Its probabilities hold for clips like those it was certified on. With other microphones, in noise or far from"
        " the microphone they are less reliable.",
    ]
    if c["weights"] == "random":
        lines.insert(0, "**Random weights: none of its answers means anything.**")
    return Bullets(lines)
