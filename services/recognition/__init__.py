"""Recognition: which honours stand, and why (domain.md 6.4)."""
