"""Mechanism that every service calls; not a word of the domain, the published contracts excepted."""

from typing import Final

VERSION: Final = "0.1.0"
"""Version of the program: that of pyproject.toml, which a test compares."""
