"""codec: every event type's published example, read and written, beside pydantic alone, the standard library and orjson."""

import json
from collections.abc import Callable, Mapping
from time import perf_counter, process_time
from typing import Any

from pydantic import TypeAdapter

from shared.codec import Codec
from shared.contracts.event import Event
from shared.contracts.topics import EVENTS, UPCASTERS
from shared.envelope import Record, Stream
from tests.bench.beside import with_library
from tests.bench.measure import Effort, Outcome, Slice, Work, contest
from tests.bench.place import Place
from tests.bench.work import NOW, Ids
from tests.contracts.published import newest


def _record(model: type[Event], codec: Codec, ids: Ids) -> Record:
    """The example as a reader without keys stores it again: of every type, without its sealed texts."""
    example = newest(model).example()
    read = Record(
        service=model.TYPE.partition(".")[0],
        log_id=ids(),
        position=1,
        stream=Stream("bench", ids()),
        version=1,
        event_id=newest(model).event_id,
        type=model.TYPE,
        schema_version=model.VERSION,
        time=NOW,
        command_id=ids(),
        correlation_id=ids(),
        causation_id=None,
        actor="bench",
        partition_key="bench",
        traceparent=None,
        payload=example,
    )
    event = codec.decode(read)
    payload = codec.encode(event, read.event_id)
    again = Record(**{name: getattr(read, name) for name in Record.__dataclass_fields__} | {"payload": payload})
    assert codec.decode(again) == event
    assert codec.encode(event, read.event_id) == payload
    return again


async def codec(_place: Place, effort: Effort) -> Outcome:
    """All types in turn; decoding and encoding are two figures. One thread that never waits: so its own CPU time is its clock."""
    known, ids = Codec(EVENTS, UPCASTERS), Ids("codec")
    records = [_record(model, known, ids) for model in EVENTS]
    events = [known.decode(each) for each in records]
    adapters: list[tuple[TypeAdapter[Any], bytes]] = [
        (TypeAdapter(model), each.payload) for model, each in zip(EVENTS, records, strict=True)
    ]
    bodies: list[Mapping[str, Any]] = [json.loads(each.payload) for each in records]

    def repeated(once: Callable[[], object]) -> Work:
        async def run() -> Slice:
            count, began, used = 0, perf_counter(), process_time()
            while perf_counter() - began < effort.slice_seconds / 4:
                once()
                count += len(records)
            return Slice(count, process_time() - used)

        return run

    def parse() -> object:
        import orjson

        return [orjson.loads(each.payload) for each in records]

    def write() -> object:
        import orjson

        return [orjson.dumps(each) for each in bodies]

    parsing, no_parsing = with_library("orjson", {"orjson.loads, nothing validated": repeated(parse)})
    writing, no_writing = with_library("orjson", {"orjson.dumps of a ready dict": repeated(write)})
    decode = await contest(
        "decode",
        "events/CPU s",
        repeated(lambda: [known.decode(each) for each in records]),
        {
            "bound: pydantic validate_json": repeated(lambda: [adapter.validate_json(payload) for adapter, payload in adapters]),
            "json.loads, nothing validated": repeated(lambda: [json.loads(each.payload) for each in records]),
            **parsing,
        },
        effort,
        no_parsing,
    )
    encode = await contest(
        "encode",
        "events/CPU s",
        repeated(lambda: [known.encode(event, each.event_id) for event, each in zip(events, records, strict=True)]),
        {
            "bound: pydantic dump_json": repeated(
                lambda: [adapter.dump_json(event) for (adapter, _), event in zip(adapters, events, strict=True)]
            ),
            "json.dumps of a ready dict": repeated(lambda: [json.dumps(each) for each in bodies]),
            **writing,
        },
        effort,
        no_writing,
    )
    return Outcome([decode, encode], [f"{len(records)} event types survive the way there and back"])
