"""Whatever is sent to the HTTP service, it answers as its OpenAPI document says and makes no mistake.

Schemathesis makes the calls from the document, right ones and wrong ones, many of them for grants that exist.
"""

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import httpx
import pytest

from tests.support.callables import Build
from tests.support.command import EVERGRANT
from tests.support.live import LiveDeployment
from tests.support.servers import CALLBACK

pytestmark = pytest.mark.fuzz

HERE = Path(__file__).parent
PROGRAM = os.environ.get("FUZZ_PROGRAM", "schemathesis")
SECONDS = int(os.environ.get("FUZZ_SECONDS", "300"))
SEED = os.environ.get("FUZZ_SEED", "")
GRANTS = 200


def test_every_answer_is_as_documented_and_none_is_a_fault_of_the_service(
    build: Build, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    live = build(access_seconds=3_600)
    monkeypatch.setenv("EVERGRANT_CLIENTS__BUDDY__REVOKE_URL", live.sandbox.revoke_url)
    monkeypatch.setenv("EVERGRANT_CLIENTS__BUDDY__AUTHORIZE_URL", live.sandbox.authorize_url)
    monkeypatch.setenv("EVERGRANT_CLIENTS__BUDDY__SCOPES", "WORKSPACE,EXECUTION_RUN")
    monkeypatch.setenv("EVERGRANT_PUBLIC_URL", CALLBACK.removesuffix("/integration-callback"))
    ids = tmp_path / "ids.json"
    ids.write_text(json.dumps([json.loads(line)["id"] for line in live.issue(GRANTS)]))
    service = live.start_web()
    live.wait_until(lambda: _is_ready(service), "the service")

    done = subprocess.run(  # noqa: S603 installed by `make fuzz`
        [
            *(PROGRAM, "--config-file", HERE / "schemathesis.toml", "run", f"{service}/openapi.json"),
            *("--max-time", str(SECONDS), "--no-color", *(("--seed", SEED) if SEED else ())),
        ],
        check=False,
        cwd=tmp_path,
        env={
            "PATH": os.environ["PATH"],
            "FUZZ_GRANTS": str(ids),
            "FUZZ_KEY": _key_of(live),  # not on a command line
            "PYTHONPATH": str(HERE),
            "SCHEMATHESIS_HOOKS": "hooks",
        },
        timeout=SECONDS + 300,
    )
    is_alive = _is_ready(service)
    live.stop()
    told = [json.loads(line) for line in live.log.read_text().splitlines() if '"event": "http.' in line]
    answers = Counter((each["call"], each["status"]) for each in told if each["event"] == "http.call")

    sys.stdout.write(
        "\n" + "".join(f"{call:14} {status} {n:6}\n" for (call, status), n in sorted(answers.items()))
    )
    assert is_alive
    assert [each for each in told if each["event"] == "http.failed"] == []
    assert done.returncode == 0


def _key_of(live: LiveDeployment) -> str:
    made = subprocess.run(  # noqa: S603 our own
        [EVERGRANT, "api-keys", "new", "fuzz", "--scopes", "admin"],
        check=True,
        capture_output=True,
        text=True,
        cwd=live.directory,
    )
    return made.stdout.strip()


def _is_ready(service: str) -> bool:
    try:
        return httpx.get(f"{service}/readyz", trust_env=False).is_success
    except httpx.TransportError:
        return False
