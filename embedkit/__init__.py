"""embedkit: speech emotion recognition on frozen encoders. Encode once, then ask a thousand questions."""

__version__ = "0.1.0"
