"""The event log of one service: append under one lock, read, and nothing else (D2, D3)."""
