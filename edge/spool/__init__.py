"""The spool: where a gateway's readings are safe until the service has them.

    pipeline ──Batch──► inlet ──► file (SQLite) ──► outlet ──Record──► uplink ──Settlement──► outlet
                                   ▲  room: what leaves when it is full or old
                                   └─ salvage: what a damaged file still holds

`Spool` owns the thread that all of this runs in; `state` is what the thread keeps in memory.
"""

from edge.spool.spool import Spool

__all__ = ["Spool"]
