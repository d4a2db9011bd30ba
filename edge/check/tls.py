"""Why a certificate does not hold: the name, the time, who signed it; and what to do in each case.

Flows in: the error of a connection. Flows out: what is wrong, and the one thing to do.
"""

from __future__ import annotations

import ssl
from pathlib import Path

from bridge.model.reading import SOFTWARE_DATE_US
from edge.service_api.http_client import Address, ServiceAway

EXPIRED, NOT_YET_VALID, OTHER_HOST, OTHER_ADDRESS = 10, 9, 62, 64
"""X509_V_ERR_…, x509_vfy.h."""
UNTRUSTED = (18, 19, 20, 21)


def why_tls(error: ServiceAway, address: Address, ca_file: Path | None, now_s: float) -> tuple[str, str]:
    """Say what is wrong with the certificate, and what to do."""
    cause = error.__cause__
    shown = f"openssl s_client -connect {_authority(address)} -servername {address.host} </dev/null 2>/dev/null"
    shown += " | openssl x509 -noout -subject -issuer -dates"
    if not isinstance(cause, ssl.SSLCertVerificationError):
        return error.detail, f"is port {address.port} the one for https? curl -v https://{_authority(address)}/health"
    code = cause.verify_code
    if code in (OTHER_HOST, OTHER_ADDRESS):
        return f"the certificate is not for {address.host}", f"the URL has to name the host in it: {shown}"
    if code == NOT_YET_VALID:
        return "the certificate is not valid yet by this clock: is the clock behind?", "timedatectl"
    if code == EXPIRED:
        advice = "timedatectl" if now_s * 1_000_000 < SOFTWARE_DATE_US else f"renew it on the service; {shown}"
        return "the certificate has expired, or this clock is ahead", advice
    if code in UNTRUSTED:
        if ca_file is None and not _has_system_authorities():
            return "this machine trusts no CA at all", "sudo apt-get install ca-certificates"
        detail = f"its issuer is not trusted here ({cause.verify_message}): a CA of your own, or a proxy in between"
        return detail, f"set uplink.ca_file where the issuer is yours: {shown}"
    return f"the certificate does not hold: {cause.verify_message}", shown


def _authority(address: Address) -> str:
    host = f"[{address.host}]" if ":" in address.host else address.host
    return f"{host}:{address.port}"


def _has_system_authorities() -> bool:
    paths = ssl.get_default_verify_paths()
    if paths.cafile is not None:
        return True
    return paths.capath is not None and any(Path(paths.capath).glob("*.0"))
