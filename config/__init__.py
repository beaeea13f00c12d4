"""The deployment's settings and logging. Imports nothing else of ours.

settings.py  environment, `.env` and secret files as one validated object
logging.py   structured logs
"""

from config.settings import ClientSettings, Settings, SettingsError, load_settings

__all__ = ["ClientSettings", "Settings", "SettingsError", "load_settings"]
