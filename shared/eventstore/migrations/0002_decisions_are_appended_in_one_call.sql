-- The append (D3): everything that one batch of decisions needs, in one call of one volatile function, so that a client that stops
-- between two statements can never hold the lock. Volatile and READ COMMITTED: each statement below sees what the lock's former
-- holder committed.
--
-- Requests, events and claims come as parallel arrays; an event or claim names its request by its place, from 1. Within a batch no
-- stream, command id or claim stands twice (the lane sees to it; the keys refuse the batch otherwise). Verdicts come back in order of
-- the requests: new, repeat, other body, conflict, claim taken. Only the new are written; the others fail alone.
CREATE FUNCTION es.append(
    in_command_ids uuid[], in_fingerprints bytea[], in_categories text[], in_stream_ids uuid[], in_expected_versions bigint[],
    in_counts integer[], in_refusals text[], in_keep_answers boolean[], in_times timestamptz[], in_correlation_ids uuid[],
    in_causation_ids uuid[], in_actors text[], in_partition_keys text[], in_traceparents text[],
    in_event_requests integer[], in_event_indexes integer[], in_event_ids uuid[], in_types text[], in_schema_versions integer[],
    in_payloads bytea[],
    in_claim_requests integer[], in_claim_takes boolean[], in_claim_scopes text[], in_claim_values text[],
    OUT verdicts text[],
    OUT first_positions bigint[],            -- of a request without events: the head that it was validated at
    OUT event_counts integer[],
    OUT refusals text[],
    OUT actual_versions bigint[],
    OUT taken integer[]                      -- the place of a claim that another stream holds
)
LANGUAGE plpgsql VOLATILE
-- Plans are made once and reach rows by index only, however small the tables were when they were made.
SET plan_cache_mode = force_generic_plan
SET enable_seqscan = off
SET enable_hashjoin = off
SET enable_mergejoin = off
AS $$
DECLARE
    state_now text;
    head bigint;
    recorded timestamptz;
    held record;
BEGIN
    PERFORM pg_advisory_xact_lock(5104202001);

    SELECT log.state INTO state_now FROM es.log;
    IF state_now IS DISTINCT FROM 'open' THEN
        RAISE EXCEPTION USING ERRCODE = 'LF001', MESSAGE = coalesce(state_now, 'absent');
    END IF;

    SELECT event.position, event.recorded_at INTO head, recorded FROM es.event ORDER BY event.position DESC LIMIT 1;
    head := coalesce(head, 0);
    recorded := greatest(clock_timestamp(), recorded);

    taken := array_fill(NULL::integer, ARRAY[cardinality(in_command_ids)]);
    IF cardinality(in_claim_requests) > 0 THEN
        FOR held IN
            SELECT wanted.request, min(wanted.place)::integer AS place
            FROM unnest(in_claim_requests, in_claim_takes, in_claim_scopes, in_claim_values) WITH ORDINALITY
                AS wanted (request, take, scope, value, place)
            JOIN es.claim ON claim.scope = wanted.scope AND claim.value = wanted.value
            WHERE wanted.take
                AND (claim.category, claim.stream_id) <> (in_categories[wanted.request], in_stream_ids[wanted.request])
            GROUP BY wanted.request
        LOOP
            taken[held.request] := held.place;
        END LOOP;
    END IF;

    SELECT
        array_agg(judged.verdict ORDER BY judged.place),
        array_agg(coalesce(judged.known_position, head + judged.earlier + least(judged.event_count, 1)) ORDER BY judged.place),
        array_agg(coalesce(judged.known_count, judged.event_count) ORDER BY judged.place),
        array_agg(CASE WHEN judged.verdict = 'new' THEN in_refusals[judged.place] ELSE judged.known_refusal END ORDER BY judged.place),
        array_agg(judged.version ORDER BY judged.place)
    INTO verdicts, first_positions, event_counts, refusals, actual_versions
    FROM (
        SELECT
            said.*,
            coalesce(sum(said.event_count) FILTER (WHERE said.verdict = 'new')
                OVER (ORDER BY said.place ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING), 0)::bigint AS earlier
        FROM (
            SELECT
                request.place,
                request.event_count,
                stream.version,
                known.position AS known_position,
                known.event_count AS known_count,
                known.refusal::text AS known_refusal,
                CASE
                    WHEN known.fingerprint <> request.fingerprint THEN 'other body'
                    WHEN known.command_id IS NOT NULL THEN 'repeat'
                    WHEN stream.version <> request.expected_version THEN 'conflict'
                    WHEN taken[request.place] IS NOT NULL THEN 'claim taken'
                    ELSE 'new'
                END AS verdict
            FROM unnest(in_command_ids, in_fingerprints, in_categories, in_stream_ids, in_expected_versions, in_counts) WITH ORDINALITY
                AS request (command_id, fingerprint, category, stream_id, expected_version, event_count, place)
            LEFT JOIN es.command AS known ON known.command_id = request.command_id
            CROSS JOIN LATERAL (
                SELECT coalesce(max(event.version), 0) FROM es.event
                WHERE event.category = request.category AND event.stream_id = request.stream_id
            ) AS stream (version)
        ) AS said
    ) AS judged;

    IF cardinality(in_event_requests) > 0 THEN
        INSERT INTO es.event (
            position, category, stream_id, version, event_id, type, schema_version, recorded_at, time,
            command_id, correlation_id, causation_id, actor, partition_key, traceparent, payload
        )
        SELECT
            first_positions[fresh.request] + fresh.index, in_categories[fresh.request], in_stream_ids[fresh.request],
            in_expected_versions[fresh.request] + fresh.index + 1, fresh.event_id, fresh.type, fresh.schema_version, recorded,
            in_times[fresh.request], in_command_ids[fresh.request], in_correlation_ids[fresh.request], in_causation_ids[fresh.request],
            in_actors[fresh.request], in_partition_keys[fresh.request], in_traceparents[fresh.request], fresh.payload
        FROM unnest(in_event_requests, in_event_indexes, in_event_ids, in_types, in_schema_versions, in_payloads)
            AS fresh (request, index, event_id, type, schema_version, payload)
        WHERE verdicts[fresh.request] = 'new';
    END IF;

    INSERT INTO es.command (command_id, fingerprint, outcome, position, event_count, refusal, actor, correlation_id, at)
    SELECT
        said.command_id, said.fingerprint, CASE WHEN said.refusal IS NULL THEN 'accepted' ELSE 'refused' END, said.position,
        said.event_count, said.refusal::json, CASE WHEN said.refusal IS NOT NULL THEN said.actor END,
        CASE WHEN said.refusal IS NOT NULL THEN said.correlation_id END, recorded
    FROM unnest(
        in_command_ids, in_fingerprints, first_positions, in_counts, in_refusals, in_actors, in_correlation_ids, in_keep_answers, verdicts
    ) AS said (command_id, fingerprint, position, event_count, refusal, actor, correlation_id, keep_answer, verdict)
    WHERE said.verdict = 'new' AND (said.keep_answer OR said.event_count > 0);

    IF cardinality(in_claim_requests) > 0 THEN
        DELETE FROM es.claim
        USING unnest(in_claim_requests, in_claim_takes, in_claim_scopes, in_claim_values) AS given (request, take, scope, value)
        WHERE NOT given.take AND verdicts[given.request] = 'new'
            AND claim.scope = given.scope AND claim.value = given.value
            AND claim.category = in_categories[given.request] AND claim.stream_id = in_stream_ids[given.request];
        INSERT INTO es.claim (scope, value, category, stream_id)
        SELECT DISTINCT wanted.scope, wanted.value, in_categories[wanted.request], in_stream_ids[wanted.request]
        FROM unnest(in_claim_requests, in_claim_takes, in_claim_scopes, in_claim_values) AS wanted (request, take, scope, value)
        WHERE wanted.take AND verdicts[wanted.request] = 'new'
            AND NOT EXISTS (SELECT FROM es.claim WHERE claim.scope = wanted.scope AND claim.value = wanted.value);
    END IF;

    -- A repeat's answer waits for a synchronous standby as the first one should have: only what writes WAL does.
    IF 'repeat' = ANY (verdicts) THEN
        PERFORM pg_logical_emit_message(true, 'leifeng', '');
    END IF;
END $$;

-- The owner's functions are the app's to call, and nobody else's.
REVOKE ALL ON FUNCTION es.append FROM PUBLIC;
GRANT EXECUTE ON FUNCTION es.append TO :"app";
