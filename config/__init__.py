"""The deployment's settings and logging. Imports nothing from the other packages.

settings.py      environment, `.env` and secret files as one validated object
clients_file.py  the file of clients: read whole, looked at cheaply
registration.py  which settings of a client go together
secret_files.py  a directory of secret files as a source of settings
logging.py       structured logs
"""

from config.settings import ClientSettings, Settings, SettingsError, load_settings, read_file_clients

__all__ = ["ClientSettings", "Settings", "SettingsError", "load_settings", "read_file_clients"]
