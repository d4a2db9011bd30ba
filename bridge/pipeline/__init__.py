"""The steps of a reading: decode, resolve, validate, batch, write, settle; and the door's side of the ledger.

Flows in: deliveries, from any door. Flows out: batches to a `Store`, publications to an `Outbox`, receipts to the
doors. What it needs of others stands in `ports` as Protocols.
"""
