"""Measurements of the shipped code paths: `python -m tests.bench [NAME ...] [--small]`. A program: pytest collects nothing here."""
