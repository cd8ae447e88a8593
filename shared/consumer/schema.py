"""The schema of a service's read models, `views_<n>`, and the views that admins see, `api` (D9, D11). Runs as the owner, in `migrate`."""

import inspect
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path
from typing import Final

from shared import logs
from shared.consumer.values import Projection
from shared.migrate import Roles
from shared.postgres import Connection, quote

FIRST_SCHEMA: Final = "views_1"

_log = logs.logger()


async def ensure_views(connection: Connection, roles: Roles, projections: Sequence[Projection], api_sql: Path) -> bool:
    """Makes the first schema of read models where there is none, and the `api` views anew, in one transaction.

    False when the live read models were built by other definitions than `projections`: they stay as they are until they are rebuilt.
    `api_sql` and the tables' files name read models without a schema; `api.freshness` is there for every service.
    """
    definition = definition_hash(projections)
    async with connection.transaction():
        live = await connection.fetchrow("SELECT schema, definition_hash FROM consumer.views WHERE live FOR UPDATE")
        schema = FIRST_SCHEMA if live is None else str(live["schema"])
        if live is None:
            await connection.execute(f"CREATE SCHEMA {quote(schema)}")
            await _look_in(connection, schema)
            for each in projections:
                await connection.execute(_sql(each.tables, roles))
            await connection.execute(roles.fill_in(_GRANT_TABLES.format(schema=quote(schema))))
            await connection.execute("INSERT INTO consumer.views VALUES ($1, $2, true)", schema, definition)
        await _look_in(connection, schema)
        await connection.execute("DROP SCHEMA IF EXISTS api CASCADE; CREATE SCHEMA api;" + _FRESHNESS)
        await connection.execute(_sql(api_sql, roles))
        await connection.execute(roles.fill_in(_GRANT_API))
    unchanged = live is None or live["definition_hash"] == definition
    if not unchanged:
        _log.warning("views_built_by_other_definitions", state=schema)
    return unchanged


def definition_hash(projections: Sequence[Projection]) -> str:
    """What the rows of the read models follow from: the tables' SQL and the source of the modules in which the folds stand."""
    digest = sha256()
    for each in sorted(projections, key=lambda one: one.name):
        module = inspect.getmodule(each.fold)
        for text in (each.name, each.source, each.tables.read_text(encoding="utf-8"), inspect.getsource(module) if module else ""):
            digest.update(len(text).to_bytes(4) + text.encode())
    return digest.hexdigest()


def _sql(file: Path, roles: Roles) -> str:
    return roles.fill_in(file.read_text(encoding="utf-8"))


async def _look_in(connection: Connection, schema: str) -> None:
    await connection.execute("SELECT set_config('search_path', $1, true)", quote(schema))


_GRANT_TABLES: Final = """
    GRANT USAGE ON SCHEMA {schema} TO :"app";
    GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA {schema} TO :"app";
    GRANT USAGE ON ALL SEQUENCES IN SCHEMA {schema} TO :"app"
"""
_GRANT_API: Final = 'GRANT USAGE ON SCHEMA api TO :"reader", :"app"; GRANT SELECT ON ALL TABLES IN SCHEMA api TO :"reader", :"app"'
_FRESHNESS: Final = """
    CREATE VIEW api.freshness AS
        SELECT place.log AS source, place.log_id, place.applied, known.head, known.head - place.applied AS behind_events,
               place.ce_time AS shows_until, head.said_at AS as_of
        FROM consumer.position AS place
        LEFT JOIN consumer.head AS head USING (log)
        CROSS JOIN LATERAL (  -- The own log is asked itself: what it says of itself comes by Kafka, and not while that is away.
            SELECT greatest(
                head.head, place.applied, (SELECT max(position) FROM es.event WHERE place.log = (SELECT service FROM es.log)), 0
            ) AS head
        ) AS known
        WHERE place.consumer = 'views';
    COMMENT ON VIEW api.freshness IS '数据新鲜度 / how far the read models have followed each source log';
    COMMENT ON COLUMN api.freshness.source IS '源服务 / the service whose log it is';
    COMMENT ON COLUMN api.freshness.log_id IS '日志标识 / the id of that log';
    COMMENT ON COLUMN api.freshness.applied IS '已处理到的位置 / the last position that the read models show';
    COMMENT ON COLUMN api.freshness.head IS '日志最新位置 / the last position of the log; of another service''s, as it said last';
    COMMENT ON COLUMN api.freshness.behind_events IS '落后的事件数 / events between the two';
    COMMENT ON COLUMN api.freshness.shows_until IS '已处理事件的业务时间 / business time of the last event shown';
    COMMENT ON COLUMN api.freshness.as_of IS '该日志上次报告的时间 / when the log last spoke of itself';
"""
