"""What a caller is told of an error: that the database is away for a while, or that something of ours is wrong."""

import asyncpg
import pytest

from shared.http.gate import problem_of


@pytest.mark.parametrize("error", [asyncpg.InvalidPasswordError("no"), asyncpg.TooManyConnectionsError("no"), ConnectionRefusedError()])
def test_a_database_that_lets_nobody_in_is_away(error: Exception) -> None:
    assert problem_of(error, "/stars").code == "store_unavailable"


@pytest.mark.parametrize("error", [asyncpg.UndefinedTableError("no"), asyncpg.InsufficientPrivilegeError("no"), KeyError("no")])
def test_a_statement_that_cannot_work_is_our_own_fault(error: Exception) -> None:
    assert problem_of(error, "/stars").code == "internal_error"
