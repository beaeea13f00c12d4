""".env.example lists every setting, and nothing else."""

import re
from pathlib import Path

from config import ClientSettings, Settings

VARIABLES = set(
    re.findall(r"^#EVERGRANT_(\w+)=", (Path(__file__).parents[2] / ".env.example").read_text(), re.MULTILINE)
)
OF_CLIENTS = {name.split("__")[2] for name in VARIABLES if name.startswith("CLIENTS__")}


def test_every_setting_is_listed_and_nothing_else() -> None:
    of_the_deployment = {name for name in VARIABLES if not name.startswith("CLIENTS__")}

    assert of_the_deployment == {name.upper() for name in Settings.model_fields} - {"CLIENTS"} | {
        "SECRETS_DIR"
    }


def test_every_setting_of_a_client_is_listed_and_nothing_else() -> None:
    assert {name.upper() for name in ClientSettings.model_fields} == OF_CLIENTS
