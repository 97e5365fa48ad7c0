"""Workspaces: found from anywhere inside, laid down anywhere, and no path of a card leads out of one."""

from __future__ import annotations

from pathlib import Path

import pytest

from embedkit.errors import CardError, CorpusError, UserError
from embedkit.workspace import ROOMS, Workspace, init_workspace, resolve_inside, shipped_cards


def test_init_lays_down_every_card_and_keeps_edited_ones(tmp_path: Path) -> None:
    (tmp_path / "heads").mkdir()
    (tmp_path / "heads" / "mlp.toml").write_text("edited")
    workspace = init_workspace(tmp_path)
    for room in ROOMS:
        assert set(workspace.list_card_names(room)) >= {p.stem for p in (shipped_cards() / room).glob("*.toml")}
    assert (tmp_path / "heads" / "mlp.toml").read_text() == "edited"


def test_it_is_found_upward(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    init_workspace(tmp_path)
    (tmp_path / "a" / "b").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "a" / "b")
    assert Workspace.find().root == tmp_path
    with pytest.raises(UserError, match="embedkit init"):
        Workspace.find(tmp_path / "a")


@pytest.mark.parametrize("path", ["../x", "a/../../x", "/etc/passwd"])
def test_nothing_leads_out(tmp_path: Path, path: str) -> None:
    with pytest.raises(UserError, match="leads out"):
        resolve_inside(tmp_path, path)


def test_a_link_that_leads_out_is_refused(tmp_path: Path) -> None:
    (tmp_path / "root").mkdir()
    (tmp_path / "root" / "link").symlink_to(tmp_path)
    with pytest.raises(UserError, match="leads out"):
        resolve_inside(tmp_path / "root", "link/secret.wav")


def test_a_misspelt_card_gets_the_nearest_name(tmp_path: Path) -> None:
    with pytest.raises(CardError, match="did you mean 'exact'"):
        init_workspace(tmp_path).card("cache", "exat")


def test_a_corpus_is_found_by_flag_then_settings_then_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    workspace = init_workspace(tmp_path)
    monkeypatch.delenv("EMBEDKIT_CREMA_D", raising=False)
    with pytest.raises(CorpusError, match=r"--root DIR.*embedkit\.toml.*EMBEDKIT_CREMA_D"):
        workspace.resolve_corpus_root("crema-d")
    monkeypatch.setenv("EMBEDKIT_CREMA_D", str(tmp_path / "by-environment"))
    assert workspace.resolve_corpus_root("crema-d") == tmp_path / "by-environment"
    (tmp_path / "embedkit.toml").write_text('[corpora]\ncrema-d = "by-settings"\n')
    assert workspace.resolve_corpus_root("crema-d") == tmp_path / "by-settings"
    assert workspace.resolve_corpus_root("crema-d", Path("by-flag")) == Path("by-flag")


def test_a_misspelt_setting_is_named(tmp_path: Path) -> None:
    workspace = init_workspace(tmp_path)
    (tmp_path / "embedkit.toml").write_text("[corpus]\n")
    with pytest.raises(CardError, match="unknown key 'corpus'; did you mean 'corpora'"):
        workspace.settings()
    for wrong in ("corpora = 1", "[corpora]\nmine = 1"):
        (tmp_path / "embedkit.toml").write_text(wrong)
        with pytest.raises(CardError, match="expected a table of lines NAME"):
            workspace.settings()
