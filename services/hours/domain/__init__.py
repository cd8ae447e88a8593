"""The decisions of hours: pure functions from a state and a question to events or a refusal."""
