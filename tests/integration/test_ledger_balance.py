"""The gauge of the ledger's imbalance, over the real table."""

from __future__ import annotations

import psycopg

from bridge.model.reading import Batch, LedgerLine, Reading, Source
from bridge.settings.stores import DatabaseSettings
from bridge.store.postgres import PostgresStore
from bridge.store.registry import PostgresRegistry
from tests.support.plant import Plant, us


async def test_ledger_imbalance_tells_pending_from_lost(postgres_url: str) -> None:
    with psycopg.connect(postgres_url, autocommit=True, row_factory=psycopg.rows.dict_row) as connection:
        plant = Plant(connection)
    store = PostgresStore(DatabaseSettings(url=postgres_url), "books")
    await store.open()
    registry = PostgresRegistry(store)
    reading = Reading(plant.sensor, 1.0, us(0), us(0), plant.device, "temperature", Source.MQTT)
    try:
        await store.write(Batch(1, [reading], ledger=[LedgerLine(plant.device, Source.MQTT, 1, 0)]))
        assert await registry.ledger_imbalance(store.instance) == 0
        await store.write(Batch(2, [], ledger=[LedgerLine(plant.device, Source.MQTT, 4, 0)]))
        assert await registry.ledger_imbalance(None) == 0, "three are pending: no error while the process works"
        assert await registry.ledger_imbalance(store.instance) == 3, "at rest nothing may be pending"
        with psycopg.connect(postgres_url, autocommit=True) as connection:
            connection.execute("UPDATE ingest_ledger SET stored = 6")
        assert await registry.ledger_imbalance(None) == 2, "more settled than received is always an error"
        with psycopg.connect(postgres_url, autocommit=True) as connection:
            connection.execute("UPDATE ingest_ledger SET stored = 2, instance = 0")
        assert await registry.ledger_imbalance(None) == 2, "closed books have nothing pending"
    finally:
        await store.close()
