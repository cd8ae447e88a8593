"""What the rows of read models follow from is told apart from what only stands beside it."""

import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from uuid import uuid4

import pytest

from shared.consumer.schema import definition_hash
from shared.consumer.values import Projection

MODULE = '''
"""A projection."""
from shared.http.query import Column, Query

WORDS = {"open": "open"}
COLUMN = Column("state", "text", "a", "b")
_INSERT = "INSERT INTO rows SELECT 1"

async def fold(connection, facts):
    await connection.execute(_INSERT, [turned(each) for each in facts])

def turned(fact):
    return fact  # as it is
'''
TABLES = "CREATE TABLE rows (n integer);"


def hash_of(folder: Path, module: str = MODULE, tables: str = TABLES) -> str:
    """The definition that such files make."""
    name = f"projection_{uuid4().hex}"
    source, sql = folder / f"{name}.py", folder / "rows.sql"
    source.write_text(module)
    sql.write_text(tables)
    spec = spec_from_file_location(name, source)
    assert spec is not None
    assert spec.loader is not None
    made = module_from_spec(spec)
    sys.modules[name] = made
    spec.loader.exec_module(made)
    return definition_hash([Projection("rows", "hours", sql, made.fold)])


@pytest.mark.parametrize(
    ("was", "becomes"),
    [("# as it is", "# another remark"), ('"open": "open"', '"open": "在场"'), ('"a", "b"', '"a", "c"'), ("\n\n", "\n\n\n")],
)
def test_words_queries_and_remarks_change_no_definition(tmp_path: Path, was: str, becomes: str) -> None:
    assert was in MODULE
    assert hash_of(tmp_path, MODULE.replace(was, becomes)) == hash_of(tmp_path)


@pytest.mark.parametrize(("was", "becomes"), [("SELECT 1", "SELECT 2"), ("return fact", "return None"), ("turned(each)", "each")])
def test_a_change_of_the_fold_or_of_what_it_reaches_changes_the_definition(tmp_path: Path, was: str, becomes: str) -> None:
    assert hash_of(tmp_path, MODULE.replace(was, becomes)) != hash_of(tmp_path)


def test_a_change_of_the_tables_changes_the_definition(tmp_path: Path) -> None:
    assert hash_of(tmp_path, tables=TABLES.replace("integer", "bigint")) != hash_of(tmp_path)
