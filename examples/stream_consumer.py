"""A consumer of a stream, as of Kafka: here a consumer group of Redis Streams.

    MODEL=model.txt REDIS=redis://127.0.0.1:6379/0 python examples/stream_consumer.py

Reads payments from the stream `payments`, writes a risk for each to `risks`, and then acknowledges them. A payment is
due 1 s after it was written. SIGTERM lets the batch under way finish.
"""

import asyncio
import os
import signal
import time

import redis.asyncio
from redis.exceptions import ResponseError

import engine

DUE_MS = 1000.0
GROUP = "scorers"


def left_ms(message_id: bytes) -> float:
    """Milliseconds until a message is due. Redis begins an id with the time of writing, in Unix milliseconds."""
    return int(message_id.split(b"-")[0]) + DUE_MS - time.time() * 1e3


async def consume(eng: engine.Engine, client: redis.asyncio.Redis, stop: asyncio.Event) -> None:
    names = [name.encode() for name in eng.primary.feature_names or ()]
    while not stop.is_set():
        got = await client.xreadgroup(GROUP, f"pid-{os.getpid()}", {"payments": ">"}, count=256, block=200)
        for _, messages in got or []:
            rows = [[float(fields.get(name, "nan")) for name in names] for _, fields in messages]
            many = await eng.predict_many_async(rows, [left_ms(message_id) for message_id, _ in messages])
            async with client.pipeline(transaction=True) as pipe:
                for (message_id, _), answer in zip(messages, many, strict=True):
                    risk = {"of": message_id, "value": answer.value, "source": answer.source}
                    pipe.xadd("risks", risk, maxlen=100_000)
                pipe.xack("payments", GROUP, *(message_id for message_id, _ in messages))
                await pipe.execute()


async def main() -> None:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    model = engine.load_model(os.environ["MODEL"])
    async with (
        redis.asyncio.from_url(os.environ.get("REDIS", "redis://127.0.0.1:6379/0")) as client,
        engine.Engine(model, default=0.5, deadline_ms=DUE_MS, expired="answer") as eng,
    ):
        try:
            await client.xgroup_create("payments", GROUP, id="0", mkstream=True)
        except ResponseError as error:
            if "BUSYGROUP" not in str(error):
                raise
        await consume(eng, client, stop)


if __name__ == "__main__":
    asyncio.run(main())
