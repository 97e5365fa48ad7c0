"""The words of a report's tables: names of results, metrics, intervals, parameters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from embedkit.report.document import FoldValues, KeyName, Metric, ResultNames, StudyDocument
from embedkit.stats import IntervalDocument


def list_keys(doc: StudyDocument) -> list[KeyName]:
    """What identifies a result; in a study with parts also its part."""
    return ["part", "arm", "layer", "head"] if doc.get("parts") else ["arm", "layer", "head"]


def list_names(doc: StudyDocument, result: ResultNames) -> list[str]:
    """The names of a result or a search, in the order of `list_keys`."""
    return [str(result[key]) for key in list_keys(doc)]


def label_result(doc: StudyDocument, names: Sequence[str]) -> str:
    """A result's names, without those that all results share."""
    all_names = [list_names(doc, result) for result in doc["results"]]
    varying = [i for i, column in enumerate(zip(*all_names, strict=True)) if len(set(column)) > 1]
    label = {"layer": "layer "}
    return ", ".join(f"{label.get(list_keys(doc)[i], '')}{names[i]}" for i in varying)


def format_short(metric: FoldValues) -> str:
    """A metric as "0.607 ± 0.021 (0.609)": mean, standard deviation over folds, pooled value."""
    if metric["mean"] is None:
        return "-"
    return f"{_format_mean(metric)} ({metric['pooled']:.3f})"


def format_full(metric: Metric) -> str:
    """A metric as "0.607 ± 0.021 (0.609, 0.571 to 0.645)": with the interval of the pooled value."""
    if metric["mean"] is None:
        return "-"
    return f"{_format_mean(metric)} ({metric['pooled']:.3f}, {format_interval(metric['interval'])})"


def _format_mean(metric: FoldValues) -> str:
    return f"{metric['mean']:.3f}" + (f" ± {metric['sd']:.3f}" if metric["sd"] is not None else "")


def format_interval(interval: IntervalDocument) -> str:
    """An interval as "0.571 to 0.645"."""
    return "no interval" if interval["low"] is None else f"{interval['low']:.3f} to {interval['high']:.3f}"


def format_estimate(interval: IntervalDocument) -> str:
    """A score with its interval, as "0.609 (0.571 to 0.645)"."""
    if interval["estimate"] is None:
        return "-"
    return f"{interval['estimate']:.3f} ({format_interval(interval)})"


def format_params(params: Mapping[str, object]) -> str:
    """Parameters as "C = 0.05, penalty = l2"."""
    return ", ".join(f"{k} = {v:.4g}" if isinstance(v, float) else f"{k} = {v}" for k, v in params.items())
