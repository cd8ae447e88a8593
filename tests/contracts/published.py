"""The committed schemas and examples, and how a first draft of new ones is made."""

import json
import types
from base64 import urlsafe_b64encode
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime
from hashlib import sha256
from pathlib import Path
from typing import Any, Final, Literal, Union, get_args, get_origin
from uuid import UUID, uuid5

from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from pydantic import BaseModel

from shared.contracts.event import Event, Json, personal_fields
from shared.contracts.topics import EVENTS
from shared.http.documents import event_schema

HERE: Final = Path(__file__).parent
SCHEMAS: Final = HERE / "schemas"
EXAMPLES: Final = HERE / "examples"

PERSON_KEY: Final = sha256(b"the key of the invented person of the examples").digest()
"""Opens the sealed fields of every example: the examples hold the format of sealed texts fast, too."""


@dataclass(frozen=True, slots=True, order=True)
class Published:
    """One version of one event."""

    type: str
    version: int

    @property
    def file_name(self) -> str:
        """`hours.checked_in.v1.json`, below `schemas` and below `examples`."""
        return f"{self.type}.v{self.version}.json"

    @property
    def event_id(self) -> UUID:
        """The id of the example's event; its sealed texts are bound to it."""
        return uuid5(UUID(int=0), f"{self.type}.v{self.version}")

    def schema(self) -> Json:
        """The committed schema."""
        return _read(SCHEMAS / self.file_name)

    def example(self) -> bytes:
        """The committed payload, as bytes."""
        return (EXAMPLES / self.file_name).read_bytes()


def all_versions() -> list[Published]:
    """Every version that the contracts say was ever published."""
    return [Published(event.TYPE, version) for event in EVENTS for version in range(1, event.VERSION + 1)]


def newest(event: type[Event]) -> Published:
    """The version that is written today."""
    return Published(event.TYPE, event.VERSION)


def generated(event: type[Event]) -> Json:
    """The schema of an event as its model has it. Sentences are left out: saying a thing better is no new version."""
    schema = _without_sentences(event_schema(event))
    assert isinstance(schema, dict)
    return schema


def widens(old: Json, new: Json) -> bool:
    """Whether `new` is `old` with optional fields added and nothing else: what may happen within a version (D6)."""
    rest = {name: part for name, part in new.items() if name not in {"properties", "$defs"}}
    if rest != {name: part for name, part in old.items() if name not in {"properties", "$defs"}}:
        return False
    old_fields, new_fields = old.get("properties", {}), new.get("properties", {})
    old_parts, new_parts = old.get("$defs", {}), new.get("$defs", {})
    return all(new_fields.get(name) == field for name, field in old_fields.items()) and all(
        name in new_parts and widens(part, new_parts[name]) for name, part in old_parts.items()
    )


def text_of(document: Json) -> str:
    """A document as it is committed: readable, Chinese as it is, ends with a line end."""
    return json.dumps(document, ensure_ascii=False, indent=2) + "\n"


def drafted(event: type[Event]) -> Json:
    """An example of the newest version that its author may polish before it is committed; personal fields are sealed."""
    values = {name: _value(name, info.annotation) for name, info in event.model_fields.items()}
    for name in personal_fields(event):
        values[name] = _sealed(_PERSONAL.get(name, name), f"{newest(event).event_id}/{name}@{event.VERSION}")
    body = event.model_validate(values).model_dump(mode="json")
    assert isinstance(body, dict)
    return body


_PERSON: Final = UUID("0197f3a4-5c00-7000-8000-000000000001")
_PERSONAL: Final[Mapping[str, str]] = {
    "name": "林晓溪",
    "skills": "讲解\n急救",
    "reason": "已与本人商定",
    "guardian_name": "林远山",
    "id_number": "990000199003070013",
    "phone": "19900000000",
}
"""Invented: there is no region 990000."""

_WORDS: Final[Mapping[str, Any]] = {
    "unit_code": "water-saving-office",
    "code": "water-saving",
    "name": "讲解员",
    "name_zh": "节约用水",
    "name_en": "Saving water",
    "number": "V2017-000001",
    "aliase": "节水办",
    "parent_code": "bureau",
    "title": "世界水日节水宣传",
    "purpose": "带动更多居民参与志愿服务",
    "issuing_body": "水务局志愿服务队",
    "document_reference": "志愿〔2017〕1号",
    "duties": "讲解节水知识",
    "risk_note": "活动在室外, 注意防晒",
    "insurance": "PICC-2017-0001",
    "result": "发放节水手册两百份",
    "occasion": "world-water-day",
    "target_group": "communities",
    "text_version": "2017-1",
    "reason_code": "wrong_time",
    "reason": "暴雨预警",
    "pair": 1,
    "capacity": 20,
    "wait_list_max": 5,
    "planned_activities_per_month": 2,
    "daily_cap_minutes": 480,
    "pairs_per_activity_day_max": 6,
    "over_cap_minutes": 0,
    "old_over_cap_minutes": 0,
    "confirmed_minutes": 6030,
    "threshold_minutes": 6000,
    "hours_position": 812,
    "theme": "节水优先",
    "place": "城北社区广场",
    "carrier": "water-saving",
    "position": "guide",
    "role": "unit_admin",
    "policy_version": "2017-1",
    "version": "2017-1",
    "effective_from": date(2017, 1, 1),
    "year": 2017,
    "month": 3,
    "day": 22,
    "stars": 1,
    "service": "hours",
    "postings": ({"account": "served", "minutes": -90}, {"account": "timed", "minutes": 90}),
    "thresholds_minutes": (6000, 18000, 36000, 60000, 90000),
}


def _value(name: str, annotation: Any) -> Any:
    """Something plausible for a field: by its name where that is known, else by its type."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin in (Union, types.UnionType):
        return _value(name, next(each for each in arguments if each is not type(None)))
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return {each: _value(each, info.annotation) for each, info in annotation.model_fields.items()}
    if origin is Literal:
        return arguments[0]
    if name in _WORDS:
        return _WORDS[name]
    if origin is tuple:
        return (_value(name.removesuffix("s"), arguments[0]),)
    if annotation is UUID:
        return _PERSON if name in {"volunteer_id", "person_id"} else uuid5(UUID(int=0), name)
    if annotation is datetime:
        return datetime(2017, 3, 22, 3 if "end" in name or "expire" in name else 1, 30, tzinfo=UTC)
    plain: Mapping[Any, Any] = {bool: False, int: 90, str: name, date: date(2017, 3, 22)}
    return plain[annotation]


def _sealed(clear: str, place: str) -> str:
    """The format of sealed texts, written down a second time on purpose (shared/privacy)."""
    nonce = sha256(place.encode()).digest()[:12]
    return "sealed:a1:" + urlsafe_b64encode(nonce + AESGCM(PERSON_KEY).encrypt(nonce, clear.encode(), place.encode())).decode().rstrip("=")


def _without_sentences(part: Any) -> Any:
    if isinstance(part, dict):
        return {name: _without_sentences(each) for name, each in part.items() if not (name == "description" and isinstance(each, str))}
    if isinstance(part, list):
        return [_without_sentences(each) for each in part]
    return part


def _read(path: Path) -> Json:
    document = json.loads(path.read_text(encoding="utf-8"))
    assert isinstance(document, dict)
    return document


def committed() -> Iterator[Published]:
    """What stands in the two folders, by file name."""
    for path in sorted({*SCHEMAS.glob("*"), *EXAMPLES.glob("*")}):
        event_type, _, version = path.stem.rpartition(".v")
        yield Published(event_type, int(version))
