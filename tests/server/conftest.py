"""One real server for all tests of this folder, which therefore run in one process."""

from __future__ import annotations

import asyncio
import io
import json
import time
from dataclasses import dataclass, field

import aiohttp
import numpy as np
import pytest
from PIL import Image

from devhost.demo import PACK, TINY_PACK
from devhost.server import current_environment, running_server


@pytest.fixture(scope="session")
def server(tmp_path_factory):
    with running_server(
        current_environment(), {**PACK, **TINY_PACK}, base=tmp_path_factory.mktemp("base")
    ) as running:
        yield running


@dataclass
class Watch:
    """What is seen over the websocket while a prompt runs, as the front end sees it.

    Attributes:
        values: how far a node has come, 0 to 1, message by message.
        previews: its preview pictures, (h, w, 3) from 0 to 255.
        prompt_id, end: of the prompt, and the type of the message that ended it.
        seconds: from Cancel to the end.
    """

    values: list[float] = field(default_factory=list)
    previews: list[np.ndarray] = field(default_factory=list)
    prompt_id: str = ""
    end: str = ""
    seconds: float = 0.0


ENDS = {"execution_success", "execution_error", "execution_interrupted"}
JPEG_PREVIEW = (1).to_bytes(4, "big") * 2  # the host's sign for a preview, and for a JPEG


@pytest.fixture(scope="session")
def watch(server):
    """A function (prompt, node, cancel_at=None) that runs a prompt and returns its `Watch`.

    `cancel_at` is how far the node has come when a person presses Cancel.
    """

    async def run(prompt, node, cancel_at):
        seen, cancelled = Watch(), time.monotonic()
        async with aiohttp.ClientSession() as session:
            address = f"{server.address.replace('http', 'ws')}/ws?clientId=watcher"
            async with session.ws_connect(address, max_msg_size=0) as socket:
                body = {"prompt": prompt, "client_id": "watcher"}
                async with session.post(f"{server.address}/prompt", json=body) as answer:
                    seen.prompt_id = (await answer.json())["prompt_id"]
                async for message in socket:
                    note(seen, message.data, node)
                    if cancel_at is not None and seen.values and seen.values[-1] >= cancel_at:
                        cancel_at, cancelled = None, time.monotonic()
                        async with session.post(f"{server.address}/interrupt", json={}) as answer:
                            assert answer.status == 200
                    if seen.end:
                        seen.seconds = time.monotonic() - cancelled
                        return seen
        raise AssertionError("the server closed the connection")

    def note(seen, data, node):
        if isinstance(data, bytes):
            if data.startswith(JPEG_PREVIEW):
                with Image.open(io.BytesIO(data[8:])) as picture:
                    seen.previews.append(np.asarray(picture).astype(int))
            return
        told = json.loads(data)
        if told["type"] == "progress" and told["data"]["node"] == node:
            seen.values.append(told["data"]["value"] / told["data"]["max"])
        if told["type"] in ENDS:
            seen.end = told["type"]

    return lambda prompt, node, cancel_at=None: asyncio.run(
        asyncio.wait_for(run(prompt, node, cancel_at), 120)
    )
