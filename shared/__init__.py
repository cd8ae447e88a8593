"""Mechanism that every service calls; not a word of the domain, the published contracts excepted."""
