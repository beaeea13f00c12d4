"""`docs/clients.md` knows every way of authentication, and names settings that there are."""

import re
from pathlib import Path

from config import ClientSettings
from config.registration import OWN_PARAMETERS
from worker.sandbox.proofs import METHODS

PAGE = (Path(__file__).parents[2] / "docs" / "clients.md").read_text()


def test_every_way_of_authentication_is_on_the_page() -> None:
    told = set(re.findall(r"^\|.*\| `([a-z_]+)`.*\| .* \|$", PAGE, re.MULTILINE))

    assert told == set(METHODS)


def test_every_setting_to_copy_is_a_setting() -> None:
    named = set(re.findall(r"^EVERGRANT_CLIENTS__[A-Z]+__(\w+)=", PAGE, re.MULTILINE))
    parameters = {name for name in named if name.startswith("PARAMETERS__")}

    assert {name.lower() for name in named - parameters} <= set(ClientSettings.model_fields)
    assert not {name.removeprefix("PARAMETERS__").lower() for name in parameters} & OWN_PARAMETERS
