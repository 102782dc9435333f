"""What came out: the record of a run, and how it is shown."""

from pathlib import Path

INDEX = Path("parity-report", "index.html")
"""The page of a run; its folder is made where it is not there, as no other is."""
