"""The way out of the site as long as the process lives: waits for an enrolment, and begins anew with another one.

Flows in: the enrolment file, which `iot-edge enrol` writes, also while the gateway runs. Flows out: an uplink and a
registry that is kept fresh.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from random import Random
from typing import Any

import structlog

from bridge.errors import ConfigError
from bridge.gateway_protocol.batches import GatewayState
from bridge.tasks import end
from edge.registry.refresh import Refresher
from edge.registry.snapshot import LocalRegistry
from edge.service_api.enrolment import Enrolment, EnrolmentFile, waiting_for
from edge.service_api.http_client import ServiceClient, parse_url, tls_context
from edge.service_api.transport import HttpsTransport, Transport
from edge.settings import EdgeSettings, UplinkSettings
from edge.spool import Spool
from edge.telemetry import UplinkMetrics
from edge.uplink.uplink import BACKLOG, LIVE, Uplink, UplinkStatus

log = structlog.get_logger("uplink")

LOOK_S = 2.0
"""How often the enrolment is looked at: a stat of one file."""


class UplinkLifecycle:
    """`load` before the doors open, then `run`."""

    def __init__(
        self,
        settings: UplinkSettings,
        data_dir: Path,
        spool: Spool,
        registry: LocalRegistry,
        metrics: UplinkMetrics,
        *,
        state: Callable[[], GatewayState],
        now_us: Callable[[], int],
        direct: EdgeSettings,
    ) -> None:
        self._settings = settings
        self._data_dir = data_dir
        self._spool = spool
        self._registry = registry
        self._metrics = metrics
        self._state = state
        self._now_us = now_us
        self._direct = direct
        self._file: EnrolmentFile | None = None
        self._uplink: Uplink | None = None
        self._refresher: Refresher | None = None
        self._problem = "not enrolled; run iot-edge enrol URL CODE"
        self._look()

    @property
    def name(self) -> str:
        """The gateway's; empty until it is enrolled."""
        return self._file.current.name if self._file is not None else ""

    @property
    def registry_problem(self) -> str:
        """Why the registry is not fresh."""
        return self._refresher.problem if self._refresher is not None else self._problem

    def status(self) -> UplinkStatus:
        """At this moment."""
        if self._uplink is not None:
            return self._uplink.status()
        return UplinkStatus(False, self._problem, "", 0.0, 0.0, False, 0.0, None, ())

    def load(self) -> None:
        """Take up the registry that is on the disk."""
        if self._file is not None:
            transport = self._https(self._file.current)
            if not self._registry.load(transport.key_hash):
                log.warning("no_registry", detail="none on the disk that holds under our key; sensors stay unresolved")

    async def run(self) -> None:
        """Hand over for ever, by the enrolment that is there. Ends by cancellation."""
        while True:
            while self._file is None:
                await asyncio.sleep(LOOK_S)
                self._look()
            file = self._file
            tasks = [asyncio.create_task(work) for work in (*self._works(file), self._until_changed(file))]
            try:
                done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            finally:
                await end(tasks)
            for task in done:
                task.result()
            log.info("enrolment_changed")
            self._uplink = self._refresher = None
            self._look()

    def _works(self, file: EnrolmentFile) -> tuple[Coroutine[Any, Any, None], Coroutine[Any, Any, None]]:
        https = self._https(file.current)
        if parse_url(self._settings.url or file.current.url).in_clear:
            log.warning("uplink_in_clear", detail="the service's URL is http: who is on the way reads key and readings")
        refresher = Refresher(
            self._registry,
            https,
            file,
            every_s=self._settings.report_every_s,
            rotate_days=self._settings.rotate_key_days,
            time_s=lambda: self._now_us() / 1_000_000,
        )
        uplink = Uplink(
            file.current.name,
            self._spool,
            self._spool,
            self._transport(https, file.current.name),
            self._settings,
            self._metrics,
            state=self._state,
            etag_seen=refresher.etag_seen,
            rejected_file=self._data_dir / "refused.jsonl",
            random=Random(),
            now=time.monotonic,
        )
        self._uplink, self._refresher = uplink, refresher
        return uplink.run(), refresher.run()

    def _transport(self, https: HttpsTransport, name: str) -> Transport:
        """Raises ConfigError."""
        if self._settings.kind == "https":
            return https
        from edge.uplink.direct import DirectTransport  # needs the service's extras

        return DirectTransport(self._direct, name, self._now_us)

    def _https(self, enrolment: Enrolment) -> HttpsTransport:
        """Raises ConfigError."""
        address = parse_url(self._settings.url or enrolment.url)
        tls = tls_context(self._settings.ca_file, enrolment.ca_pem) if address.tls else None
        clients = {name: ServiceClient(address, tls, self._settings.timeout_s) for name in (LIVE, BACKLOG, "registry")}
        return HttpsTransport(enrolment.name, enrolment.key, clients)

    def _look(self) -> None:
        """Take up the enrolment that is there."""
        try:
            self._file = EnrolmentFile(self._data_dir)
        except ConfigError as error:
            self._file = None
            if not self._problem.startswith(error.detail):
                log.warning("not_enrolled", detail=error.detail)
            self._problem = error.detail + waiting_for(self._data_dir)

    async def _until_changed(self, file: EnrolmentFile) -> None:
        """Return when the file says something that we have not written ourselves."""
        while True:
            await asyncio.sleep(LOOK_S)
            try:
                found = EnrolmentFile(self._data_dir).current
            except ConfigError:
                continue  # it is being written, or gone: what we have goes on
            if found != file.current:
                return
