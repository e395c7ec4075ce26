"""A loopback Qdrant 1.18.3 for tests: real engine data behind an HTTP surface held to recordings.

Start with `StandIn`; `faults.py` says what can be made to go wrong; what the real server does, and where
each rule was seen, stands in the docstrings of `state.py` (behaviour) and `wire.py` (the wire).
"""

from tests.standin.faults import (
    ChunkedCut,
    CloseDelimited,
    Drip,
    Drop,
    Faults,
    Flip,
    ForcedGzip,
    HtmlPage,
    Stall,
    WrongLength,
)
from tests.standin.server import Request, StandIn

__all__ = [
    "ChunkedCut",
    "CloseDelimited",
    "Drip",
    "Drop",
    "Faults",
    "Flip",
    "ForcedGzip",
    "HtmlPage",
    "Request",
    "StandIn",
    "Stall",
    "WrongLength",
]
