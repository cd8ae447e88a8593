"""The schemas of a service's read models, `views_<n>`, and the views that admins see, `api` (D9, D11). Made as the owner."""

import ast
import asyncio
import inspect
from collections.abc import Sequence
from functools import cache
from hashlib import sha256
from logging import ERROR, INFO
from pathlib import Path
from typing import Final

from shared import access, logs
from shared.consumer.apply import LIVE
from shared.consumer.values import Fold, Projection
from shared.lifecycle import every
from shared.metrics import Metrics
from shared.migrate import Roles
from shared.postgres import Connection, Pool, quote

FIRST_SCHEMA: Final = "views_1"
LOOK_SECONDS: Final = 10.0
"""Between two looks of a process whether its definitions are those of the live read models."""

_log = logs.logger()


def consumer_of(schema: str) -> str:
    """Under which name a schema that is not live has its positions: `views@2`."""
    return f"{LIVE}@{schema.removeprefix('views_')}"


async def ensure_views(connection: Connection, roles: Roles, projections: Sequence[Projection], api_sql: Path) -> bool:
    """Makes the first schema of read models where there is none, and the `api` views anew, in one transaction.

    False when the live read models were built by other definitions than `projections`: they and their `api` views stay as they are until
    they are rebuilt, but for whose rows anybody sees. `api_sql` and the tables' files name read models without a schema; `api.freshness` is
    there for every service.
    """
    definition = definition_hash(projections)
    async with connection.transaction():
        live = await connection.fetchrow("SELECT schema, definition_hash FROM consumer.views WHERE live FOR UPDATE")
        if live is None:
            await make_schema(connection, roles, projections, FIRST_SCHEMA)
            await connection.execute(_INSERT_LIVE, FIRST_SCHEMA, definition)
        elif live["definition_hash"] == "":
            await connection.execute("UPDATE consumer.views SET definition_hash = $1 WHERE live", definition)
        elif live["definition_hash"] != definition:
            _log.warning("views_built_by_other_definitions", state=live["schema"])
            await access.guard(connection, roles, live["schema"], rules_of(projections))
            await access.open_views(connection, roles)
            return False
        await make_api(connection, roles, projections, FIRST_SCHEMA if live is None else live["schema"], api_sql)
    return True


async def make_schema(connection: Connection, roles: Roles, projections: Sequence[Projection], schema: str) -> None:
    """An empty schema of read models, for the app role to fill. In the caller's transaction."""
    await connection.execute(f"CREATE SCHEMA {quote(schema)}")
    await _look_in(connection, schema)
    for each in projections:
        await connection.execute(_sql(each.tables, roles))
    await connection.execute(roles.fill_in(_GRANT_TABLES.format(schema=quote(schema))))


async def make_api(connection: Connection, roles: Roles, projections: Sequence[Projection], schema: str, api_sql: Path) -> None:
    """The `api` views anew, over the read models in `schema`, whose rows are seen by the rules. In the caller's transaction.

    A file `joined.sql` beside `api_sql` makes what those views read past the rules, for rows that are seen.
    """
    await _look_in(connection, schema)
    await connection.execute("DROP SCHEMA IF EXISTS api CASCADE")  # First: readers hold a view before its tables.
    await access.guard(connection, roles, schema, rules_of(projections))
    joined = api_sql.with_name("joined.sql")
    await access.make_views(connection, roles, _sql(joined, roles) if joined.exists() else "", (_FRESHNESS, _sql(api_sql, roles)))


def rules_of(projections: Sequence[Projection]) -> access.Rules:
    """What all projections say of whose their rows are."""
    return {table: rows for each in projections for table, rows in each.rows.items()}


async def is_current(pool: Pool, projections: Sequence[Projection], metrics: Metrics) -> bool:
    """Whether the live read models were built by these definitions; the metric says when they were not.

    A worker writes only what its own definitions built: with others, rows would follow partly from these and partly from those.
    """
    current = await pool.fetchval("SELECT definition_hash FROM consumer.views WHERE live") in {None, definition_hash(projections)}
    metrics.projection_definition_changed.set(0 if current else 1)
    return current


async def keep_looking(pool: Pool, projections: Sequence[Projection], metrics: Metrics, stop: asyncio.Event) -> None:
    """Looks until `stop` whether the live read models are current, and says in a line when that changes."""
    said = True

    async def look() -> None:
        nonlocal said
        current = await is_current(pool, projections, metrics)
        if current != said:
            _log.log(INFO if current else ERROR, "views_current_again" if current else "views_built_by_other_definitions")
        said = current

    await every(stop, LOOK_SECONDS, "definition", look)


def definition_hash(projections: Sequence[Projection]) -> str:
    """What the rows of the read models follow from: the tables' SQL, and the code of the folds with what it names in its module.

    Comments, words and queries beside it change nothing.
    """
    digest = sha256()
    for each in sorted(projections, key=lambda one: one.name):
        for text in (each.name, each.source, each.tables.read_text(encoding="utf-8"), _code(each.fold)):
            digest.update(len(text.encode()).to_bytes(4) + text.encode())
    return digest.hexdigest()


@cache  # What runs does not change, and parsing takes the event loop for some ten milliseconds each time.
def _code(fold: Fold) -> str:
    """The statements of the fold's module that it reaches by name, in their order, as Python would write them."""
    module = inspect.getmodule(fold)
    statements = ast.parse(inspect.getsource(module)).body if module else []
    named = {name: each for each in statements for name in _names(each)}
    reached, ahead = set[ast.stmt](), [getattr(fold, "__name__", "")]
    while ahead:
        found = named.get(ahead.pop())
        if found is not None and found not in reached:
            reached.add(found)
            ahead += [each.id for each in ast.walk(found) if isinstance(each, ast.Name)]
    return "\n".join(ast.unparse(each) for each in statements if each in reached or not reached)


def _names(statement: ast.stmt) -> Sequence[str]:
    """The names that a module's statement gives something to."""
    if isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        return [statement.name]
    if isinstance(statement, ast.Import | ast.ImportFrom):
        return [each.asname or each.name for each in statement.names]
    targets = statement.targets if isinstance(statement, ast.Assign) else [statement.target] if isinstance(statement, ast.AnnAssign) else []
    return [each.id for target in targets for each in ast.walk(target) if isinstance(each, ast.Name)]


def _sql(file: Path, roles: Roles) -> str:
    return roles.fill_in(file.read_text(encoding="utf-8"))


async def _look_in(connection: Connection, schema: str) -> None:
    await connection.execute("SELECT set_config('search_path', $1, true)", quote(schema))


_INSERT_LIVE: Final = "INSERT INTO consumer.views (schema, definition_hash, live) VALUES ($1, $2, true)"
_GRANT_TABLES: Final = """
    GRANT USAGE ON SCHEMA {schema} TO :"app";
    GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA {schema} TO :"app";
    GRANT USAGE ON ALL SEQUENCES IN SCHEMA {schema} TO :"app"
"""
_FRESHNESS: Final = """
    CREATE VIEW api.freshness AS
        SELECT place.log AS source, place.log_id, place.applied, known.head, known.head - place.applied AS behind_events,
               place.ce_time AS shows_until, head.said_at AS as_of, stopped.reason AS stopped,
               (SELECT count(*) FROM consumer.discarded AS gone WHERE gone.consumer = 'views' AND gone.log = place.log) AS discarded
        FROM consumer.position AS place
        LEFT JOIN consumer.head AS head USING (log)
        LEFT JOIN consumer.stopped AS stopped ON stopped.consumer = 'views' AND stopped.log = place.log
        CROSS JOIN LATERAL (  -- The own log is asked itself: what it says of itself comes by Kafka, and not while that is away.
            SELECT greatest(
                head.head, place.applied, (SELECT max(position) FROM es.event WHERE place.log = (SELECT service FROM es.log)), 0
            ) AS head
        ) AS known
        WHERE place.consumer = 'views' AND (SELECT access.sees_any());
    COMMENT ON VIEW api.freshness IS '数据新鲜度 / how far the read models have followed each source log';
    COMMENT ON COLUMN api.freshness.source IS '源服务 / the service whose log it is';
    COMMENT ON COLUMN api.freshness.log_id IS '日志标识 / the id of that log';
    COMMENT ON COLUMN api.freshness.applied IS '已处理到的位置 / the last position that the read models show';
    COMMENT ON COLUMN api.freshness.head IS '日志最新位置 / the last position of the log; of another service''s, as it said last';
    COMMENT ON COLUMN api.freshness.behind_events IS '落后的事件数 / events between the two';
    COMMENT ON COLUMN api.freshness.shows_until IS '已处理事件的业务时间 / business time of the last event shown';
    COMMENT ON COLUMN api.freshness.as_of IS '该日志上次报告的时间 / when the log last spoke of itself';
    COMMENT ON COLUMN api.freshness.stopped IS '视图因何停止 / the error for which the read models stand still, if they do';
    COMMENT ON COLUMN api.freshness.discarded IS '经两人批准弃置的事件数 / events that two persons gave up';
"""
