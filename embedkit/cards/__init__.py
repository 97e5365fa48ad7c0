"""The schema of the cards (TOML): recipes in cache/, heads in heads/, studies in studies/. Nothing else.

Every key has its meaning, unit and default here. An unknown or misspelt key is an error that names the file, the key
and the nearest right one; so is a value of the wrong kind.
"""

from __future__ import annotations

from embedkit.cards._reading import Card, build, parse_settings, read
from embedkit.cards.head import Choice, FloatRange, Head, IntRange, Space
from embedkit.cards.recipe import Augment, Recipe, Sound
from embedkit.cards.study import Arm, Certificate, Limits, Search, Study

__all__ = [
    "Arm",
    "Augment",
    "Card",
    "Certificate",
    "Choice",
    "FloatRange",
    "Head",
    "IntRange",
    "Limits",
    "Recipe",
    "Search",
    "Sound",
    "Space",
    "Study",
    "build",
    "parse_settings",
    "read",
]
