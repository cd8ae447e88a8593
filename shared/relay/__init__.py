"""The relay of one service: it seals the log page by page, publishes what is sealed, and reads back what it published (D4).

Only a page whose seal is committed is published; the seal's unique `previous` keeps two relays from sealing the same stretch, and one
that wakes up late repeats at most the page it held, which readers drop. Where to go on is read from the topic, never remembered.
"""

from shared.relay.shell import TRANSIENT, FencedError, ForeignTopicError, Relay

__all__ = ["TRANSIENT", "FencedError", "ForeignTopicError", "Relay"]
