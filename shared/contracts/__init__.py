"""The published language: what a service says to the others, as data."""
