"""The cache file: pooled features of a corpus in HDF5, safe against a kill at any moment. Nothing else knows HDF5.

A file that grows while it is written can be broken by a kill. So the whole file is laid out under another name, every
dataset allocated at its full size, and renamed; from then on rows are only filled in place, flushed, and marked done
last. Its metadata never changes again, so a kill costs at most the rows in flight.

    /features   [row, view, layer, stat, dim] float16; NaN where a row is not done. stat 0 mean, 1 standard deviation
    /ids /file /label /speaker /session /text /dialogue /gender     UTF-8 of fixed length, "" if unknown
    /start /end /seconds /valence /activation /dominance            float64, NaN if unknown; seconds: as decoded
    /done       uint8: 0 missing, 1 done, 2 skipped; the reason is in /skip_reason
    /audio_digest   of the decoded samples, "" where they could not be read
"""

from __future__ import annotations

from embedkit.cache._create import create_cache
from embedkit.cache._nearby import describe_cached
from embedkit.cache._schema import DONE, MISSING, SKIPPED
from embedkit.cache.file import Cache
from embedkit.cache.identity import Identity, describe_changes
from embedkit.cache.listing import CacheDescription, CacheListing, describe_cache, list_caches
from embedkit.cache.verification import CacheVerification, verify

__all__ = [
    "DONE",
    "MISSING",
    "SKIPPED",
    "Cache",
    "CacheDescription",
    "CacheListing",
    "CacheVerification",
    "Identity",
    "create_cache",
    "describe_cache",
    "describe_cached",
    "describe_changes",
    "list_caches",
    "verify",
]
