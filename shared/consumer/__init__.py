"""How a service reads logs, its own included: in order, once, and nothing is skipped (D7, D8, D10)."""
