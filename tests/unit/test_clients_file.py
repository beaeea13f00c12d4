"""The clients file: what it may say, what is said of a wrong one, and that the last good state stays."""

import json
import os
from pathlib import Path
from typing import Protocol

import pytest

from config import SettingsError, load_settings
from config.clients_file import SETTLED_SECONDS, Version, Watch
from worker.fleet.configured import configured_client
from worker.runtime.clients import Changes, ConfiguredClients
from worker.runtime.deployment import deploy

ACME = """
[clients.acme]
provider = "oauth2"
client_id = "id of ours"
client_secret = "hunter2"
token_url = "https://id.example.com/token"
"""
OTHER = ACME.replace("acme", "other")


class Put(Protocol):
    """Puts a clients file in place."""

    def __call__(self, content: str, name: str = "clients.toml") -> Path: ...


@pytest.fixture(autouse=True)
def _alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("EVERGRANT_SECRETS_DIR", str(tmp_path / "none"))
    monkeypatch.setenv("EVERGRANT_DATA_DIR", str(tmp_path / "data"))


@pytest.fixture
def put(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Put:
    """Put a clients file in place as its page asks: written beside it, then renamed."""

    def write(content: str, name: str = "clients.toml") -> Path:
        path = tmp_path / name
        beside = tmp_path / "beside"
        beside.write_text(content)
        beside.chmod(0o600)
        beside.rename(path)
        monkeypatch.setenv("EVERGRANT_CLIENTS_FILE", str(path))
        return path

    return write


def take_up(clients: ConfiguredClients) -> Changes | None:
    """What a process does from time to time."""
    settings = clients.read_file()
    return None if settings is None else clients.take(settings)


def problem_of(path: Path) -> str:
    """What is said of the file, without its name."""
    with pytest.raises(SettingsError) as caught:
        load_settings()
    start = f"EVERGRANT_CLIENTS_FILE: {path}"
    assert str(caught.value).startswith(start)
    assert len(str(caught.value).splitlines()) == 1
    assert "hunter2" not in str(caught.value)
    return str(caught.value).removeprefix(start).lstrip(",: ")


# What it may say


def test_clients_come_from_the_file_and_from_variables(put: Put, monkeypatch: pytest.MonkeyPatch) -> None:
    put(ACME)
    monkeypatch.setenv("EVERGRANT_CLIENTS__BUDDY__PROVIDER", "buddy")
    monkeypatch.setenv("EVERGRANT_CLIENTS__BUDDY__CLIENT_ID", "id")
    monkeypatch.setenv("EVERGRANT_CLIENTS__BUDDY__CLIENT_SECRET", "secret")

    clients = ConfiguredClients(load_settings())

    assert set(clients.names()) == {"acme", "buddy"}
    assert clients.get("acme", 0).token_url == "https://id.example.com/token"


def test_the_file_may_be_json(put: Put) -> None:
    fields = {
        "provider": "oauth2",
        "client_id": "id",
        "client_secret": "s",
        "token_url": "https://id.example.com/token",
        "scopes": ["read", "write"],
        "parameters": {"resource": "https://a.example.com,https://b.example.com"},
    }
    put(json.dumps({"clients": {"Acme": fields}}), "clients.json")

    client = ConfiguredClients(load_settings()).get("acme", 0)

    assert client.scopes == ("read", "write")
    assert client.parameters == (
        ("resource", "https://a.example.com"),
        ("resource", "https://b.example.com"),
    )


def test_a_secret_may_stand_in_a_file_beside_the_clients_file(put: Put, tmp_path: Path) -> None:
    (tmp_path / "acme.secret").write_text("hunter2\n")
    put(ACME.replace('client_secret = "hunter2"', 'client_secret_file = "acme.secret"'))

    by_file = ConfiguredClients(load_settings()).get("acme", 0)

    put(ACME)
    assert by_file.credentials == ConfiguredClients(load_settings()).get("acme", 0).credentials


def test_a_path_may_begin_at_a_home_directory(
    put: Put, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "acme.secret").write_text("hunter2\n")
    put(ACME.replace('client_secret = "hunter2"', 'client_secret_file = "~/acme.secret"'))
    by_file = ConfiguredClients(load_settings()).get("acme", 0)

    put(ACME)

    assert by_file == ConfiguredClients(load_settings()).get("acme", 0)


@pytest.mark.parametrize(("name", "content"), [("a.toml", ACME), ("a.json", '{"clients": {}}')])
def test_a_byte_order_mark_is_no_part_of_the_file(put: Put, name: str, content: str) -> None:
    put("\ufeff" + content, name)

    assert set(load_settings().clients) == ({"acme"} if name == "a.toml" else set())


def test_an_empty_table_of_clients_is_none(put: Put) -> None:
    put("clients = {}")

    assert load_settings().clients == {}


def test_a_file_with_secrets_that_everybody_may_read_is_warned_of(put: Put, tmp_path: Path) -> None:
    path = put(ACME)

    assert not _warning()
    path.chmod(0o644)
    assert "every user of this machine can read it" in _warning()

    (tmp_path / "acme.secret").write_text("hunter2\n")
    put(ACME.replace('client_secret = "hunter2"', 'client_secret_file = "acme.secret"')).chmod(0o644)
    assert not _warning(), "it holds no secret"


def _warning() -> str:
    return deploy(load_settings(), lambda _: None).clients_file_warning


# What a wrong one is told


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (ACME + "oops", "line 7: is no TOML: Expected '=' after a key in a key/value pair"),
        (ACME.replace('"hunter2"', "hunter2"), "line 5: is no TOML: Invalid value"),
        (ACME + ACME, "line 8: is no TOML: Cannot declare ('clients', 'acme') twice"),
        (
            ACME.replace("https:", "http:"),
            "line 6: clients.acme.token_url takes an https:// URL; plain http:// is accepted",
        ),
        (
            ACME + "rate_per_second = 0\n",
            "line 7: clients.acme.rate_per_second: input should be greater than 0",
        ),
        (
            ACME.replace("token_url", "token_uri"),
            "line 6: clients.acme.token_uri is no setting of a client; there are ",
        ),
        (
            ACME.replace('client_id = "id of ours"\n', ""),
            "line 2: clients.acme.client_id is missing; it takes the client's id at the provider",
        ),
        (ACME.replace("id of ours", ""), "line 4: clients.acme.client_id is empty"),
        (
            ACME + 'authentication = "none"\n',
            "line 5: clients.acme.client_secret is not used with AUTHENTICATION=none: leave it out",
        ),
        (
            ACME + 'parameters = { grant_type = "x" }\n',
            "line 7: clients.acme.parameters.grant_type is sent by Evergrant itself: leave it out",
        ),
        (
            ACME + 'client_secret_file = "s"\n',
            "line 7: clients.acme.client_secret_file takes a file that can be read",
        ),
        (
            ACME + ACME.replace("acme", "Acme"),
            "line 8: client acme is named twice; capitals make no difference",
        ),
        (
            ACME.replace("acme", '"a b"'),
            "line 2: clients.a b is no name of a client; it takes 1 to 64 letters, digits, dots",
        ),
        ("[clients]\nacme = 3\n", "line 2: clients.acme takes a table of fields"),
        ("", "takes a table for each client, [clients.NAME]; `clients = {}` for none"),
        ("clients = 3", "takes a table for each client, [clients.NAME]; `clients = {}` for none"),
        ("namespace = 'x'\n[clients]\n", "line 1: 'namespace' is not known here; it takes a table"),
        (ACME + "rate_per_second = " + 9999 * "9", "holds a number too long or tables too deep to be read"),
    ],
)
def test_a_wrong_file_is_one_line_with_the_line_and_the_field(put: Put, content: str, problem: str) -> None:
    assert problem_of(put(content)).startswith(problem)


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ('{"clients": {\n"acme": {"provider": }}}', "line 2: is no JSON: Expecting value"),
        ('{"clients": {\n"acme": {\n"provider": "acme"}}}', "line 3: clients.acme.provider: input should be"),
        ('{"clients": {"a": {},\n "a": {}}}', "'a' is named twice in one object"),
        ("[" * 100_000, "holds a number too long or tables too deep to be read"),
        ("[]", "takes a table for each client"),
    ],
)
def test_a_wrong_json_file_is_told_alike(put: Put, content: str, problem: str) -> None:
    assert problem_of(put(content, "clients.json")).startswith(problem)


def test_a_file_that_is_no_text_is_told_the_line(put: Put) -> None:
    path = put("")
    path.write_bytes(b"[clients.acme]\nprovider = '\xff'")

    assert problem_of(path) == "line 2: is not UTF-8 text"


def test_a_file_that_is_not_there_is_told(put: Put) -> None:
    path = put(ACME)
    path.unlink()

    assert problem_of(path) == "cannot be read: No such file or directory"


@pytest.mark.parametrize(("writes", "problem"), [(1, None), (100, "changes while it is read")])
def test_a_file_that_changes_while_it_is_read_is_read_again_and_at_last_refused(
    put: Put, monkeypatch: pytest.MonkeyPatch, writes: int, problem: str | None
) -> None:
    path, left, look = put(ACME), [OTHER] * writes, os.fstat

    def look_before_the_writer_comes(descriptor: int) -> os.stat_result:
        seen = look(descriptor)
        if left:
            left.pop()
            path.write_text(path.read_text() + (OTHER if "other" not in path.read_text() else "\n"))
        return seen

    monkeypatch.setattr(os, "fstat", look_before_the_writer_comes)

    if problem is None:
        assert set(load_settings().clients) == {"acme", "other"}
    else:
        assert problem_of(path).startswith(problem)


def test_a_pipe_is_refused_and_not_waited_for(put: Put) -> None:
    path = put(ACME)
    path.unlink()
    os.mkfifo(path)

    assert problem_of(path) == "is no regular file"


def test_a_client_that_variables_set_too_is_refused(put: Put, monkeypatch: pytest.MonkeyPatch) -> None:
    path = put(ACME)
    for name, value in {"PROVIDER": "buddy", "CLIENT_ID": "id", "CLIENT_SECRET": "s"}.items():
        monkeypatch.setenv(f"EVERGRANT_CLIENTS__ACME__{name}", value)

    with pytest.raises(SettingsError) as caught:
        load_settings()

    assert str(caught.value) == f"EVERGRANT_CLIENTS__ACME and {path} both set client acme: one of them may"


# Taken up without a restart


def test_clients_are_added_changed_and_removed(put: Put) -> None:
    put(ACME + OTHER)
    clients = ConfiguredClients(load_settings())
    before = clients.get("acme", 0)

    put(ACME.replace("/token", "/new") + ACME.replace("acme", "third"))

    assert take_up(clients) == Changes(added=1, changed=1, removed=1)
    assert set(clients.names()) == {"acme", "third"}
    assert clients.get("acme", 0).registration != before.registration, "it proves itself anew"
    assert take_up(clients) is None


def test_what_is_under_way_for_a_removed_client_ends_with_its_settings(put: Put) -> None:
    put(ACME + OTHER)
    clients = ConfiguredClients(load_settings())
    other = clients.get("other", 0)
    put(ACME)
    take_up(clients)

    assert clients.get("other", 3) == clients.reread("other") == other
    assert "other" not in clients.names()
    assert [client.name for client in clients] == ["acme"]


def test_a_removed_client_that_comes_back_is_as_the_file_says(put: Put) -> None:
    put(ACME + OTHER)
    clients = ConfiguredClients(load_settings())
    put(ACME)
    take_up(clients)

    put(ACME + OTHER.replace("/token", "/new"))
    take_up(clients)

    assert clients.get("other", 0).token_url == "https://id.example.com/new"


def test_a_name_that_is_asked_for_first_is_looked_for_in_the_file(put: Put) -> None:
    put(ACME)
    clients = ConfiguredClients(load_settings())
    put(ACME + OTHER)

    assert clients.get("other", 0).client_id == "id of ours"
    with pytest.raises(KeyError):
        clients.get("nobody", 0)


def test_who_asks_about_a_grant_finds_a_new_client_and_no_removed_one(put: Put) -> None:
    put(ACME + OTHER)
    clients = ConfiguredClients(load_settings())
    put(ACME + ACME.replace("acme", "third"))
    added = configured_client(clients, "third")
    take_up(clients)

    assert added is not None
    assert added.name == "third"
    assert configured_client(clients, "other") is None
    assert configured_client(clients, "nobody") is None


def test_a_refused_client_is_read_again_from_the_file(put: Put) -> None:
    put(ACME)
    clients = ConfiguredClients(load_settings())
    before = clients.get("acme", 0)
    put(ACME.replace("hunter2", "new"))

    after = clients.get("acme", 1)

    assert after.credentials != before.credentials
    assert after.registration == before.registration, "a new secret is no new registration"


def test_a_refused_client_s_secret_file_is_read_again(put: Put, tmp_path: Path) -> None:
    secret = tmp_path / "acme.secret"
    secret.write_text("old")
    put(ACME.replace('client_secret = "hunter2"', 'client_secret_file = "acme.secret"'))
    clients = ConfiguredClients(load_settings())
    before = clients.get("acme", 0)
    secret.write_text("new")

    assert clients.get("acme", 0) == before
    assert clients.reread("acme").credentials != before.credentials


@pytest.mark.parametrize(
    "broken",
    [
        ACME + OTHER.replace("https:", "http:"),
        ACME.replace("/token", "/new") + OTHER.replace("hunter2", "")[:-20],
        ACME.replace("/token", "/new") + OTHER.replace("client_secret =", "client_secret_file ="),
        ACME.replace("/token", "/new") + OTHER + 'authentication = "client_secret_jwt"\nkey_id = 3\n',
        "",
    ],
)
def test_of_a_broken_file_nothing_is_taken(put: Put, broken: str) -> None:
    put(ACME + OTHER)
    clients = ConfiguredClients(load_settings())
    before = list(clients)
    put(broken)

    with pytest.raises(SettingsError):
        take_up(clients)
    assert clients.get("acme", 7) == before[0]
    assert list(clients) == before

    put(ACME)
    assert take_up(clients) == Changes(added=0, changed=0, removed=1)


def test_of_clients_with_a_key_that_cannot_be_used_none_is_taken(put: Put, tmp_path: Path) -> None:
    (tmp_path / "key.pem").write_text("no key")
    put(ACME)
    clients = ConfiguredClients(load_settings())
    put(
        ACME.replace("/token", "/new")
        + OTHER.replace('client_secret = "hunter2"', 'private_key_file = "key.pem"')
        + 'authentication = "private_key_jwt"\n'
    )

    with pytest.raises(SettingsError, match=r"^clients.other.private_key_file in .*clients.toml "):
        take_up(clients)
    assert clients.get("acme", 0).token_url == "https://id.example.com/token"


def test_a_file_that_went_away_leaves_the_clients_as_they_were(put: Put) -> None:
    path = put(ACME)
    clients = ConfiguredClients(load_settings())
    path.unlink()

    with pytest.raises(SettingsError, match="cannot be read"):
        take_up(clients)
    assert set(clients.names()) == {"acme"}


def test_a_file_that_is_written_in_place_is_read_once_it_has_settled(tmp_path: Path) -> None:
    path = tmp_path / "clients.toml"
    path.write_text(ACME)
    clock = [100.0]
    watch = Watch(path, _version(path), now=lambda: clock[0])

    with path.open("a") as file:
        file.write(OTHER[:30])
        file.flush()
        assert not watch.has_changed(), "it may be half written"
        clock[0] += SETTLED_SECONDS / 2
        file.write(OTHER[30:])
    assert not watch.has_changed()
    clock[0] += SETTLED_SECONDS / 2
    assert not watch.has_changed()
    clock[0] += SETTLED_SECONDS / 2
    assert watch.has_changed()


def test_a_file_that_was_renamed_into_place_is_read_at_once(tmp_path: Path) -> None:
    path, beside = tmp_path / "clients.toml", tmp_path / "beside"
    path.write_text(ACME)
    watch = Watch(path, _version(path), now=lambda: 100.0)
    beside.write_text(ACME)
    beside.rename(path)

    assert watch.has_changed()
    with path.open("a") as file:
        file.write("oops")
    assert not watch.has_changed(), "this was written in place"


def test_a_volume_whose_link_is_switched_is_read_at_once(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "clients.toml").write_text(ACME)
    (tmp_path / "..data").symlink_to("one")
    path = tmp_path / "clients.toml"
    path.symlink_to("..data/clients.toml")
    watch = Watch(path, _version(path), now=lambda: 100.0)

    (tmp_path / "..new").symlink_to("two")
    (tmp_path / "..new").rename(tmp_path / "..data")

    assert watch.has_changed()


def _version(path: Path) -> Version:
    status = path.stat()
    return Version(status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)
