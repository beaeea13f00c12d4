"""A directory of secret files as a source of settings: one file for each variable, named like it.

Docker and Kubernetes mount secrets like this. Files with other names are not read.
"""

from collections.abc import Mapping
from pathlib import Path

from pydantic_settings import BaseSettings, EnvSettingsSource


class SecretFilesError(Exception):
    """The directory or a file in it cannot be read; the message names the variable and shows no content."""


class SecretFilesSource(EnvSettingsSource):
    """Reads files as if each were an environment variable.

    Args:
        settings_cls: the settings.
        directory: where the files are; it may be missing.
        prefix: the beginning of our variables' names.
    """

    def __init__(self, settings_cls: type[BaseSettings], directory: Path, prefix: str) -> None:
        self._directory = directory
        self._variables_begin_with = prefix
        super().__init__(settings_cls)

    def _load_env_vars(self) -> Mapping[str, str | None]:
        try:
            if not self._directory.exists():
                return {}
            names = sorted(path.name for path in self._directory.iterdir())
        except OSError as problem:
            variable = self._variables_begin_with + "SECRETS_DIR"
            raise SecretFilesError(f"{variable} takes a directory: {problem.strerror}") from None
        ours = [name for name in names if name.upper().startswith(self._variables_begin_with)]
        return {name.lower(): self._read(name) for name in ours}

    def _read(self, name: str) -> str:
        try:
            return (self._directory / name).read_text(encoding="utf-8").strip()
        except OSError as problem:
            raise SecretFilesError(f"{name.upper()}: its secret file: {problem.strerror}") from None
        except UnicodeDecodeError:
            raise SecretFilesError(f"{name.upper()}: its secret file is not UTF-8 text") from None
