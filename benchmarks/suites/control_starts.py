"""Begins runs as MLflow's fluent API does, as fast as a server lets it; prints how many.

python -m benchmarks.suites.control_starts URL SECONDS CONNECTIONS
"""

from __future__ import annotations

import asyncio
import json
import statistics
import sys
import time
from urllib.parse import urlsplit

import aiohttp

API = "/api/2.0/mlflow"
PARAMS = [{"key": f"param_{number}", "value": "0.001"} for number in range(50)]
TAGS = [{"key": f"tag_{number}", "value": "v"} for number in range(5)]


async def _begin(session: aiohttp.ClientSession) -> bool:
    async with session.get(f"{API}/experiments/get-by-name?experiment_name=Default") as response:
        experiment = (await response.json())["experiment"]["experiment_id"]
    body = {"experiment_id": experiment, "user_id": "u", "start_time": 1700000000000, "tags": TAGS}
    async with session.post(f"{API}/runs/create", json=body) as response:
        run_id = (await response.json())["run"]["info"]["run_id"]
    good = True
    for path, fields in (
        ("runs/log-batch", {"params": PARAMS}),
        ("runs/log-batch", {"tags": TAGS}),
        ("runs/update", {"status": "RUNNING", "run_uuid": run_id}),
    ):
        async with session.post(f"{API}/{path}", json={"run_id": run_id, **fields}) as response:
            good &= response.status == 200
            await response.read()
        if path == "runs/log-batch" and "tags" in fields:
            async with session.get(f"{API}/runs/get?run_id={run_id}&run_uuid={run_id}") as response:
                good &= response.status == 200
                await response.read()
    return good


async def main(url: str, seconds: float, connections: int) -> None:
    """Print how many runs were begun, and how long each took."""
    took: list[float] = []
    errors = 0
    began = time.monotonic()
    base = f"http://{urlsplit(url).netloc}"
    async with aiohttp.ClientSession(base, connector=aiohttp.TCPConnector(limit=connections)) as session:

        async def work() -> None:
            nonlocal errors
            while time.monotonic() - began < seconds:
                start = time.monotonic()
                try:
                    errors += not await _begin(session)
                except (aiohttp.ClientError, KeyError):
                    errors += 1
                took.append(time.monotonic() - start)

        await asyncio.gather(*(work() for _ in range(connections)))
    cuts = statistics.quantiles(took, n=100) if len(took) > 1 else [0.0] * 99
    result = {
        "runs": len(took),
        "seconds": time.monotonic() - began,
        "errors": errors,
        "p50_ms": cuts[49] * 1000,
        "p99_ms": cuts[98] * 1000,
    }
    print(json.dumps(result))


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], float(sys.argv[2]), int(sys.argv[3])))
