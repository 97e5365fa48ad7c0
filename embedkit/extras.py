"""Which extra brings a package that the light install (`pip install embedkit`) does not have.

The light install predicts: numpy, scipy, onnxruntime, soundfile, soxr, tqdm and the voice activity model. What trains
and what draws come as extras, which the error of a missing package names.
"""

from __future__ import annotations

from embedkit.errors import UserError

# Top-level modules that an extra of pyproject.toml brings; what is not named here comes with "train".
EXTRAS = {"matplotlib": "plot", "psycopg": "postgresql"}


class MissingExtraError(UserError, ImportError):
    """A package is not installed, which an extra of embedkit brings; exit code 2."""


def explain_missing_package(error: ModuleNotFoundError) -> Exception:
    """What to raise in place of an import that failed; the error itself where the missing module is one of ours."""
    module = (error.name or "").partition(".")[0]
    if module in ("", "embedkit"):
        return error
    extra = EXTRAS.get(module, "train")
    return MissingExtraError(f"this needs {module}, which is not installed; run: pip install 'embedkit[{extra}]'")
