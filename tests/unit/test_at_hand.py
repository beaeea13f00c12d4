"""A token at hand is promised for as long as the whole runtime would promise it."""

import os
from dataclasses import replace
from pathlib import Path
from unittest.mock import patch

import pytest

from config import load_settings
from config.plain import read_plainly
from worker.core.grant import Grant
from worker.core.promises import plan_for
from worker.runtime.at_hand import promising_client
from worker.runtime.clients import client_of
from worker.runtime.derived import lease_ms, rules_of

GOOD = {
    "HOME": "/nowhere",
    "EVERGRANT_SECRETS_DIR": "none",
    "EVERGRANT_REDIS_URL": "redis://localhost",
    "EVERGRANT_KEYS": "k1:AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=",
    "EVERGRANT_CLIENTS__BUDDY__PROVIDER": "buddy",
    "EVERGRANT_CLIENTS__BUDDY__CLIENT_ID": "id",
    "EVERGRANT_CLIENTS__BUDDY__CLIENT_SECRET": "secret",
}
CLIENT = "CLIENTS__BUDDY__"


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"REFRESH_AT": "0.3", "MIN_MARGIN_SECONDS": "30"},
        {f"{CLIENT}REFRESH_AT": "0.9"},
        {f"{CLIENT}REFRESH_AT": "0.9", f"{CLIENT}MIN_MARGIN_SECONDS": "9.5"},
        {f"{CLIENT}MIN_MARGIN_SECONDS": "900"},
        {f"{CLIENT}REFRESH_KILLS_ACCESS_TOKEN": "false"},
        {f"{CLIENT}GRANT_TYPE": "client_credentials"},
        {f"{CLIENT}PROVIDER": "pagerduty", f"{CLIENT}OAUTH_KIND": "classic"},
        {f"{CLIENT}ACCESS_LIFETIME_SECONDS": "60", f"{CLIENT}ABSOLUTE_LIFETIME_SECONDS": "90"},
        {"HTTP_TIMEOUT_SECONDS": "2.5"},
    ],
    ids=str,
)
def test_the_plan_is_the_same_with_plain_settings(
    grant: Grant, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, str]
) -> None:
    monkeypatch.chdir(tmp_path)
    named = {f"EVERGRANT_{name}": value for name, value in changes.items()}
    with patch.dict(os.environ, GOOD | named, clear=True):
        plain, whole = read_plainly(), load_settings()
    assert plain is not None
    at_hand, configured = promising_client("buddy", plain), client_of("buddy", whole.clients["buddy"])
    assert at_hand is not None

    for each in (grant, replace(grant, lineage=b""), replace(grant, access_expires_at=None)):
        assert plan_for(each, at_hand, rules_of(plain)) == plan_for(each, configured, rules_of(whole))
    assert lease_ms(plain) == lease_ms(whole)
