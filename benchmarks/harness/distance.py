"""A server further away than it is: a TCP proxy in a process of its own that holds every byte for a while."""

from __future__ import annotations

import asyncio
import multiprocessing
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection


@contextmanager
def away(port: int, milliseconds: float) -> Iterator[int]:
    """A port of this machine behind which ``port`` is ``milliseconds`` away, there and back."""
    context = multiprocessing.get_context("spawn")
    telling, told = context.Pipe(duplex=False)
    process = context.Process(target=_serve, args=(port, milliseconds / 2000, told), daemon=True)
    process.start()
    try:
        yield telling.recv()
    finally:
        process.kill()
        process.join()


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, delay_s: float) -> None:
    """What arrives is written ``delay_s`` later; order and pace stay."""
    loop = asyncio.get_running_loop()
    waiting: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(1024)

    async def write() -> None:
        while True:
            due, data = await waiting.get()
            await asyncio.sleep(max(0.0, due - loop.time()))
            if not data:
                writer.close()
                return
            writer.write(data)
            await writer.drain()

    task = asyncio.create_task(write())
    try:
        while data := await reader.read(65536):
            await waiting.put((loop.time() + delay_s, data))
    except ConnectionError:
        pass
    await waiting.put((loop.time() + delay_s, b""))
    await task


def _serve(target_port: int, delay_s: float, told: Connection) -> None:
    """Serve until killed; the port goes through ``told``."""

    async def serve() -> None:
        async def joined(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            there, back = await asyncio.open_connection("127.0.0.1", target_port)
            await asyncio.gather(
                _pump(reader, back, delay_s), _pump(there, writer, delay_s), return_exceptions=True
            )

        server = await asyncio.start_server(joined, "127.0.0.1", 0)
        told.send(server.sockets[0].getsockname()[1])
        await server.serve_forever()

    asyncio.run(serve())
