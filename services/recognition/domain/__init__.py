"""The decisions of recognition: pure functions from a state and a question to events or a refusal."""
