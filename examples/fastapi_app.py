"""A service of FastAPI.

    MODEL=model.txt uvicorn --app-dir examples fastapi_app:app --timeout-graceful-shutdown 10

At SIGTERM uvicorn takes no more connections, waits for the requests under way, and then leaves the lifespan, which
closes the engine.
"""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI, Request, Response
from fastapi.responses import PlainTextResponse
from pydantic import BaseModel, Field

import engine


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    model = engine.load_model(os.environ["MODEL"])
    with engine.ModelMonitor(name="risk") as monitor:
        async with engine.Engine(
            model, default=0.5, deadline_ms=20, expired="answer", monitor=monitor
        ) as eng:
            app.state.engine, app.state.monitor = eng, monitor
            yield


app = FastAPI(lifespan=lifespan)


class Payment(BaseModel):
    amount: float = Field(ge=0)
    age_days: float | None = None  # None is a missing value
    hour: int = Field(ge=0, le=23)


class Risk(BaseModel):
    value: float | None
    source: str
    reason: str
    version: str


@app.post("/risk")
async def risk(payment: Payment, request: Request, deadline_ms: float = 20.0) -> Risk:
    eng = request.app.state.engine
    row = [getattr(payment, name) for name in eng.primary.feature_names]
    answer = await eng.predict_async(row, deadline_ms=deadline_ms)
    return Risk.model_validate(answer.as_dict())


@app.get("/ready")
async def ready(request: Request, response: Response) -> bool:
    if not request.app.state.engine.ready:
        response.status_code = 503
    return request.app.state.engine.ready


@app.get("/metrics", response_class=PlainTextResponse)
async def metrics(request: Request) -> str:
    return request.app.state.monitor.metrics_text()
