"""Passwords given by the cluster's administrator while it runs, as `kafka-configs.sh` does: aiokafka (0.14) has no request for it."""

import hashlib
import secrets
from typing import Any

from aiokafka.errors import for_code
from aiokafka.protocol.api import Request, RequestStruct, Response
from aiokafka.protocol.types import CompactArray, CompactBytes, CompactString, Int8, Int16, Int32, Schema, TaggedFields

from shared.kafka import admin_client
from shared.settings import Servers

_SCRAM_SHA_512 = 2
_ITERATIONS = 4096


class _Answer(Response):  # type: ignore[misc]  # aiokafka has no types.
    API_KEY = 51
    API_VERSION = 0
    SCHEMA = Schema(
        ("throttle_time_ms", Int32),
        (
            "results",
            CompactArray(
                ("user", CompactString("utf-8")), ("error_code", Int16), ("error_message", CompactString("utf-8")), ("tags", TaggedFields)
            ),
        ),
        ("tags", TaggedFields),
    )


class _Alter(RequestStruct):  # type: ignore[misc]
    API_KEY = 51
    API_VERSION = 0
    FLEXIBLE_VERSION = True
    RESPONSE_TYPE = _Answer
    SCHEMA = Schema(
        ("deletions", CompactArray(("name", CompactString("utf-8")), ("mechanism", Int8), ("tags", TaggedFields))),
        (
            "upsertions",
            CompactArray(
                ("name", CompactString("utf-8")), ("mechanism", Int8), ("iterations", Int32), ("salt", CompactBytes),
                ("salted_password", CompactBytes), ("tags", TaggedFields),
            ),
        ),
        ("tags", TaggedFields),
    )  # fmt: skip


class _AlterCredentials(Request[_Alter]):  # type: ignore[misc]
    API_KEY = 51

    def __init__(self, user: str, salt: bytes, salted: bytes) -> None:
        self._upsertion: tuple[Any, ...] = (user, _SCRAM_SHA_512, _ITERATIONS, salt, salted, {})

    def build(self, request_struct_class: type[_Alter]) -> _Alter:
        return request_struct_class([], [self._upsertion], {})


async def set_password(administrator: Servers, user: str, password: str) -> None:
    """Makes the user, or gives it another password."""
    salt = secrets.token_bytes(16)
    salted = hashlib.pbkdf2_hmac("sha512", password.encode(), salt, _ITERATIONS)
    async with admin_client(administrator) as admin:
        answer: Any = await admin._send_to_controller(_AlterCredentials(user, salt, salted))
    for _, code, message, _ in answer.results:
        assert code == 0, f"{for_code(code).__name__}: {message}"
