"""A device with a key of its own checks people in, and nothing else, until the key is revoked."""

import secrets
from hashlib import sha256
from uuid import uuid4

import httpx

from deploy.local.environment import base_url
from tests.e2e.stack import command
from tests.e2e.stage import OTHER_UNIT, UNIT, Stage, accepted, on, rows, stream_id
from tests.loopback import NO_TLS


async def test_a_device_checks_people_in_until_its_key_is_revoked(stage: Stage) -> None:
    key = f"lfd_{secrets.token_urlsafe(32)}"
    said = {"unit_code": UNIT, "name": "大厅签到机", "key_digest": sha256(key.encode()).hexdigest(), "networks": ["127.0.0.0/8"]}
    leader = stage.leader("registration")
    issued = accepted(await command(leader, "/devices", said))
    day = await stage.day()
    volunteer, activity = await stage.volunteer("用机人"), await stage.activity(on(day, "09:00"), on(day, "11:00"))
    seat = await stage.enroll(volunteer, activity)
    await stage.stack.travel(on(day, "09:00"))
    await stage.stack.settled()
    async with httpx.AsyncClient(
        base_url=base_url(stage.stack.ports, "hours"), headers={"Authorization": f"Bearer {key}"}, timeout=10, verify=NO_TLS
    ) as device:
        path = f"/activities/{activity.id}/attendance/{volunteer.id}"
        accepted(await command(device, f"{path}/check-in", {}, After=seat["position"]))
        for other in ("/api/v1/confirm-queue", "/api/v1/attendances", "/api/v1/events"):
            assert (await device.get(other)).json()["code"] == "role_not_allowed", other
        revoke = f"/devices/{stream_id(issued)}/revoke"
        assert (await command(stage.leader("registration", OTHER_UNIT), revoke, {"reason": "lost"})).json()["code"] == "wrong_unit"
        accepted(await command(leader, revoke, {"reason": "lost"}))
        await stage.stack.settled()
        assert (await command(device, f"{path}/check-out", {})).json()["code"] == "device_key_revoked"
    await stage.stack.travel(on(day, "11:00"))
    accepted(await stage.door("check-out", volunteer, activity))
    [shown] = [each for each in await rows(leader, "/devices") if each["device_id"] == str(stream_id(issued))]
    assert (shown["name"], shown["reason"], shown["revoked_at"] is not None) == ("大厅签到机", "lost", True)
    log = (await stage.bureau("hours").get("/api/v1/events", params={"limit": "200"})).json()["items"]
    assert f"kiosk:{stream_id(issued)}" in {each["actor"] for each in log}


async def test_a_key_that_has_left_its_network_opens_nothing_whatever_the_request_says_of_itself(stage: Stage) -> None:
    key = f"lfd_{secrets.token_urlsafe(32)}"
    said = {"unit_code": UNIT, "name": "另一处", "key_digest": sha256(key.encode()).hexdigest(), "networks": ["192.0.2.0/24"]}
    issued = accepted(await command(stage.leader("registration"), "/devices", said))
    await stage.stack.settled()
    headers = {"Authorization": f"Bearer {key}", "X-Forwarded-For": "192.0.2.7"}
    async with httpx.AsyncClient(base_url=base_url(stage.stack.ports, "hours"), headers=headers, timeout=10, verify=NO_TLS) as device:
        answer = await command(device, f"/activities/{uuid4()}/attendance/{uuid4()}/check-in", {})
    assert (answer.status_code, answer.json()["code"]) == (403, "device_elsewhere")
    [shown] = [each for each in await rows(stage.leader("registration"), "/devices") if each["device_id"] == str(stream_id(issued))]
    assert shown["networks"] == "192.0.2.0/24"


async def test_a_key_is_given_once_and_for_a_unit_of_ones_own(stage: Stage) -> None:
    said = {"unit_code": UNIT, "name": "门口", "key_digest": sha256(uuid4().bytes).hexdigest(), "networks": ["2001:db8:1::/48"]}
    leader = stage.leader("registration")
    accepted(await command(leader, "/devices", said))
    for more, code in (
        ({}, "device_key_used"),
        ({"unit_code": OTHER_UNIT}, "wrong_unit"),
        ({"key_digest": "short"}, "field_wrong_value"),
        ({"networks": []}, "field_wrong_value"),
        ({"networks": ["0.0.0.0/0"]}, "field_wrong_value"),
        ({"networks": ["10.20.0.1/16"]}, "field_wrong_value"),
        ({"networks": ["the hall"]}, "field_wrong_value"),
    ):
        assert (await command(leader, "/devices", {**said, **more})).json()["code"] == code
    assert (await command(stage.kiosk(), "/devices", said)).status_code == 404, "hours knows no such command"
    unknown = await command(leader, f"/devices/{uuid4()}/revoke", {"reason": "retired"})
    assert unknown.json()["code"] == "device_unknown"
