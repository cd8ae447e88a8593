"""A process that says so and waits for a signal."""

import signal

print("waiting", flush=True)
signal.pause()
