"""What a caller is told of an error: that the database is away for a while, or that something of ours is wrong."""

import asyncpg
import pytest
from starlette.requests import Request

from shared.http.gate import problem_of, single
from shared.http.problems import ProblemError


@pytest.mark.parametrize("error", [asyncpg.InvalidPasswordError("no"), asyncpg.TooManyConnectionsError("no"), ConnectionRefusedError()])
def test_a_database_that_lets_nobody_in_is_away(error: Exception) -> None:
    assert problem_of(error, "/stars").code == "store_unavailable"


@pytest.mark.parametrize("error", [asyncpg.UndefinedTableError("no"), asyncpg.InsufficientPrivilegeError("no"), KeyError("no")])
def test_a_statement_that_cannot_work_is_our_own_fault(error: Exception) -> None:
    assert problem_of(error, "/stars").code == "internal_error"


@pytest.mark.parametrize(("asked", "told"), [(b"sort=1", "sort"), (b"%E8%B5%B5=1", "?"), (b"19900000001=1", "?")])
def test_a_parameter_that_nobody_knows_is_named_only_where_it_is_made_like_one(asked: bytes, told: str) -> None:
    with pytest.raises(ProblemError, match="parameter_unknown") as caught:
        single(Request({"type": "http", "query_string": asked}), ("unit",))
    assert caught.value.members == {"parameter": told, "known": ["unit"]}
