"""No secret, token or key is ever printed but where it was asked for."""

from base64 import b64encode
from concurrent.futures import ThreadPoolExecutor

from tests.support.callables import Issue
from tests.support.command import Cli
from worker.sandbox.client import Sandbox

SECRET = "canary-secret"
KEY = b64encode(b"canary of thirty-two bytes, whole").decode()[:43] + "="
HARMLESS = ["status", "doctor", "events", "grants list", "grants list --json", "grants export"]
FAILING = [
    *("grants refresh {}", "token {} --min-ttl 90000", "token missing", "grants show missing"),
    *("grants import bad.jsonl", "grants import good.jsonl", "grants export --with-tokens --client nobody"),
    *("grants list --status canary", "events --since x"),
]


def test_nothing_secret_is_printed_by_any_command_that_was_not_asked_for_it(
    cli: Cli, enroll: Issue, sandbox: Sandbox
) -> None:
    grant = enroll()
    careful = cli.having(KEYS=f"a:{KEY}", CLIENTS__BUDDY__CLIENT_SECRET=SECRET)
    sandbox.set_secret(SECRET)
    careful.take_in(grant)
    text = str(grant).replace("'", '"')
    (careful.home / "good.jsonl").write_text(text)
    cut_off, wrong = text[:-3], text.replace('"buddy"', '"hubble"').replace(grant["id"], "other")
    (careful.home / "bad.jsonl").write_text(
        f'{cut_off}\n{wrong}\n{text.replace("{", "[{", 1)}\n{{"id":{text}}}\n'
    )
    sandbox.revoke(grant["id"])
    unready = {
        "wrong secret": careful.having(CLIENTS__BUDDY__CLIENT_SECRET="canary-wrong"),
        "another key": careful.having(KEYS="a:" + "canary0123456789" * 2 + "canary01234="),
        "no server": careful.having(REDIS_URL="redis://canary:canary-password@127.0.0.1:1"),
        "no provider": careful.having(CLIENTS__BUDDY__TOKEN_URL="http://127.0.0.1:1/token"),
        "bad setting": careful.having(SWEEP_SECONDS="canary-sweep"),
    }
    calls = [(careful, command) for command in HARMLESS + FAILING]
    calls += [(each, f"grants refresh {grant['id']}") for each in unready.values()]

    def run(call: tuple[Cli, str]) -> tuple[str, str]:
        deployment, command = call
        done = deployment(*command.format(grant["id"]).split())
        return command, done.out + done.err

    with ThreadPoolExecutor(2) as two:
        said = list(two.map(run, calls))

    secrets = [KEY, grant["access_token"], grant["refresh_token"], sandbox.grant(grant["id"])["access_token"]]
    words = ("canary-secret", "canary-wrong", "canary-password", "canary-sweep", "canary0123456789")
    leaks = [(command, each) for command, text in said for each in (*secrets, *words) if each in text]
    assert leaks == []
