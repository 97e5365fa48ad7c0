"""Cards: every shipped card is valid, and what is wrong in one is named with its file, key and nearest right key."""

from __future__ import annotations

from pathlib import Path

import pytest

from embedkit import cards
from embedkit.errors import CardError
from embedkit.workspace import shipped_cards

KINDS = {"cache": cards.Recipe, "heads": cards.Head, "studies": cards.Study}
SHIPPED = [(room, path) for room in KINDS for path in sorted((shipped_cards() / room).glob("*.toml"))]


@pytest.mark.parametrize(("room", "path"), SHIPPED, ids=lambda x: getattr(x, "stem", x))
def test_every_shipped_card_is_valid(room: str, path: Path) -> None:
    card = cards.read(KINDS[room], path)
    assert card.name == path.stem and card.summary


def test_the_three_recipes_differ_as_the_contract_says() -> None:
    """paper: all of it; exact: all but the padding; plain: no trim, no pre-emphasis, no peak."""
    paper, exact, plain = (
        cards.read(cards.Recipe, shipped_cards() / "cache" / f"{n}.toml") for n in ("paper", "exact", "plain")
    )
    assert (paper.sound.trim_db, paper.sound.pre_emphasis, paper.sound.peak, paper.sound.max_seconds) == (
        20,
        0.97,
        0.95,
        8,
    )
    assert paper.sound.pad
    assert exact.sound == paper.sound.model_copy(update={"pad": False})
    assert (plain.sound.trim_db, plain.sound.pre_emphasis, plain.sound.peak, plain.sound.max_seconds) == (0, 0, 0, 8)
    assert exact.encoder == "ntu-spml/distilhubert" and exact.views == 4


@pytest.mark.parametrize(
    ("kind", "data", "message"),
    [
        (cards.Recipe, {"viewz": 3}, "unknown key 'viewz'; did you mean 'views'?"),
        (cards.Recipe, {"sound": {"trimdb": 3}}, "unknown key 'sound.trimdb'; did you mean 'trim_db'?"),
        (cards.Recipe, {"views": -1}, "views = -1: input should be greater than or equal to 0"),
        (cards.Recipe, {"precision": "fp8"}, "precision = 'fp8'"),
        (cards.Recipe, {"sound": {"pad": True, "max_seconds": 0}}, "pad = true needs max_seconds > 0"),
        (cards.Head, {"summary": "no kind"}, "'kind' is missing"),
        (cards.Head, {"kind": "mlp", "search": {"lr": {"type": "flot"}}}, "'int', 'float', 'choice'"),
        (
            cards.Head,
            {"kind": "mlp", "search": {"lr": {"type": "float", "low": 0, "high": 1, "log": True}}},
            "0 < low <= high must hold, but got 0 and 1",
        ),
        (cards.Head, {"kind": "mlp", "search": {"hidden": {"type": "int", "low": 9, "high": 3}}}, "got 9 and 3"),
        (cards.Head, {"kind": "mlp", "search": {"batch": {"type": "choice", "of": []}}}, "at least 1 item"),
        (cards.Study, {"folds": {"kinds": "loso"}}, "unknown key 'folds.kinds'; did you mean 'kind'?"),
        (cards.Study, {"labels": {"iemocap": {"angry": ["ang"]}}}, "unknown class 'angry'; did you mean 'anger'?"),
        (cards.Study, {"seeds": "many"}, "seeds = 'many'"),
    ],
)
def test_what_is_wrong_is_named(kind: type[cards.Card], data: dict[str, object], message: str) -> None:
    with pytest.raises(CardError) as error:
        cards.build(kind, data, where="card.toml")
    assert str(error.value).startswith("card.toml: ") and message in str(error.value)
    assert "\n" not in str(error.value)


def test_overrides_win_and_leave_the_rest() -> None:
    recipe = cards.read(cards.Recipe, shipped_cards() / "cache" / "exact.toml", {"sound.trim_db": 30, "views": 0})
    assert (recipe.sound.trim_db, recipe.sound.pre_emphasis, recipe.views) == (30, 0.97, 0)
    with pytest.raises(CardError, match="did you mean 'trim_db'"):
        cards.read(cards.Recipe, shipped_cards() / "cache" / "exact.toml", {"sound.trim": 30})


def test_settings_are_read_as_toml_else_as_text() -> None:
    got = cards.parse_settings(["a=1", "b.c=0.5", "d=[1, 2]", "e=true", "f=tpe", "g=a=b"])
    assert got == {"a": 1, "b.c": 0.5, "d": [1, 2], "e": True, "f": "tpe", "g": "a=b"}
    with pytest.raises(CardError, match="expected KEY=VALUE"):
        cards.parse_settings(["folds.k"])


def test_a_card_that_is_not_toml_names_the_line(tmp_path: Path) -> None:
    (tmp_path / "bad.toml").write_text("views = = 3\n")
    with pytest.raises(CardError, match=r"bad\.toml: not TOML: .*line 1"):
        cards.read(cards.Recipe, tmp_path / "bad.toml")
