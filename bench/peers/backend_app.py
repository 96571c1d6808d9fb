"""A dashboard's backend as it is built ordinarily: FastAPI, SQLAlchemy's async ORM, one worker of uvicorn.

Run as ``python -m bench.peers.backend_app PORT DATABASE_URL [REDIS_URL]``. Each event is committed, its task
updated, and then published to the sockets that watch it: over SQLite within the process, over PostgreSQL by
Redis's pub/sub, so that there may be several.
"""

from __future__ import annotations

import asyncio
import sys
from collections import defaultdict
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any
from zoneinfo import ZoneInfo

import orjson
import redis.asyncio
import uvicorn
from fastapi import Depends, FastAPI, HTTPException, Response, WebSocket, WebSocketDisconnect
from fastapi.responses import StreamingResponse
from pydantic import BaseModel, ConfigDict
from sqlalchemy import JSON, DateTime, Index, Text, event, func, or_, select
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

PORT, URL = int(sys.argv[1]), sys.argv[2]
REDIS = sys.argv[3] if len(sys.argv) > 3 else None
DISK = URL.startswith("sqlite")


class Base(DeclarativeBase):
    """The tables."""


class Task(Base):
    """A task, updated by its events."""

    __tablename__ = "tasks"
    task_id: Mapped[str] = mapped_column(Text, primary_key=True)
    created_at: Mapped[datetime] = mapped_column(DateTime(timezone=True))
    updated_at: Mapped[datetime] = mapped_column(DateTime(timezone=True))
    status: Mapped[str] = mapped_column(Text)
    name: Mapped[str | None] = mapped_column(Text)
    agent: Mapped[str | None] = mapped_column(Text)
    agent_type: Mapped[str | None] = mapped_column(Text)
    model: Mapped[str | None] = mapped_column(Text)
    session_id: Mapped[str | None] = mapped_column(Text)
    input: Mapped[Any] = mapped_column(JSON, nullable=True)
    started_at: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))
    finished_at: Mapped[datetime | None] = mapped_column(DateTime(timezone=True), index=True)
    output_lines: Mapped[int] = mapped_column(default=0)
    output_bytes: Mapped[int] = mapped_column(default=0)
    cost_usd: Mapped[float | None]
    input_tokens: Mapped[int | None]
    output_tokens: Mapped[int | None]
    error: Mapped[str | None] = mapped_column(Text)
    result: Mapped[Any] = mapped_column(JSON, nullable=True)
    last_seq: Mapped[int] = mapped_column(default=0)
    __table_args__ = (
        Index("by_created", "created_at", "task_id"),
        Index("by_agent", "agent", "created_at"),
        Index("by_status", "status", "created_at"),
    )


class Event(Base):
    """An event of a task."""

    __tablename__ = "events"
    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=True)
    task_id: Mapped[str] = mapped_column(Text)
    seq: Mapped[int]
    type: Mapped[str] = mapped_column(Text)
    timestamp: Mapped[datetime] = mapped_column(DateTime(timezone=True))
    stream: Mapped[str | None] = mapped_column(Text)
    output: Mapped[str | None] = mapped_column(Text)
    __table_args__ = (Index("by_task", "task_id", "seq", unique=True),)


class TaskOut(BaseModel):
    """A task as the API gives it."""

    model_config = ConfigDict(from_attributes=True)
    task_id: str
    created_at: datetime
    updated_at: datetime
    status: str
    name: str | None
    agent: str | None
    agent_type: str | None
    model: str | None
    session_id: str | None
    input: Any
    started_at: datetime | None
    finished_at: datetime | None
    output_lines: int
    output_bytes: int
    cost_usd: float | None
    input_tokens: int | None
    output_tokens: int | None
    error: str | None
    result: Any
    last_seq: int


class Line(BaseModel):
    """A line of output as the API gives it."""

    model_config = ConfigDict(from_attributes=True)
    seq: int
    timestamp: datetime
    stream: str | None
    output: str | None


class Item(BaseModel):
    """What is published."""

    type: str
    task_id: str
    output: str | None = None
    stream: str = "stdout"
    status: str | None = None


engine = create_async_engine(URL, **({} if DISK else {"pool_size": 20, "max_overflow": 20}))
sessions = async_sessionmaker(engine, expire_on_commit=False)
sockets: defaultdict[str, set[WebSocket]] = defaultdict(set)
writing = asyncio.Lock()
"""SQLite has one writer."""

if DISK:

    @event.listens_for(engine.sync_engine, "connect")
    def _configure(connection: Any, _: object) -> None:
        for pragma in ("journal_mode=WAL", "synchronous=FULL", "busy_timeout=5000", "cache_size=-8192"):
            connection.execute(f"PRAGMA {pragma}")


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Make the tables; hear what other workers publish."""
    async with engine.begin() as connection:
        await connection.run_sync(Base.metadata.create_all)
    if REDIS is None:
        yield
        return
    app.state.redis = redis.asyncio.from_url(REDIS)
    listening = asyncio.create_task(_listen(app.state.redis))
    yield
    listening.cancel()
    await app.state.redis.aclose()
    await engine.dispose()


async def _listen(client: redis.asyncio.Redis) -> None:
    async with client.pubsub() as pubsub:
        await pubsub.psubscribe("task:*")
        async for message in pubsub.listen():
            if message["type"] == "pmessage":
                await _send(message["channel"].decode()[5:], message["data"].decode())


async def _send(task_id: str, text: str) -> None:
    for socket in list(sockets.get(task_id, ())):
        await socket.send_text(text)


async def session() -> AsyncIterator[AsyncSession]:
    """Give a request its session."""
    async with sessions() as opened:
        yield opened


Session = Annotated[AsyncSession, Depends(session)]
app = FastAPI(lifespan=lifespan)


@app.post("/publish", status_code=201)
async def publish(items: list[Item], db: Session) -> dict[str, int]:
    """Keep events, update their tasks, publish them."""
    if DISK:
        async with writing:
            events = await _keep(items, db)
    else:
        events = await _keep(items, db)
    messages = [
        (one.task_id, orjson.dumps({"type": one.type, "seq": one.seq, "output": one.output}).decode())
        for one in events
    ]
    if REDIS is None:
        for task_id, text in messages:
            await _send(task_id, text)
    else:
        pipeline = app.state.redis.pipeline(transaction=False)
        for task_id, text in messages:
            pipeline.publish(f"task:{task_id}", text)
        await pipeline.execute()
    return {"accepted": len(items)}


async def _keep(items: list[Item], db: AsyncSession) -> list[Event]:
    now = datetime.now(UTC)
    wanted = sorted({item.task_id for item in items})
    found = await db.scalars(
        select(Task).where(Task.task_id.in_(wanted)).order_by(Task.task_id).with_for_update()
    )
    tasks = {task.task_id: task for task in found}
    events = []
    for item in items:
        task = tasks.get(item.task_id)
        if task is None:
            task = Task(task_id=item.task_id, created_at=now, status="running", started_at=now)
            task.last_seq = task.output_lines = task.output_bytes = 0
            tasks[item.task_id] = task
            db.add(task)
        task.last_seq += 1
        task.updated_at = now
        if item.output is not None:
            task.output_lines += 1
            task.output_bytes += len(item.output.encode())
        if item.status is not None:
            task.status = item.status
        events.append(
            Event(
                task_id=item.task_id,
                seq=task.last_seq,
                type=item.type,
                timestamp=now,
                stream=item.stream,
                output=item.output,
            )
        )
    db.add_all(events)
    await db.commit()
    return events


@app.get("/tasks", response_model=list[TaskOut])
async def list_tasks(
    db: Session,
    limit: int = 50,
    page: int = 1,
    agent: str | None = None,
    status: str | None = None,
    text: str | None = None,
) -> Sequence[Task]:
    """List tasks, newest first."""
    asked = select(Task).order_by(Task.created_at.desc(), Task.task_id.desc())
    if agent is not None:
        asked = asked.where(Task.agent == agent)
    if status is not None:
        asked = asked.where(Task.status == status)
    for word in (text or "").split():
        searched = (Task.task_id, Task.name, Task.agent, Task.agent_type, Task.model, Task.error)
        asked = asked.where(or_(*(column.ilike(f"%{word}%") for column in searched)))
    found = await db.scalars(asked.limit(limit).offset((page - 1) * limit))
    return found.all()


@app.get("/tasks/{task_id}", response_model=TaskOut)
async def get_task(db: Session, task_id: str) -> Task:
    """Return one task."""
    task = await db.get(Task, task_id)
    if task is None:
        raise HTTPException(404)
    return task


@app.get("/tasks/{task_id}/logs", response_model=list[Line])
async def read_log(db: Session, task_id: str, limit: int = 50, tail: int | None = None) -> Sequence[Event]:
    """Return a task's first lines, or its last."""
    asked = select(Event).where(Event.task_id == task_id, Event.type == "task_output")
    if tail is None:
        return (await db.scalars(asked.order_by(Event.seq).limit(limit))).all()
    return (await db.scalars(asked.order_by(Event.seq.desc()).limit(tail))).all()[::-1]


@app.get("/tasks/{task_id}/logs/full")
async def full_log(task_id: str) -> StreamingResponse:
    """Stream a task's whole output as text."""

    async def pages() -> AsyncIterator[str]:
        seq = 0
        async with sessions() as db:
            while True:
                asked = (
                    select(Event.seq, Event.output)
                    .where(Event.task_id == task_id, Event.type == "task_output", Event.seq > seq)
                    .order_by(Event.seq)
                    .limit(5000)
                )
                rows = (await db.execute(asked)).all()
                if not rows:
                    return
                seq = rows[-1].seq
                yield "".join([f"{row.output}\n" for row in rows])

    return StreamingResponse(pages(), media_type="text/plain")


@app.get("/costs")
async def costs(db: Session, days: int, granularity: str = "hour", tz: str = "UTC") -> Response:
    """Add up costs by hour, or by day in a zone."""
    since = datetime.now(UTC) - timedelta(days=days)
    hour: Any = (
        func.strftime("%Y-%m-%dT%H:00:00+00:00", Task.finished_at)
        if DISK
        else func.date_trunc("hour", Task.finished_at)
    )
    asked = select(hour, func.sum(Task.cost_usd), func.count()).where(Task.finished_at >= since)
    found = (await db.execute(asked.group_by(hour).order_by(hour))).all()
    sums: dict[str, list[float]] = {}
    zone = ZoneInfo(tz)
    for at, cost, number in found:
        moment = (datetime.fromisoformat(at) if DISK else at).astimezone(zone)
        place = sums.setdefault((moment.date() if granularity == "day" else moment).isoformat(), [0.0, 0])
        place[0] += cost or 0.0
        place[1] += number
    return Response(orjson.dumps(sums), media_type="application/json")


@app.get("/summary")
async def summary(db: Session, days: int) -> Response:
    """Add up what was finished, by status, agent and model."""
    since = datetime.now(UTC) - timedelta(days=days)
    sums = (func.count(), func.sum(Task.cost_usd), func.sum(Task.input_tokens), func.sum(Task.output_tokens))
    by = (Task.status, Task.agent_type, Task.model)
    found = (await db.execute(select(*by, *sums).where(Task.finished_at >= since).group_by(*by))).all()
    return Response(orjson.dumps([tuple(row) for row in found]), media_type="application/json")


@app.websocket("/ws/{task_id}")
async def watch(socket: WebSocket, task_id: str) -> None:
    """Keep the socket among the task's until it goes away."""
    await socket.accept()
    sockets[task_id].add(socket)
    try:
        while True:
            await socket.receive_text()
    except WebSocketDisconnect:
        pass
    finally:
        sockets[task_id].discard(socket)


if __name__ == "__main__":
    uvicorn.run(
        app,
        port=PORT,
        loop="uvloop",
        http="httptools",
        ws="websockets-sansio",
        ws_per_message_deflate=False,
        backlog=4096,
        log_level="warning",
        access_log=False,
    )
