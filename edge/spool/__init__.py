"""The spool: readings and quarantined rows are safe on a gateway's disk until the service has them.

    pipeline ── Batch ──► writer ──► file ──► reader ── Record ──► uplink ── Settlement ──► reader
                                      ▲ ▲
                                      │ └─ capacity, eviction: what leaves when it is full or old
                                      └─── recovery, pages: what a damaged file still holds

**On disk** is one SQLite file in write-ahead mode (`file`, `spool.sql`). `record` has the readings and `refused` what
is quarantined, each row with a CRC (`rows`). `sensor` and `boot` have what rows name by a number (`names`). `ledger`
has the totals of each device and door, `delivered` the identities handed over lately (`identities`), `meta` the epoch
and the ids reserved, `salvage` the files set aside.

**The thread.** `Spool` owns the one thread in which all of this runs; the event loop never waits for a disk. Only
`recount` reads beside it, on a connection of its own.

**The unit of work.** What must be known at each reading is kept in `memory`, so that none costs a query. Every change
is a `with state.change() as change:` (`state`, `change`): one transaction on the file, and memory follows once it is
committed. If anything fails before that, neither has changed. If the COMMIT itself fails with an I/O error, nobody
knows whether it was made: the connection is dropped, the log is written back with an fsync of its own, memory is
loaded again from the file, and the batch is asked for by its number (`was_committed`).

**Ids and epochs.** `id` rises with arrival and alone gives the order; (`epoch`, `id`) is never given twice. Ids are
reserved in `meta` before they are given, a thousand at a time, so that they go on above all that was given even when
every row has left. A file that takes the place of another begins an epoch, with ids above those of the other.

**Durability.** A batch is fsynced before it is acknowledged. An acknowledgement of the uplink, or an eviction,
reaches the disk with the next commit that is: a power cut may bring rows back, and the service knows them by their
identity.

**When it is full**, by its own limit or because others fill the disk, the oldest clean readings of the busiest
sensors are thinned, then quarantined rows leave, then warnings; the ledger counts them as shed. For a full disk that
happens only as readings need the place. Alerts are never evicted: with nothing else left, writing raises SpoolFull and
acknowledgements are withheld. A reserve on disk lets rows leave even then.

**When it cannot be used** (`access`, `lock`), everything raises StoreUnavailable with the reason, and the file is left
alone until it can.

**When it is damaged**, the file is set aside and an empty one takes its place, at the start or in the middle of a
run. `recovery` reads the other page by page beside the normal work, and brings over the rows whose CRC holds under
the ids they had. What is missing in the end is entered as lost. Files that are handed over (`imports`,
`imported_rows`) come in the same way.

**Times.** Rows keep CLOCK_BOOTTIME and their boot, and are read corrected by the newest anchor of that boot (`rows`);
boots whose clock was never set are bounded by their neighbours (`boot_times`).

**When it is killed**, the log has every commit that was acknowledged, and the next start goes on from there. A
recovery goes on at the page where it was.
"""

from edge.spool.spool import Spool

__all__ = ["Spool"]
