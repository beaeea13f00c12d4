"""Tokens in any shape that servers have given them: what is stored is what the server holds."""

from tests.support.callables import Configure, Enroll, OpenMember
from worker.adapters.sealing import KeyRing
from worker.adapters.store.registry import RedisRegistry
from worker.core.grant import Status
from worker.core.ports import Lease
from worker.sandbox.client import Sandbox
from worker.sandbox.shapes import SHAPES

ROTATIONS = 2  # what was stored of the first must be what the second presents


async def test_what_is_stored_is_what_the_server_holds(
    sandbox: Sandbox,
    configure: Configure,
    enroll: Enroll,
    open_member: OpenMember,
    registry: RedisRegistry,
    keys: KeyRing,
) -> None:
    clients = configure(sandbox.token_url)
    grants = await enroll(sandbox, clients, len(SHAPES))
    process = await open_member(clients)
    await process.membership.beat()
    assert await process.membership.recover()

    for shape, grant in zip(SHAPES, grants, strict=True):
        with sandbox.fault("shape", shape=shape):
            for _ in range(ROTATIONS):
                lease = await process.store.lease(grant.id)
                assert isinstance(lease, Lease)
                await process.refresher.refresh_one(lease)

        stored = await registry.find(grant.id)
        assert stored is not None
        pair, held = keys.open(stored.grant), sandbox.grant(grant.id)
        assert (shape, pair.access_token, pair.refresh_token) == (
            shape,
            held["access_token"],
            held["refresh_token"],
        )
        assert (shape, stored.grant.status, stored.grant.version) == (shape, Status.ACTIVE, ROTATIONS)
        assert (shape, held["counts"]["superseded"]) == (shape, 0)
