"""The bench at toy size: every table runs, ratios and medians are right, and what falls short is marked."""

from __future__ import annotations

import contextlib
import io
import json
import os
import signal
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from encoders_fixtures import TINY
from sklearn.utils import check_random_state

from embedkit import bench, cli
from embedkit import heads as package
from embedkit.bench import (
    Row,
    Size,
    _ceiling,
    _gpu,
    extraction,
    format_number,
    growth,
    heads,
    make_clip_lengths,
    make_ratio_row,
    startup,
    time_in_turns,
)
from embedkit.bench import machine as machine_table
from embedkit.encoders import _arithmetic
from embedkit.errors import UserError
from embedkit.heads import mlp

TOY = Size(
    repeats=2, clips=2, views=1, passes=(2, 4), encoder=TINY, train=240, dim=12, epochs=1, sessions=(40,) * 5, mixed=40,
    axes={"rows": (200, 400), "folds": (3, 4)},
)  # fmt: skip


# ---------------------------------------------------------------- figures


def test_the_peak_is_the_process_own() -> None:
    """What a parent has held does not show in its child's figure."""
    np.ones(100_000_000)  # 800 MB
    assert growth.read_peak_memory() > 800
    assert bench.run_in_worker(growth.read_peak_memory) < growth.read_peak_memory() - 400


def test_a_ratio_is_the_median_of_the_rounds_own() -> None:
    """A neighbour that slows one round slows both sides of it: 20 / 10 counts as 2, not as an outlier."""
    row = make_ratio_row("x", [2.0, 20.0, 3.0], [1.0, 10.0, 2.0], 100, floor=150, unit="%")
    assert (row.value, row.low, row.high) == (200, 150, 200)
    assert row.verdict == ""


def test_calls_take_turns() -> None:
    """a, b, a, b: each measured by the clock around it alone."""
    now, order = [0.0], []

    def call(name: str, seconds: float) -> None:
        order.append(name)
        now[0] += seconds

    taken = time_in_turns({"a": lambda: call("a", 2), "b": lambda: call("b", 5)}, 2, lambda: now[0])
    assert order == ["a", "b", "a", "b"]
    assert taken == {"a": [2, 2], "b": [5, 5]}


def test_a_call_elsewhere_says_what_it_took() -> None:
    """The clock here stands still meanwhile. One process makes all of a worker's calls."""
    with bench.fresh_worker() as ask:
        processes = {ask(os.getpid), ask(os.getpid)}
    assert len(processes) == 1 and os.getpid() not in processes
    assert time_in_turns({"a": lambda: bench.Timing(3.0)}, 2, lambda: 0.0) == {"a": [3, 3]}


def test_ctrl_c_is_heard_while_a_worker_works() -> None:
    """The worker alone leaves it to its parent; its call does not outlive the block."""
    before, begin = signal.getsignal(signal.SIGINT), time.monotonic()
    with pytest.raises(KeyboardInterrupt), bench.fresh_worker() as ask:
        assert signal.getsignal(signal.SIGINT) == before
        assert ask(signal.getsignal, signal.SIGINT) == signal.SIG_IGN
        threading.Timer(1, os.kill, [os.getpid(), signal.SIGINT]).start()
        signal.signal(signal.SIGINT, signal.default_int_handler)
        try:
            ask(time.sleep, 60)
        finally:
            signal.signal(signal.SIGINT, before)
    assert time.monotonic() - begin < 45


@pytest.mark.parametrize(
    ("value", "floor", "aim", "most", "verdict"),
    [
        (5.4, 5.5, 6.5, False, "short of 5.5"),
        (5.6, 5.5, 6.5, False, "short of the aim 6.5"),
        (6.5, 5.5, 6.5, False, ""),
        (61, 60, None, True, "short of 60"),
        (59, 60, None, True, ""),
        (6, None, 5, True, "short of the aim 5"),
        ("a processor", None, None, False, ""),
        (1, None, None, False, ""),
    ],
)
def test_what_falls_short_is_marked(value: Any, floor: Any, aim: Any, most: bool, verdict: str) -> None:
    assert Row("x", value, floor=floor, aim=aim, most=most).verdict == verdict


def test_the_page_marks_it_too() -> None:
    rows = [Row("slow", 2.0, "times", floor=2.8, low=1.9, high=2.1, note="why"), Row("fast", 3.0, "times", floor=2.8)]
    table = {"title": "T", "how": "H.", "rows": [{**vars(row), "verdict": row.verdict} for row in rows]}
    page = bench.format_page({"embedkit": "1", "seconds": 60, "short": ["slow"], "tables": [table]})
    assert "| slow | 2 times | 1.9 to 2.1        | >= 2.8 |     | short of 2.8 |" in page
    assert "| fast | 3 times |                   | >= 2.8 |     |              |" in page
    assert "- slow: why" in page and page.endswith("Short of floor or aim: slow.")
    assert [format_number(x) for x in (0.99996, 0.25, 1234.5, "x")] == ["0.99996", "0.25", "1,234", "x"]


def test_slopes() -> None:
    """Known powers are found, whatever lies below the upper half."""
    x = np.array([1.0, 10, 100, 1000, 10_000])
    for power in (0.5, 1, 2):
        assert growth.fit_slope(x, [9, 9, 9, *(x[3:] ** power)]) == pytest.approx(power)


# ---------------------------------------------------------------- what is measured


def test_lengths_are_iemocaps() -> None:
    """Mean 4.5 s and standard deviation 3.1 s before the cut at 8 s: about 4.1 s after it."""
    seconds = np.array(make_clip_lengths(2_000)) / 16_000
    assert seconds.max() == 8 and 0.08 < (seconds == 8).mean() < 0.14
    drawn = np.random.default_rng(0).lognormal(
        np.log(4.5) - np.log(1 + (3.1 / 4.5) ** 2) / 2, np.log(1 + (3.1 / 4.5) ** 2) ** 0.5, 200_000
    )
    assert drawn.mean() == pytest.approx(4.5, abs=0.05) and drawn.std() == pytest.approx(3.1, abs=0.1)
    assert seconds.mean() == pytest.approx(np.minimum(drawn, 8).mean(), abs=0.05)


def test_products_are_what_an_encoder_multiplies(tmp_path: Path) -> None:
    """Operations by the list against those that torch's own counter sees in transformers' model, within 0.1 %.

    Neither counts attention's own products; the positional convolution makes a frame more, which is dropped.
    """
    from torch.utils.flop_counter import FlopCounterMode

    from embedkit import encoders
    from embedkit.encoders import DISTILHUBERT

    config = {**DISTILHUBERT, **TINY}
    model, _ = encoders.load_pretrained(bench.make_encoder(tmp_path, TOY))
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(torch.zeros(1, 32_000))
    listed = 2 * sum(m * k * n for m, k, n in _ceiling.list_matrix_products(config, 32_000))
    assert counter.get_total_flops() == pytest.approx(listed, rel=1e-3)


def test_packed_products_are_products() -> None:
    rng = torch.Generator().manual_seed(0)
    x, w = torch.randn(7, 48, generator=rng), torch.randn(32, 48, generator=rng)
    assert torch.allclose(_ceiling.pack_weight(w, 7)(x), x @ w.T, atol=1e-4)


@pytest.mark.parametrize("supported", [False, True])
def test_what_is_not_bf16_says_so(supported: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a processor without it, bf16's products are raced in fp32, as the encoder computes them."""
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: supported)
    monkeypatch.setattr(_arithmetic, "has_onednn", lambda _: True)
    assert _ceiling.find_product_type("bf16") == (torch.bfloat16 if supported else torch.float32)
    assert _ceiling.find_product_type("fp32") == torch.float32
    assert ("computed in fp32" in _ceiling.note_arithmetic("bf16")) == (not supported)
    assert _ceiling.note_arithmetic("fp32") == _ceiling.note_arithmetic("8 bits") == ""


def test_the_eager_loop_learns_what_the_mlp_learns() -> None:
    """What is raced is the same work: from the same weights, in five steps of one batch, the same (1e-6)."""
    X, y = bench.make_features(64, 6)
    index = np.unique(y, return_inverse=True)[1]
    shape = {"hidden": 5, "lr": 1e-2, "weight_decay": 0.01, "warmup": 0.0, "batch": 64, "gamma": 2.0, "smoothing": 0.1}
    card = heads.read_shipped_card("paper")
    card = card.model_copy(update={"fixed": {**card.fixed, **shape, "epochs": 5}})
    own: Any = package.build(card, seed=3).fit(X, y)
    generator = torch.Generator().manual_seed(int(check_random_state(3).randint(2**31 - 1)))
    start = mlp.Network(6, 5, 4, "none", generator)
    net = torch.nn.Sequential(torch.nn.Linear(6, 5), torch.nn.Linear(5, 4))
    with torch.no_grad():
        for layer, weight, bias in ((net[0], start.w1, start.b1), (net[1], start.w2, start.b2)):
            layer.weight.copy_(weight.T)
            layer.bias.copy_(bias)
    heads.train_eagerly(X, index, 5, shape, net)
    for layer, weight, begun in ((net[0], own.network_.w1, start.w1), (net[1], own.network_.w2, start.w2)):
        assert (weight - begun).abs().max() > 1e-2
        assert (layer.weight.T - weight).abs().max() < 1e-6


def test_the_table_of_machines() -> None:
    rows = {row.what: row.value for row in machine_table.rows(TOY)}
    assert rows["cores for this process"] >= 1
    assert rows["torch"] == torch.__version__.split("+")[0] or rows["torch"] == torch.__version__
    assert rows["processor"]


def here(*arguments: str, memory: bool = False) -> bench.ProcessUsage:
    """`command` without processes: verbs are run in this one, and memory is made up."""
    if arguments[0] == "-m":
        with contextlib.suppress(SystemExit), contextlib.redirect_stdout(io.StringIO()):
            alone = [*arguments[2:], *(["--jobs", "1"] if "--jobs" in arguments else [])]
            assert cli.run(alone) == 0
    return bench.ProcessUsage(0.5, 0.4, 100.0 if memory else None)


@pytest.mark.slow
def test_every_table_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Toy sizes: the document's structure, floors beside their figures, a picture of growth, no NaN."""
    for table in (extraction, heads, startup):
        monkeypatch.setattr(table, "run_command", here)
    for table in (growth, extraction):
        monkeypatch.setattr(table, "run_in_worker", lambda call, *what: call(*what))
    monkeypatch.setattr(extraction, "fresh_worker", lambda: contextlib.nullcontext(lambda call, *what: call(*what)))
    monkeypatch.setattr(extraction, "export_speed_file", lambda spec, *_: spec.folder)  # half a minute to export
    told: list[str] = []
    document = bench.run(size=TOY, figures=tmp_path, announce=told.append)
    assert [t["name"] for t in document["tables"]] == list(bench.TABLES)
    rows = {row["what"]: row for table in document["tables"] for row in table["rows"]}
    json.dumps(document, allow_nan=False)
    assert len(told) == len(rows)
    for what, floor, aim in (
        ("bf16 against the naive loop", 5.5, 6.5),
        ("fp32 against the naive loop", 2.8, 3.2),
        ("an exported 8-bit file against the naive loop", 5, 8),
        ("bf16: share of the ceiling", 75, 85),
        ("fp32: share of the ceiling", 70, 75),
        ("whole pass with 1 views against encoding alone", 88, 93),
        ("the paper's MLP (batch 16) against an eager torch loop", 2.2, None),
        ("logistic regression against scikit-learn, a fold a round", 2.0, None),
        ("LightGBM's card against LightGBM's defaults", 5, None),
        ("paper-table-2 from a warm cache", 60, None),
        ("embedkit --help", 0.25, None),
        ("embedkit cache ls", 0.5, None),
    ):
        row = rows[what]
        assert (row["floor"], row["aim"]) == (floor, aim)
        assert row["value"] > 0
        assert (row["verdict"] == "") == (
            all(
                limit is None or (row["value"] <= limit if row["most"] else row["value"] >= limit)
                for limit in (row["floor"], row["aim"])
            )
        )
    assert rows["memory of a pass, two workers and all"]["value"] == 100
    assert rows["growth of memory, 4 clips against 2"]["value"] == 1
    assert 0 < rows["bf16 against fp32, a clip's pooled features: least cosine"]["value"] < 1
    assert rows["the same: labels that are equal"]["value"] == 100
    assert document["short"] == [row["what"] for row in rows.values() if row["verdict"]]
    assert (tmp_path / "growth.svg").read_text().count("</svg>") == 1
    assert all(f"## {t['title']}" in bench.format_page(document) for t in document["tables"])


@pytest.mark.slow
def test_the_rows_of_a_gpu_run_without_one(tmp_path: Path) -> None:
    """The same code on a CPU: the slower of sound and encoder is no slower than the pass of both, give or take."""
    rows = list(_gpu.measure_gpu_pass(bench.make_encoder(tmp_path / "encoder", TOY), tmp_path, TOY, "cpu", clips=8))
    assert [row.floor for row in rows] == [1.25, 90]
    assert all(isinstance(row.value, float) and row.value > 0 for row in rows)


def test_the_verb(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """--only, --json; an unknown table and a missing folder end in one line before anything is measured."""
    assert cli.run(["bench", "--only", "machine", "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert [t["name"] for t in said["tables"]] == ["machine"] and said["short"] == []
    assert cli.run(["bench", "--only", "machine"]) == 0
    assert "## Machine" in capsys.readouterr().out
    for wrong, why in (
        (["--only", "extracton"], "extraction"),
        (["--figure", str(tmp_path / "none")], "no such folder"),
    ):
        assert cli.run(["bench", *wrong]) == 2
        captured = capsys.readouterr()
        assert captured.out == "" and why in captured.err and captured.err.count("\n") == 1


def test_a_command_that_fails_says_why() -> None:
    with pytest.raises(UserError, match=r"failed: .*no such thing"):
        bench.run_command("-c", "raise SystemExit('no such thing')")
    ran = bench.run_command("-c", "x = bytearray(60_000_000); import time; time.sleep(0.5)", memory=True)
    assert ran.seconds >= 0.5 > ran.cpu > 0
    assert ran.megabytes is None or 60 < ran.megabytes < 100
