"""Keys through the API: never more rights than the one that asks, and never the keys of others."""

import pytest

from payre_mcp.clock import US_PER_S
from payre_mcp.ids import format_id
from payre_mcp.keys import Role, parse_key
from tests.fakes import fund
from tests.hub.conftest import Hub


async def test_a_developer_makes_lists_and_revokes_keys(hub: Hub) -> None:
    async with hub.client() as client:
        made = (await client.post("/v1/keys", json={"label": "second"})).json()
        listed = (await client.get("/v1/keys")).json()["keys"]
        async with hub.client(made["secret_key"]) as second:
            assert (await second.get("/v1/earnings")).status_code == 200
            revoked = await client.delete(f"/v1/keys/{made['key_id']}")
            assert (await second.get("/v1/earnings")).json()["error"] == "unauthorized"
    assert parse_key(made["secret_key"]).role == Role.DEVELOPER
    assert [(key["label"], key["state"]) for key in listed] == [("ann", "active"), ("second", "active")]
    assert made["secret_key"] not in str(listed)
    assert revoked.json()["state"] == "revoked"


async def test_a_rotated_key_works_until_its_overlap_is_over(hub: Hub) -> None:
    async with hub.client() as client:
        (old,) = (await client.get("/v1/keys")).json()["keys"]
        new = (await client.post(f"/v1/keys/{old['key_id']}/rotate", json={"overlap_s": 60})).json()
        async with hub.client(new["secret_key"]) as fresh:
            hub.clock.advance(59)
            assert (await client.get("/v1/earnings")).status_code == 200
            hub.clock.advance(1)
            assert (await client.get("/v1/earnings")).status_code == 401
            assert (await fresh.get("/v1/earnings")).status_code == 200
            states = [key["state"] for key in (await fresh.get("/v1/keys")).json()["keys"]]
            again = await fresh.post(f"/v1/keys/{old['key_id']}/rotate")
    assert states == ["expired", "active"]
    assert again.json()["error"] == "invalid_request"


async def test_a_key_that_ends_makes_none_that_lives_longer(hub: Hub) -> None:
    ends = hub.clock.now_us() + 3600 * US_PER_S
    directory = hub.connection.ledger.directory
    ending = directory.create_key(Role.DEVELOPER, hub.ann.id, expires_at=ends)
    async with hub.client(ending.text) as client:
        made = [
            (await client.post("/v1/keys", json=body)).json() for body in ({}, {"expires_at": ends + 1}, {"expires_at": ends - 1})
        ]
        keys = {key["expires_at"]: key["key_id"] for key in (await client.get("/v1/keys")).json()["keys"]}
        longer = await client.post(f"/v1/keys/{keys[0]}/rotate")
        own = await client.post(f"/v1/keys/{keys[ends]}/rotate")
        past = await client.post("/v1/keys", json={"expires_at": 1})
    assert [each["expires_at"] for each in made] == [ends, ends, ends - 1]
    assert (longer.status_code, longer.json()["error"]) == (403, "forbidden")
    assert own.json()["expires_at"] == ends
    assert past.status_code == 400


async def test_a_consumers_key_lists_and_revokes_its_accounts_keys_and_makes_none(hub: Hub) -> None:
    second = hub.connection.ledger.directory.create_key(Role.CONSUMER, hub.ada.id, label="laptop")
    async with hub.client(hub.ada.key.text) as client:
        made = await client.post("/v1/keys", json={})
        own = format_id("key", hub.ada.record.id)
        rotated = await client.post(f"/v1/keys/{own}/rotate")
        listed = (await client.get("/v1/keys")).json()["keys"]
        async with hub.client(second.text) as laptop:
            assert (await laptop.get("/v1/balance")).status_code == 200
            await client.delete(f"/v1/keys/{listed[1]['key_id']}")
            assert (await laptop.get("/v1/balance")).json()["error"] == "invalid_api_key"
        assert (await client.delete(f"/v1/keys/{own}")).json()["state"] == "revoked"
        assert (await client.get("/v1/balance")).status_code == 401
    assert [(each.status_code, each.json()["error"]) for each in (made, rotated)] == [(403, "forbidden")] * 2
    assert [key["label"] for key in listed] == ["", "laptop"]


async def test_a_key_that_is_bound_to_a_server_sees_and_ends_itself_alone(hub: Hub) -> None:
    """Threat T3: the operator of that server holds it too."""
    directory = hub.connection.ledger.directory
    server = directory.ensure_server(hub.ann.id, "weather")
    bound = directory.create_key(Role.CONSUMER, hub.ada.id, server_id=server.id, label="bound")
    async with hub.client(bound.text) as client:
        listed = (await client.get("/v1/keys")).json()["keys"]
        others = await client.delete(f"/v1/keys/{format_id('key', hub.ada.record.id)}")
        assert (await client.delete(f"/v1/keys/{listed[0]['key_id']}")).status_code == 200
    assert [key["label"] for key in listed] == ["bound"]
    assert others.status_code == 404


@pytest.mark.parametrize("act", ["delete", "rotate"])
async def test_the_keys_of_others_are_as_unknown_as_those_that_never_were(hub: Hub, act: str) -> None:
    eve = fund(hub.connection.ledger, 0, name="eve")
    async with hub.client() as client:
        async with hub.client(hub.bob.key) as bob:
            (theirs,) = (await bob.get("/v1/keys")).json()["keys"]
        answers = [
            await (client.post(f"/v1/keys/{key}/rotate") if act == "rotate" else client.delete(f"/v1/keys/{key}"))
            for key in (theirs["key_id"], format_id("key", eve.record.id), "key_0000000000000")
        ]
    assert [answer.status_code for answer in answers] == [404] * 3
    assert len({answer.text for answer in answers}) == 1
