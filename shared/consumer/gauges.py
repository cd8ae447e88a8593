"""The gauges of all consumers of a service, from its database: every worker shows the same, whoever holds the roles."""

from typing import Final

from shared import deadlines
from shared.clock import Clock
from shared.consumer.setting import Setting


async def refresh(setting: Setting, clock: Clock) -> None:
    """Sets positions, lag (against what the source's log says of itself, not the consumer group), parked keys, due deadlines and so on.

    Call it every second or two. Raises what the database raises.
    """
    pool, metrics = setting.pool, setting.metrics
    found = await pool.fetchrow(_ALL, sorted({each.source for each in setting.consumers.reactions}), await deadlines.now_of(clock))
    assert found is not None
    for consumer, log, applied, ce_time, head, said_at, contradicts in found["positions"]:
        metrics.consumer_last_applied_position.labels(consumer, log).set(applied)
        if ce_time is not None:
            metrics.consumer_last_applied_timestamp_seconds.labels(consumer, log).set(ce_time.timestamp())
        if head is None:
            continue
        metrics.consumer_lag_events.labels(consumer, log).set(max(head - applied, 0))
        metrics.consumer_source_contradicts.labels(consumer, log).set(contradicts)
        if applied >= head and not contradicts:
            metrics.consumer_heartbeat_timestamp_seconds.labels(consumer, log).set(said_at.timestamp())
    for gauge in (metrics.parked_keys, metrics.parked_messages, metrics.parked_oldest_timestamp_seconds, metrics.consumer_stopped):
        gauge.clear()
    metrics.projection_rebuild_progress_ratio.clear()
    for consumer, events in found["discarded"]:
        metrics.discarded_messages.labels(consumer).set(events)
    for consumer, log, reason in found["stopped"]:
        metrics.consumer_stopped.labels(consumer, log, reason).set(1)
    for schema, ratio in found["rebuilds"]:
        metrics.projection_rebuild_progress_ratio.labels(schema).set(ratio)
    for consumer, reason, keys, events, first_at in found["parked"]:
        metrics.parked_keys.labels(consumer, reason).set(keys)
        metrics.parked_messages.labels(consumer, reason).set(events)
        metrics.parked_oldest_timestamp_seconds.labels(consumer, reason).set(first_at.timestamp())
    for state, erasures, oldest in found["erasures"]:
        metrics.erasures_open.labels(state).set(erasures)
        metrics.erasure_oldest_timestamp_seconds.labels(state).set(oldest.timestamp() if oldest is not None else 0)
    metrics.deadlines_due.set(found["due"])


_ALL: Final = """
    WITH place AS (
        SELECT consumer, log, log_id, applied, applied_hash AS hash, ce_time
        FROM consumer.position WHERE consumer NOT LIKE 'views@%'  -- Nobody reads those.
        UNION ALL SELECT 'reactions', log, log_id, reacted, reacted_hash, NULL
        FROM consumer.position WHERE consumer = 'inbox' AND log = ANY($1::text[])
    )
    SELECT
        ARRAY(
            SELECT (place.consumer, place.log, place.applied, place.ce_time, head.head, head.said_at,
                coalesce(place.log_id <> head.log_id, false) OR head.head < place.applied
                    OR (head.sealed = place.applied AND head.chain_hash <> place.hash))
            FROM place LEFT JOIN consumer.head AS head USING (log)
        ) AS positions,
        ARRAY(
            SELECT (parked.consumer, coalesce(blocked.reason, parked.error_class), count(DISTINCT (parked.log, parked.key)), count(*),
                min(parked.first_at))
            FROM consumer.parked AS parked LEFT JOIN consumer.blocked AS blocked USING (consumer, log, stage, key)
            WHERE parked.consumer NOT LIKE 'views@%'
            GROUP BY parked.consumer, coalesce(blocked.reason, parked.error_class)
        ) AS parked,
        ARRAY(
            SELECT (built.schema,
                coalesce(sum(place.applied) / nullif(sum(greatest(head.head, place.applied)), 0), 0))
            FROM consumer.views AS built
            LEFT JOIN consumer.position AS place ON place.consumer = 'views@' || substr(built.schema, length('views_') + 1)
            LEFT JOIN consumer.head AS head USING (log)
            WHERE built.building GROUP BY built.schema
        ) AS rebuilds,
        ARRAY(
            SELECT (asked.state, count(erasure.subject), min(erasure.since))
            FROM (VALUES ('requested'::text), ('erased')) AS asked (state) LEFT JOIN consumer.erasure USING (state) GROUP BY asked.state
        ) AS erasures,
        ARRAY(SELECT (consumer, count(*)) FROM consumer.discarded GROUP BY consumer) AS discarded,
        ARRAY(SELECT (consumer, log, reason) FROM consumer.stopped WHERE consumer NOT LIKE 'views@%') AS stopped,
        (SELECT count(*) FROM consumer.deadline WHERE due_at <= $2) AS due
"""
