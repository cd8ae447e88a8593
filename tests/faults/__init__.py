"""Real processes are killed, stopped and cut off; what was answered must still be true afterwards (reliability.md 2)."""
