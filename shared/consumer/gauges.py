"""The gauges of all consumers of a service, from its database: every worker shows the same, whoever holds the roles."""

from typing import Final

from shared.clock import Clock
from shared.consumer.setting import Setting
from shared.deadlines import count_due


async def refresh(setting: Setting, clock: Clock) -> None:
    """Sets positions, lag (against what the source's log says of itself, not the consumer group), parked keys, due deadlines and so on.

    Call it every second or two. Raises what the database raises.
    """
    pool, metrics = setting.pool, setting.metrics
    positions = await pool.fetch(_POSITIONS, sorted({each.source for each in setting.consumers.reactions}))
    parked = await pool.fetch(_PARKED)
    rebuilds = await pool.fetch(_REBUILDS)
    discarded = await pool.fetch("SELECT consumer, count(*) AS events FROM consumer.discarded GROUP BY consumer")
    stopped = await pool.fetch("SELECT consumer, log, reason FROM consumer.stopped WHERE consumer NOT LIKE 'views@%'")
    due = await count_due(pool, clock)
    for row in positions:
        labels = (row["consumer"], row["log"])
        metrics.consumer_last_applied_position.labels(*labels).set(row["applied"])
        if row["ce_time"] is not None:
            metrics.consumer_last_applied_timestamp_seconds.labels(*labels).set(row["ce_time"].timestamp())
        if row["head"] is None:
            continue
        metrics.consumer_lag_events.labels(*labels).set(max(row["head"] - row["applied"], 0))
        metrics.consumer_source_contradicts.labels(*labels).set(row["contradicts"])
        if row["applied"] >= row["head"] and not row["contradicts"]:
            metrics.consumer_heartbeat_timestamp_seconds.labels(*labels).set(row["said_at"].timestamp())
    for gauge in (metrics.parked_keys, metrics.parked_messages, metrics.parked_oldest_timestamp_seconds, metrics.consumer_stopped):
        gauge.clear()
    metrics.projection_rebuild_progress_ratio.clear()
    for row in discarded:
        metrics.discarded_messages.labels(row["consumer"]).set(row["events"])
    for row in stopped:
        metrics.consumer_stopped.labels(row["consumer"], row["log"], row["reason"]).set(1)
    for row in rebuilds:
        metrics.projection_rebuild_progress_ratio.labels(row["schema"]).set(row["ratio"])
    for row in parked:
        metrics.parked_keys.labels(row["consumer"], row["reason"]).set(row["keys"])
        metrics.parked_messages.labels(row["consumer"], row["reason"]).set(row["events"])
        metrics.parked_oldest_timestamp_seconds.labels(row["consumer"], row["reason"]).set(row["first_at"].timestamp())
    metrics.deadlines_due.set(due)


_POSITIONS: Final = """
    WITH place AS (
        SELECT consumer, log, log_id, applied, applied_hash AS hash, ce_time
        FROM consumer.position WHERE consumer NOT LIKE 'views@%'  -- Nobody reads those.
        UNION ALL SELECT 'reactions', log, log_id, reacted, reacted_hash, NULL
        FROM consumer.position WHERE consumer = 'inbox' AND log = ANY($1::text[])
    )
    SELECT place.consumer, place.log, place.applied, place.ce_time, head.head, head.said_at,
        coalesce(place.log_id <> head.log_id, false) OR head.head < place.applied
            OR (head.sealed = place.applied AND head.chain_hash <> place.hash) AS contradicts
    FROM place LEFT JOIN consumer.head AS head USING (log)
"""
_PARKED: Final = """
    SELECT parked.consumer, coalesce(blocked.reason, parked.error_class) AS reason, count(DISTINCT (parked.log, parked.key)) AS keys,
           count(*) AS events, min(parked.first_at) AS first_at
    FROM consumer.parked AS parked LEFT JOIN consumer.blocked AS blocked USING (consumer, log, stage, key)
    WHERE parked.consumer NOT LIKE 'views@%'
    GROUP BY 1, 2
"""
_REBUILDS: Final = """
    SELECT built.schema, coalesce(sum(place.applied) / nullif(sum(greatest(head.head, place.applied)), 0), 0) AS ratio
    FROM consumer.views AS built
    LEFT JOIN consumer.position AS place ON place.consumer = 'views@' || substr(built.schema, length('views_') + 1)
    LEFT JOIN consumer.head AS head USING (log)
    WHERE built.building GROUP BY built.schema
"""
