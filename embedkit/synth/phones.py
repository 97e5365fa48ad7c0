"""The phones that synthetic speech is made of."""

from __future__ import annotations

from typing import NamedTuple


class Phone(NamedTuple):
    """Targets of the synthesiser: formants of an average man (Hz), amplitudes 0..1."""

    seconds: float
    formants: tuple[float, float, float]
    voice: float = 0.0
    breath: float = 0.0
    hiss: float = 0.0  # friction or burst, not filtered by the vocal tract
    centre: float = 0.0  # of the hiss (Hz)
    width: float = 1.0  # of the hiss (Hz)


# Formants of vowels: Peterson & Barney, JASA 24, 1952.
VOWELS = {
    name: Phone(0.1, formants, voice=1.0)
    for name, formants in {
        "i": (270, 2290, 3010),
        "I": (390, 1990, 2550),
        "E": (530, 1840, 2480),
        "ae": (660, 1720, 2410),
        "a": (730, 1090, 2440),
        "O": (570, 840, 2410),
        "U": (440, 1020, 2240),
        "u": (300, 870, 2240),
        "V": (640, 1190, 2390),
        "er": (490, 1350, 1690),
    }.items()
}


def _make_stop(formants: tuple[float, float, float], centre: float, voiced: bool) -> list[Phone]:
    closure = Phone(0.06, formants, voice=0.12 if voiced else 0.0)
    burst = Phone(0.012, formants, hiss=0.5, centre=centre, width=0.6 * centre)
    return [closure, burst] if voiced else [closure, burst, Phone(0.035, formants, breath=0.25)]


LABIAL, ALVEOLAR, VELAR = (250.0, 900.0, 2200.0), (250.0, 1750.0, 2600.0), (250.0, 2000.0, 2300.0)
CONSONANTS = {
    "p": _make_stop(LABIAL, 900, False),
    "t": _make_stop(ALVEOLAR, 4200, False),
    "k": _make_stop(VELAR, 2100, False),
    "b": _make_stop(LABIAL, 900, True),
    "d": _make_stop(ALVEOLAR, 4000, True),
    "g": _make_stop(VELAR, 2000, True),
    "s": [Phone(0.11, ALVEOLAR, hiss=0.35, centre=5800, width=1800)],
    "S": [Phone(0.11, ALVEOLAR, hiss=0.40, centre=3000, width=1400)],
    "f": [Phone(0.09, LABIAL, hiss=0.12, centre=4500, width=5000)],
    "z": [Phone(0.08, ALVEOLAR, voice=0.35, hiss=0.18, centre=5600, width=1800)],
    "v": [Phone(0.06, LABIAL, voice=0.45, hiss=0.05, centre=4500, width=5000)],
    "h": [Phone(0.06, (500, 1500, 2500), breath=0.35)],
    "m": [Phone(0.07, (250, 1000, 2200), voice=0.40)],
    "n": [Phone(0.07, (250, 1500, 2500), voice=0.40)],
    "l": [Phone(0.06, (360, 1100, 2700), voice=0.65)],
    "r": [Phone(0.06, (330, 1150, 1600), voice=0.65)],
    "w": [Phone(0.06, (290, 650, 2200), voice=0.60)],
    "j": [Phone(0.06, (270, 2250, 3000), voice=0.60)],
}
CODAS = ["n", "m", "l", "r", "s", "t", "k", "z"]
PAUSE = Phone(0.25, (500, 1500, 2500))
