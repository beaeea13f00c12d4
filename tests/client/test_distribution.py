"""`evergrant-client` is a distribution of its own: typed, and in need of httpx alone."""

import subprocess
import sys
import zipfile
from email.parser import Parser
from pathlib import Path

CLIENT = Path(__file__).parents[2] / "clients" / "python"


def test_its_wheel_is_typed_and_needs_httpx_alone(tmp_path: Path) -> None:
    subprocess.run(  # noqa: S603 our own interpreter
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)],
        check=True,
        capture_output=True,
        cwd=CLIENT,
    )
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        (about,) = [name for name in names if name.endswith("/METADATA")]
        metadata = Parser().parsestr(archive.read(about).decode())

    packed = {name for name in names if name.startswith("evergrant_client/")}
    assert packed == {
        f"evergrant_client/{path.name}" for path in (CLIENT / "evergrant_client").glob("*.py*")
    } | {"evergrant_client/py.typed"}
    assert metadata["Name"] == "evergrant-client"
    assert [need.partition("<")[0].partition(">")[0] for need in metadata.get_all("Requires-Dist", [])] == [
        "httpx"
    ]
