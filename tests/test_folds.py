"""Folds: who trains, validates and tests."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from embedkit import folds
from embedkit.errors import StudyError

CLASSES = np.array(["anger", "happiness", "neutral", "sadness"])


def sides(fold: folds.Fold) -> list[set[int]]:
    return [set(rows.tolist()) for rows in (fold.train, fold.validate, fold.test)]


def test_loso_tests_each_session_once_and_the_next_one_validates():
    """The contract's order: session i tests, i+1 (cyclic) validates, the rest train; every row on one side only."""
    sessions = np.array(["Ses02", "Ses01", "Ses03", "Ses05", "Ses04", "Ses01"])
    made = folds.loso(sessions)
    assert [f.name for f in made] == ["Ses01", "Ses02", "Ses03", "Ses04", "Ses05"]
    assert [set(sessions[f.test]) for f in made] == [{f.name} for f in made]
    assert [set(sessions[f.validate]) for f in made] == [{"Ses02"}, {"Ses03"}, {"Ses04"}, {"Ses05"}, {"Ses01"}]
    assert all(sorted(set.union(*sides(f))) == list(range(6)) for f in made)


def test_speakers_are_dealt_in_natural_order():
    """ "2" comes before "10", and the groups are dealt round-robin, so group 1 of 3 has speakers 1, 4, 10."""
    speakers = np.array([f"x:{i}" for i in (10, 2, 1, 3, 4, 5)])
    made = folds.speaker(speakers, 3)
    assert [f.name for f in made] == ["1", "2", "3"]
    assert [folds.natural(speakers[f.test]) for f in made] == [["x:1", "x:4"], ["x:2", "x:5"], ["x:3", "x:10"]]
    assert folds.natural(speakers[made[2].validate]) == ["x:1", "x:4"]


def test_k_is_at_most_the_number_of_speakers():
    """Eight folds of five speakers are five folds."""
    assert len(folds.speaker(["a", "b", "c", "d", "e"], 8)) == 5


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: folds.loso(["", "", ""]), "--folds speaker"),
        (lambda: folds.loso(["1", "", "2", "3"]), "--folds speaker"),
        (lambda: folds.loso(["1", "2", "2"]), "3 sessions"),
        (lambda: folds.speaker(["a", "b"], 8), "found 2 speakers"),
        (lambda: folds.speaker(["a", "b", "c"], 2), "folds.k = 2"),
        (lambda: folds.speaker(["a", "", "c"], 3), "without a speaker"),
        (lambda: folds.shuffle(["anger"] * 2 + ["sadness"] * 9, 0), "2 of anger"),
    ],
)
def test_folds_that_cannot_be_made_say_why(make, words):
    """No sessions, too few sessions, speakers or rows of a class: one line that says what was found or what to do."""
    with pytest.raises(StudyError, match=words) as caught:
        make()
    assert "\n" not in str(caught.value)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(0, 11), min_size=12, max_size=80), st.integers(3, 12))
def test_no_speaker_crosses(drawn, k):
    """Whatever the speakers and k: sides are disjoint, cover all rows, share no speaker, and each row tests once."""
    speakers = [f"s{i}" for i in drawn]
    if len(set(speakers)) < 3:
        return
    made = folds.speaker(speakers, k)
    assert all(not folds.crossing(f, speakers) for f in made)
    assert all(sum(map(len, sides(f))) == len(drawn) == len(set.union(*sides(f))) for f in made)
    assert sorted(np.concatenate([f.test for f in made])) == list(range(len(drawn)))


def test_shuffle_is_stratified_seeded_and_leaks_speakers():
    """90/5/5 of each class to one row; the same seed the same rows; `crossing` sees the speakers on all sides."""
    y = np.repeat(CLASSES, [100, 200, 300, 40])
    (fold,) = folds.shuffle(y, 3)
    assert [int(np.sum(y[fold.test] == c)) for c in CLASSES] == [5, 10, 15, 2]
    assert [int(np.sum(y[fold.validate] == c)) for c in CLASSES] == [5, 10, 15, 2]
    assert sum(map(len, sides(fold))) == len(y) == len(set.union(*sides(fold)))
    assert sides(folds.shuffle(y, 3)[0]) == sides(fold) != sides(folds.shuffle(y, 4)[0])
    assert folds.crossing(fold, np.array(["a", "b"] * 320)) == ["a", "b"]


def test_take_is_nested_stratified_and_blind_to_row_order():
    """10 % lie in 25 % in 75 %; each class keeps its share to one row; a permuted corpus gives the same utterances."""
    random = np.random.default_rng(0)
    ids, y = np.array([f"u{i}" for i in range(500)]), random.choice(CLASSES, 500, p=[0.1, 0.2, 0.3, 0.4])
    order = random.permutation(500)
    last: set[str] = set()
    for fraction in (0.0, 0.1, 0.25, 0.75, 1.0):
        rows = folds.take(ids, y, fraction, seed=1)
        assert all(np.sum(y[rows] == c) == round(fraction * np.sum(y == c)) for c in CLASSES)
        assert last <= set(ids[rows])
        last = set(ids[rows])
        assert last == set(ids[order][folds.take(ids[order], y[order], fraction, seed=1)])
    assert set(folds.take(ids, y, 0.5, seed=1)) != set(folds.take(ids, y, 0.5, seed=2))
