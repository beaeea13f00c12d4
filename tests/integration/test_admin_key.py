"""The admin API key of `evergrant up`: made once, for its user alone, and not again after it was revoked."""

import asyncio
import stat
import uuid
from base64 import b64encode
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from config import load_settings
from worker.core.api_keys import ApiKey, Scope
from worker.runtime.admin_key import have_admin_key
from worker.runtime.assembly import Runtime, open_runtime
from worker.runtime.deployment import ADMIN_KEY, Deployment, deploy

Said = list[str]


@pytest.fixture
def deployment(tmp_path: Path, valkey_socket: Path, monkeypatch: pytest.MonkeyPatch) -> Deployment:
    monkeypatch.setenv("EVERGRANT_REDIS_URL", f"unix://{valkey_socket}")
    monkeypatch.setenv("EVERGRANT_NAMESPACE", uuid.uuid4().hex)
    monkeypatch.setenv("EVERGRANT_KEYS", "k1:" + b64encode(bytes(32)).decode())
    monkeypatch.setenv("EVERGRANT_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setenv("EVERGRANT_SECRETS_DIR", str(tmp_path / "none"))
    return deploy(load_settings(), print)


@pytest.fixture
def have(deployment: Deployment) -> Callable[[], str]:
    """What is said of the key."""

    def ask() -> str:
        said: Said = []
        have_admin_key(deployment, said.append)
        (line,) = said
        return line

    return ask


def look(deployment: Deployment, text: str | None = None) -> tuple[list[ApiKey], ApiKey | None]:
    """The stored keys, and the one that a text opens."""

    async def ask() -> tuple[list[ApiKey], ApiKey | None]:
        async with open_runtime(deployment) as runtime:
            opened = None if text is None else await runtime.api_keys.holder(text)
            return list(await runtime.api_keys.all()), opened

    return asyncio.run(ask())


def revoke(deployment: Deployment, name: str) -> None:
    async def ask(runtime: Runtime) -> None:
        assert await runtime.api_keys.revoke(name)

    async def run() -> None:
        async with open_runtime(deployment) as runtime:
            await ask(runtime)

    asyncio.run(run())


def test_it_is_made_once_and_may_do_everything(deployment: Deployment, have: Callable[[], str]) -> None:
    path = deployment.settings.data_dir / ADMIN_KEY

    first = have()
    text = path.read_text()
    again = have()

    _, key = look(deployment, text.strip())
    assert key is not None
    assert all(key.may(scope) for scope in Scope)
    assert not key.labels
    assert first.startswith(f"made an admin API key, admin, in {path} (mode 600)")
    assert again == f"the admin API key is in {path}"
    assert path.read_text() == text
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert text.strip() not in first + again


def test_one_that_was_revoked_does_not_come_back_before_its_file_is_removed(
    deployment: Deployment, have: Callable[[], str]
) -> None:
    path = deployment.settings.data_dir / ADMIN_KEY
    have()
    text = path.read_text().strip()
    revoke(deployment, "admin")

    said = have()
    assert "was revoked" in said
    assert look(deployment, text) == ([], None)
    path.unlink()
    have()
    assert look(deployment, path.read_text().strip())[1] is not None


def test_where_another_machine_has_one_that_one_goes_on_working(
    deployment: Deployment, have: Callable[[], str], tmp_path: Path
) -> None:
    have()
    text = (deployment.settings.data_dir / ADMIN_KEY).read_text().strip()
    elsewhere = replace(
        deployment, settings=deployment.settings.model_copy(update={"data_dir": tmp_path / "elsewhere"})
    )

    have_admin_key(elsewhere, lambda _: None)

    keys, first = look(deployment, text)
    assert first is not None
    assert len(keys) == 2
    assert {key.name[:5] for key in keys} == {"admin"}


def test_a_store_that_is_away_leaves_no_file_of_a_key_that_opens_nothing(deployment: Deployment) -> None:
    said: Said = []

    have_admin_key(replace(deployment, redis_url="redis://127.0.0.1:1"), said.append)

    assert said[0].startswith("there is no admin API key: ")
    assert not (deployment.settings.data_dir / ADMIN_KEY).exists()
