"""How closely sweeps step: every third point, so that the suite ends soon; every one with DOCMIND_TEST_SWEEPS=full."""

from __future__ import annotations

import os

STEP = 1 if os.environ.get("DOCMIND_TEST_SWEEPS") == "full" else 3
"""Odd: what alternates from point to point is met in each of its forms."""
