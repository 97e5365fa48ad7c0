"""IEMOCAP: 5 sessions of 2 actors each, scripted and improvised English dialogues, 10,039 turns.

Source: Busso et al., "IEMOCAP: Interactive emotional dyadic motion capture database", Language Resources and
Evaluation 42(4), 2008. The sheet `SessionN/dialog/EmoEvaluation/<dialogue>.txt` has one line for each turn,
`[start - end]<TAB>turn id<TAB>label<TAB>[valence, activation, dominance]`, and below it the votes of the
annotators, which are not labels. A turn's sound is `SessionN/sentences/wav/<dialogue>/<turn id>.wav`.

In a turn id such as `Ses01F_impro01_M003` the letter before the number is the speaker; the letter after the session's
number says only which actor wore the motion capture markers.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from embedkit.corpora._base import Utterance, list_recordings, locate_corpus

SOURCE = "https://sail.usc.edu/iemocap (on request, from USC); root is the folder IEMOCAP_full_release"
LICENCE = "USC's release form: research only, not to be passed on"
LABELS = {"anger": ["ang"], "happiness": ["hap", "exc"], "neutral": ["neu"], "sadness": ["sad"]}

SHEETS = "Session[1-5]/dialog/EmoEvaluation/Ses*.txt"
TURN = re.compile(
    r"^\[[\d.]+ - [\d.]+\][ \t]+"
    r"(?P<id>(?P<dialogue>(?P<session>Ses\d\d)\w+)_(?P<actor>[FM])\d{3})[ \t]+"
    r"(?P<label>\w+)[ \t]+"
    r"\[(?P<valence>[\d.]+), (?P<activation>[\d.]+), (?P<dominance>[\d.]+)\]",
    re.MULTILINE,
)
SCRIPT = re.compile(r"_(script\d\d_\d)")  # script01_1b is a second take of script01_1


def folder(root: Path) -> Path:
    """IEMOCAP_full_release: root, or the folder in it with such sheets."""
    return locate_corpus("IEMOCAP", root, SHEETS)


def read(root: Path) -> Iterator[Utterance]:
    """Yield every labelled turn, sheet by sheet, whether or not its recording is there.

    speaker is session and letter ("Ses01F"). text is the part of the script ("script01_1"), which the pairs of all
    sessions act, and "" for improvisations. start and end stay unknown: each turn is a file.
    """
    place = folder(root)
    for sheet in sorted(place.glob(SHEETS)):
        session_folder = sheet.parents[2].name
        sounds: dict[str, dict[str, Path]] = {}
        for turn in TURN.finditer(sheet.read_text(encoding="utf-8", errors="replace")):
            dialogue = turn["dialogue"]
            wavs = f"{session_folder}/sentences/wav/{dialogue}"
            if dialogue not in sounds:
                sounds[dialogue] = list_recordings(place / wavs)
            sound = sounds[dialogue].get(turn["id"])
            script = SCRIPT.search(dialogue)
            yield Utterance(
                id=turn["id"],
                file=f"{wavs}/{sound.name if sound else turn['id'] + '.wav'}",
                label=turn["label"],
                speaker=turn["session"] + turn["actor"],
                session=turn["session"],
                text=script[1] if script else "",
                dialogue=dialogue,
                gender="female" if turn["actor"] == "F" else "male",
                valence=float(turn["valence"]),
                activation=float(turn["activation"]),
                dominance=float(turn["dominance"]),
            )
