"""The least that a token API could do: a bare Starlette endpoint that reads one key from Redis.

python -m bench.contenders.one_key PORT REDIS_URL KEY
"""

import sys

import uvicorn
from redis.asyncio import Redis
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route


def main() -> None:
    """Serve until told to end."""
    port, url, key = sys.argv[1:]
    redis = Redis.from_url(url)

    async def read(_: Request) -> JSONResponse:
        return JSONResponse({"length": len(await redis.get(key) or b"")})

    app = Starlette(routes=[Route("/v1/token/{id:path}", read, methods=["POST"])])
    uvicorn.run(app, host="127.0.0.1", port=int(port), http="h11", access_log=False, log_level="warning")


if __name__ == "__main__":
    main()
