"""At authorization servers that others wrote, what is stored is what the server honours, come what may."""

import base64
import os
import time
from collections import Counter
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from tests.foreign.deployment import Deployment, deployed
from tests.foreign.server import KINDS, ForeignServer, running
from tests.support.waiting import eventually

pytestmark = pytest.mark.foreign

GRANTS = 20
SECONDS = float(os.environ.get("FOREIGN_SECONDS", "300"))
RESOURCE = "https://api.example/orders"
KEY_ID = "the-key"
INCIDENTS = ("client.rejected", "client.recovered", "provider.unavailable", "provider.recovered")


@pytest.mark.parametrize("name", KINDS)
def test_every_grant_but_the_revoked_outlives_a_wrong_secret_and_a_restart_of_the_server(
    name: str, tmp_path: Path
) -> None:
    with running(name, tmp_path / "server") as server:
        settings = {
            "CLIENTS__APP__PROVIDER": "oauth2",
            "CLIENTS__APP__CLIENT_ID": "app",
            "CLIENTS__APP__TOKEN_URL": server.token_url,
            "CLIENTS__APP__AUTHENTICATION": server.kind.authentication,
        }
        with deployed(tmp_path, **settings) as evergrant:
            server.register("app", client_secret="the-first-secret")
            evergrant.put_secret("app", "the-first-secret")
            issued = server.consent("app", GRANTS)
            evergrant.take_in("app", issued)
            with evergrant.running():
                evergrant.all_rotated(times=3)

                revoked = set(list(issued)[:3])
                for grant_id in revoked:
                    server.revoke(grant_id, "app", "the-first-secret")
                evergrant.hears("grant.failed", times=len(revoked))

                server.register("app", client_secret="the-next-secret")
                evergrant.hears("client.rejected")
                evergrant.put_secret("app", "the-next-secret")
                evergrant.hears("client.recovered")
                evergrant.all_rotated()

                server.stop()
                evergrant.hears("provider.unavailable")
                server.start()
                evergrant.hears("provider.recovered")
                evergrant.all_rotated(times=2)

            said = _holds_what_the_server_honours(evergrant, server)  # at once: tokens of a minute end
            assert set(said) == set(issued) - revoked
            failed = evergrant.told("grant.failed")
            assert {each["subject"]: each["data"]["reason"] for each in failed} == dict.fromkeys(
                revoked, "revoked"
            )
            assert Counter(each["type"] for each in evergrant.told(*INCIDENTS)) == {
                f"evergrant.{kind}": 1 for kind in INCIDENTS
            }
            print(f"\n{name}: {evergrant.rotations()} rotations of {GRANTS} grants")  # noqa: T201


def test_public_clients_private_keys_and_resources_are_kept_alive_at_oidc_provider(tmp_path: Path) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    key_file = tmp_path / "private-key.pem"
    key_file.write_bytes(_pem(key))
    with running("oidc-provider", tmp_path / "server") as server:
        server.register("public", token_endpoint_auth_method="none")
        server.register("signer", token_endpoint_auth_method="private_key_jwt", jwks=_public_keys(key))
        server.register("reader", client_secret="a-secret")
        settings = {
            "CLIENTS__PUBLIC__TOKEN_URL": server.token_url,
            "CLIENTS__PUBLIC__AUTHENTICATION": "none",
            "CLIENTS__SIGNER__ISSUER": server.issuer,
            "CLIENTS__SIGNER__AUTHENTICATION": "private_key_jwt",
            "CLIENTS__SIGNER__PRIVATE_KEY_FILE": str(key_file),
            "CLIENTS__SIGNER__KEY_ID": KEY_ID,
            "CLIENTS__READER__TOKEN_URL": server.token_url,
            "CLIENTS__READER__CLIENT_SECRET": "a-secret",
            "CLIENTS__READER__PARAMETERS__RESOURCE": RESOURCE,
        }
        for client in ("public", "signer", "reader"):
            settings[f"CLIENTS__{client.upper()}__PROVIDER"] = "oauth2"
            settings[f"CLIENTS__{client.upper()}__CLIENT_ID"] = client
        with deployed(tmp_path, **settings) as evergrant:
            evergrant.take_in("public", server.consent("public", GRANTS))
            evergrant.take_in("signer", server.consent("signer", GRANTS))
            evergrant.take_in("reader", server.consent("reader", GRANTS, resource=RESOURCE))
            with evergrant.running():
                until = time.monotonic() + SECONDS
                evergrant.all_rotated(times=2)
                eventually(lambda: time.monotonic() > until, seconds=SECONDS + 1)

            said = _holds_what_the_server_honours(evergrant, server)
            assert evergrant.told("grant.failed", "grant.failing", *INCIDENTS) == []
            assert len(said) == 3 * GRANTS
            audiences = {each: answer.get("aud") for each, answer in said.items()}
            assert audiences == {each: RESOURCE if each.startswith("reader") else None for each in said}
            print(f"\nother kinds: {evergrant.rotations()} rotations of {3 * GRANTS} grants")  # noqa: T201


def _holds_what_the_server_honours(
    evergrant: Deployment, server: ForeignServer
) -> dict[str, dict[str, object]]:
    """Both tokens of each grant are the server's own; gives what an API is told of the access token."""
    kept = evergrant.kept_pairs()
    assert kept == server.pairs()
    said = {each: server.introspect(pair["access_token"]) for each, pair in kept.items()}
    assert [each for each, answer in said.items() if not answer["active"]] == []
    return said


def _pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def _public_keys(key: ec.EllipticCurvePrivateKey) -> dict[str, object]:
    """A JWK Set (RFC 7517)."""
    point = key.public_key().public_numbers()
    x, y = (
        base64.urlsafe_b64encode(number.to_bytes(32)).rstrip(b"=").decode() for number in (point.x, point.y)
    )
    return {"keys": [{"kty": "EC", "crv": "P-256", "kid": KEY_ID, "alg": "ES256", "x": x, "y": y}]}
