"""What can go wrong outside a decision, and what its handler is to do.

LeifengError
├── TransientError            try again later: nothing was decided
│   ├── StoreUnavailableError     the database did not answer in time (503)
│   ├── LogClosedError            the log is read-only, recovering or moved (503)
│   └── NotCaughtUpError          a token is ahead of what this service has read (409, retry)
├── CallerError               the request itself is wrong (4xx)
│   ├── StreamConflictError       others kept changing the stream (409, retry)
│   ├── StaleVersionError         If-Match names an old version (412)
│   ├── FingerprintMismatchError  the idempotency key was used with another body (422)
│   └── EventTooLargeError        a fact does not fit the size cap (422)
└── DeterministicError        the same input will always fail: park its key
    ├── EnvelopeError             headers do not make a record
    ├── UnknownEventTypeError     a type that stands in no contract
    ├── PayloadError              the payload does not fit its schema
    ├── InvariantError            a fold met what must never be
    └── BehindParkedError         a reaction needs what stands behind a blocked key
NewerVersionError             our code is too old for this fact: stop the consumer
"""

from uuid import UUID


class LeifengError(Exception):
    """Root of the errors this project raises on purpose."""


class TransientError(LeifengError):
    """Nothing was decided; the same request may succeed later."""


class StoreUnavailableError(TransientError):
    """The database did not answer within its timeout; the outcome of the request is unknown."""


class LogClosedError(TransientError):
    """The log is not open for appends: `read-only` or `recovering`, or on a server that it was not stamped with (`es.moved`)."""

    def __init__(self, state: str) -> None:
        super().__init__(f"log is {state}")
        self.state = state


class NotCaughtUpError(TransientError):
    """A position the caller has seen elsewhere has not arrived here yet."""

    def __init__(self, waited_for: str) -> None:
        super().__init__(f"not caught up with {waited_for}")
        self.waited_for = waited_for


class CallerError(LeifengError):
    """The request is wrong and will stay wrong."""


class StreamConflictError(CallerError):
    """The stream kept changing under the decision, three times over."""

    def __init__(self, stream: str) -> None:
        super().__init__(f"{stream} changed meanwhile")
        self.stream = stream


class StaleVersionError(CallerError):
    """The caller named a version of the stream that is no longer the newest."""

    def __init__(self, expected: int, actual: int) -> None:
        super().__init__(f"expected version {expected}, found {actual}")
        self.expected = expected
        self.actual = actual


class FingerprintMismatchError(CallerError):
    """A command id was used before with another body."""

    def __init__(self, command_id: UUID) -> None:
        super().__init__(f"command {command_id} was sent before with another body")
        self.command_id = command_id


class EventTooLargeError(CallerError):
    """A payload is over the cap of `EVENT_BYTES_MAX`."""

    def __init__(self, size_bytes: int, cap_bytes: int) -> None:
        super().__init__(f"event of {size_bytes} bytes is over the cap of {cap_bytes}")
        self.size_bytes = size_bytes
        self.cap_bytes = cap_bytes


class DeterministicError(LeifengError):
    """The same input fails the same way every time, live and in replay."""


class EnvelopeError(DeterministicError):
    """The headers of a record are missing, not UTF-8 or malformed."""


class UnknownEventTypeError(DeterministicError):
    """An event type that stands in no contract."""


class PayloadError(DeterministicError):
    """A payload does not fit the schema of its type and version; carries no content."""


class InvariantError(DeterministicError):
    """A fold met a state that the rules exclude."""


class BehindParkedError(DeterministicError):
    """What a reaction, or the plan of its command, lacks stands behind a blocked key: the lack is not a fact (D10)."""


class NewerVersionError(LeifengError):
    """A subscribed type arrived in a version newer than this code knows: stop, never park."""
