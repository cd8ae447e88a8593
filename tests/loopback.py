"""HTTP clients of the tests: everything is on the loopback."""

import ssl
from typing import Final

NO_TLS: Final = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
"""For httpx's `verify`: nothing here speaks TLS, and without it each client loads the machine's certificates, 40 ms of CPU."""
