"""Which extra brings a package that the light install (`pip install embedkit`) does not have.

The light install predicts: numpy, onnxruntime, soundfile, soxr and the voice activity model. What trains, what draws
and what reads Parquet come as extras, named by the error of whatever misses them.
"""

from __future__ import annotations

from embedkit.errors import UserError

# Top-level modules that an extra of pyproject.toml brings; what is not named here comes with "train".
EXTRAS = {"matplotlib": "plot", "pyarrow": "parquet", "psycopg": "postgresql"}


class MissingExtraError(UserError, ImportError):
    """A package is not installed, which an extra of embedkit brings; exit code 2."""


def explain_missing_package(error: ModuleNotFoundError) -> Exception:
    """What to raise in place of an import that failed; the error itself where the missing module is one of ours."""
    module = (error.name or "").partition(".")[0]
    if module in ("", "embedkit"):
        return error
    extra = EXTRAS.get(module, "train")
    return MissingExtraError(f"this needs {module}, which is not installed; run: pip install 'embedkit[{extra}]'")
