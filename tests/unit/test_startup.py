"""What a command loads before it does anything."""

import subprocess
import sys


def test_a_command_does_not_load_the_http_client_before_it_asks_an_endpoint() -> None:
    program = (
        "import sys\n"
        "import worker.runtime.assembly\n"
        "print([name for name in ('aiohttp', 'httpx', 'celery') if name in sys.modules])\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True, text=True)  # noqa: S603 this very Python
    assert done.stdout.strip() == "[]"
