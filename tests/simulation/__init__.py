"""The seeded simulation: the real relay, consumers, reactions, deadlines and `submit`, on time, servers and accidents that a seed makes up.

Nothing of the product is written twice here. What it talks to is replaced where its own words end: `asyncpg` by `database.py`, `aiokafka`
by `broker.py`, the event loop's clock by `loop.py`. A seed decides how long every answer takes, which of them are lost before or after
their effect, which process dies or sleeps in the middle, and what happens to the topics; `checks.py` then holds what is left against a
plain model. The same seed is the same run.
"""
