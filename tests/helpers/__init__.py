"""Tools that several test modules share. Test modules import from here, never from each other."""

from pathlib import Path

ROOT = Path(__file__).parents[2]  # of the repository
