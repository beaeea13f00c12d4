"""The deployment's settings and logging. Imports nothing from the other packages.

settings.py      environment, `.env` and secret files as one validated object
plain.py         what handing out a token needs of them, read in a tenth of the time
forms.py         the forms that single settings have
clients_file.py  the file of clients: read whole, looked at cheaply
registration.py  which settings of a client go together
secret_files.py  a directory of secret files as a source of settings
logging.py       structured logs

The names of `settings.py` are loaded when they are first used: pydantic takes long to load.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from config.forms import SettingsError
    from config.settings import ClientSettings, Settings, load_settings, read_file_clients

__all__ = ["ClientSettings", "Settings", "SettingsError", "load_settings", "read_file_clients"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from config import settings  # noqa: PLC0415 see above

    return getattr(settings, name)
