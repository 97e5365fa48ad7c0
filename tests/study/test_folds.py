"""Folds: who trains, validates and tests."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from embedkit.errors import StudyError
from embedkit.study import folds

CLASSES = np.array(["anger", "happiness", "neutral", "sadness"])


def sides(fold: folds.Fold) -> list[set[int]]:
    return [set(rows.tolist()) for rows in (fold.train, fold.validate, fold.test)]


def test_loso_tests_each_session_once_and_the_next_one_validates():
    """The contract's order: session i tests, i+1 (cyclic) validates, the rest train; every row on one side only."""
    sessions = np.array(["Ses02", "Ses01", "Ses03", "Ses05", "Ses04", "Ses01"])
    made = folds.leave_one_session_out(sessions)
    assert [f.name for f in made] == ["Ses01", "Ses02", "Ses03", "Ses04", "Ses05"]
    assert [set(sessions[f.test]) for f in made] == [{f.name} for f in made]
    assert [set(sessions[f.validate]) for f in made] == [{"Ses02"}, {"Ses03"}, {"Ses04"}, {"Ses05"}, {"Ses01"}]
    assert all(sorted(set.union(*sides(f))) == list(range(6)) for f in made)


def test_speakers_are_dealt_in_natural_order():
    """ "2" comes before "10", and the groups are dealt round-robin, so group 1 of 3 has speakers 1, 4, 10."""
    speakers = np.array([f"x:{i}" for i in (10, 2, 1, 3, 4, 5)])
    made = folds.split_by_speaker(speakers, 3)
    assert [f.name for f in made] == ["1", "2", "3"]
    assert [folds.sort_naturally(speakers[f.test]) for f in made] == [["x:1", "x:4"], ["x:2", "x:5"], ["x:3", "x:10"]]
    assert folds.sort_naturally(speakers[made[2].validate]) == ["x:1", "x:4"]


def test_k_is_at_most_the_number_of_speakers():
    """Eight folds of five speakers are five folds."""
    assert len(folds.split_by_speaker(["a", "b", "c", "d", "e"], 8)) == 5


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: folds.leave_one_session_out(["", "", ""]), "--folds speaker"),
        (lambda: folds.leave_one_session_out(["1", "", "2", "3"]), "--folds speaker"),
        (lambda: folds.leave_one_session_out(["1", "2", "2"]), "3 sessions"),
        (lambda: folds.split_by_speaker(["a", "b"], 8), "found 2 speakers"),
        (lambda: folds.split_by_speaker(["a", "b", "c"], 2), "folds.k = 2"),
        (lambda: folds.split_by_speaker(["a", "", "c"], 3), "without a speaker"),
        (lambda: folds.split_at_random(["anger"] * 2 + ["sadness"] * 9, 0), "2 of anger"),
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
    made = folds.split_by_speaker(speakers, k)
    assert all(not folds.find_crossing_groups(f, speakers) for f in made)
    assert all(sum(map(len, sides(f))) == len(drawn) == len(set.union(*sides(f))) for f in made)
    assert sorted(np.concatenate([f.test for f in made])) == list(range(len(drawn)))


def test_shuffle_is_stratified_seeded_and_leaks_speakers():
    """90/5/5 of each class to one row; the same seed the same rows; `crossing` sees the speakers on all sides."""
    y = np.repeat(CLASSES, [100, 200, 300, 40])
    (fold,) = folds.split_at_random(y, 3)
    assert [int(np.sum(y[fold.test] == c)) for c in CLASSES] == [5, 10, 15, 2]
    assert [int(np.sum(y[fold.validate] == c)) for c in CLASSES] == [5, 10, 15, 2]
    assert sum(map(len, sides(fold))) == len(y) == len(set.union(*sides(fold)))
    assert sides(folds.split_at_random(y, 3)[0]) == sides(fold) != sides(folds.split_at_random(y, 4)[0])
    assert folds.find_crossing_groups(fold, np.array(["a", "b"] * 320)) == ["a", "b"]


def test_take_is_nested_stratified_and_blind_to_row_order():
    """10 % lie in 25 % in 75 %; each class keeps its share to one row; a permuted corpus gives the same utterances."""
    random = np.random.default_rng(0)
    ids, y = np.array([f"u{i}" for i in range(500)]), random.choice(CLASSES, 500, p=[0.1, 0.2, 0.3, 0.4])
    order = random.permutation(500)
    last: set[str] = set()
    for fraction in (0.0, 0.1, 0.25, 0.75, 1.0):
        rows = folds.take_fraction(ids, y, fraction, seed=1)
        assert all(np.sum(y[rows] == c) == round(fraction * np.sum(y == c)) for c in CLASSES)
        assert last <= set(ids[rows])
        last = set(ids[rows])
        assert last == set(ids[order][folds.take_fraction(ids[order], y[order], fraction, seed=1)])
    assert set(folds.take_fraction(ids, y, 0.5, seed=1)) != set(folds.take_fraction(ids, y, 0.5, seed=2))


def by_hand() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """5 sessions, in each 6 scripts of unlike length, in every script each of 4 classes: (session, script, class)."""
    rows = [(f"Ses0{s}", f"script{p}", c) for s in range(1, 6) for p in range(6) for _ in range(p + 1) for c in "ahns"]
    return tuple(np.array(column) for column in zip(*rows, strict=True))  # type: ignore[return-value]


def test_clips_test_every_row_once_and_each_class_in_its_share() -> None:
    """k parts that do not overlap, stratified; another seed deals otherwise."""
    *_, y = by_hand()
    made = folds.split_by_clip(y, 5, seed=1)
    assert np.array_equal(np.sort(np.concatenate([f.test for f in made])), np.arange(len(y)))
    for i, fold in enumerate(made):
        assert np.array_equal(fold.validate, made[(i + 1) % 5].test)
        assert not set(fold.train) & {*fold.validate, *fold.test}
        assert max(np.unique(y[fold.test], return_counts=True)[1]) - 21 <= 0
    assert not np.array_equal(made[0].test, folds.split_by_clip(y, 5, seed=2)[0].test)
    with pytest.raises(StudyError, match="at least 5 rows of each class, found 4 of x"):
        folds.split_by_clip([*y, *"xxxx"], 5, 0)


def test_script_folds_share_neither_session_nor_script() -> None:
    """Every row is tested once; what trains has other sessions and other scripts than what is tested or validated."""
    sessions, scripts, _ = by_hand()
    made = folds.leave_scripts_out(sessions, scripts, 3)
    assert len(made) == 15 and made[1].name == "Ses01.2"
    assert np.array_equal(np.sort(np.concatenate([f.test for f in made])), np.arange(len(sessions)))
    for fold in made:
        for rows in (fold.test, fold.validate):
            assert not set(sessions[rows]) & set(sessions[fold.train])
            assert not set(scripts[rows]) & set(scripts[fold.train])
        assert set(sessions[fold.validate]).isdisjoint(sessions[fold.test])
        assert set(scripts[fold.validate]) == set(scripts[fold.test])
    parts = [len(f.test) for f in made[:3]]
    assert parts == [28, 28, 28]  # 6 + 1, 5 + 2, 4 + 3 times four classes
    with pytest.raises(StudyError, match="found 6"):
        folds.leave_scripts_out(sessions, scripts, 7)
    with pytest.raises(StudyError, match="without a text or a dialogue"):
        folds.leave_scripts_out(sessions, np.where(scripts == "script0", "", scripts), 3)


def test_who_validates_is_chosen() -> None:
    """previous mirrors next; random is a fifth of the rest in every class; test is the test part; test rows stay."""
    sessions, _, y = by_hand()
    made = folds.leave_one_session_out(sessions)
    previous = folds.choose_validation(made, "previous", y, 0)
    drawn = folds.choose_validation(made, "random", y, 0)
    picked = folds.choose_validation(made, "test", y, 0)
    for i, fold in enumerate(made):
        assert np.array_equal(previous[i].validate, made[i - 1].test)
        assert np.array_equal(drawn[i].test, fold.test) and np.array_equal(picked[i].validate, fold.test)
        assert np.array_equal(picked[i].train, fold.train)
        for other in (previous[i], drawn[i]):
            sides = [*other.train, *other.validate, *other.test]
            assert len(sides) == len(set(sides)) == len(y)
        for name in "ahns":
            rest = np.sum(y[np.r_[fold.train, fold.validate]] == name)
            assert np.sum(y[drawn[i].validate] == name) == round(0.2 * rest)
    assert folds.choose_validation(made, "next", y, 0) == made


def test_one_split_without_a_validation_part() -> None:
    """shuffle validated by its test rows is the 95/5 split; it has no previous part."""
    *_, y = by_hand()
    made = folds.split_at_random(y, 0)
    (fold,) = folds.choose_validation(made, "test", y, 0)
    assert np.array_equal(fold.validate, fold.test) and len(fold.train) + len(fold.test) == len(y)
    with pytest.raises(StudyError, match="only for folds loso, speaker and clips"):
        folds.choose_validation(made, "previous", y, 0)


def test_folds_are_cut_to_one_size() -> None:
    """Each class in its share, within one row a class; test and validation rows stay, and 60 lie in 90."""
    sessions, _, y = by_hand()
    made = folds.leave_one_session_out(sessions)
    small, large = folds.limit_training_rows(made, 60, y, 0), folds.limit_training_rows(made, 90, y, 0)
    for fold, few, more in zip(made, small, large, strict=True):
        assert set(few.train) < set(more.train) < set(fold.train)
        assert np.unique(y[few.train], return_counts=True)[1].tolist() == [15, 15, 15, 15]
        assert np.array_equal(few.test, fold.test) and np.array_equal(few.validate, fold.validate)
    assert np.array_equal(folds.limit_training_rows(made, 10**6, y, 0)[0].train, made[0].train)
