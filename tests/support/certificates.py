"""Certificate authorities and server certificates for tests, made by the `openssl` program."""

from __future__ import annotations

import subprocess
from pathlib import Path


class Authority:
    """A CA of its own in `folder`; `certificate` is what clients trust."""

    def __init__(self, folder: Path, name: str = "ca") -> None:
        self._folder = folder
        self._key = folder / f"{name}.key"
        self.certificate = folder / f"{name}.pem"
        _openssl(
            *("req", "-x509", *NEW_KEY, "-days", "2", "-subj", f"/CN={name}"),
            *("-addext", "keyUsage=critical,keyCertSign,cRLSign"),
            *("-keyout", str(self._key), "-out", str(self.certificate)),
        )

    def issue(self, *alternatives: str) -> tuple[Path, Path]:
        """A server's certificate and key, for names such as `DNS:localhost` and `IP:127.0.0.1`."""
        request, extensions = self._folder / "server.csr", self._folder / "server.ext"
        key, certificate = self._folder / "server.key", self._folder / "server.pem"
        extensions.write_text(f"subjectAltName={','.join(alternatives)}\n")
        _openssl("req", "-new", *NEW_KEY, "-subj", "/CN=server", "-keyout", str(key), "-out", str(request))
        _openssl(
            *("x509", "-req", "-days", "2", "-in", str(request), "-extfile", str(extensions)),
            *("-CA", str(self.certificate), "-CAkey", str(self._key), "-CAcreateserial", "-out", str(certificate)),
        )
        return certificate, key

    def issue_between(self, begins: str, ends: str, *alternatives: str) -> tuple[Path, Path]:
        """As `issue`, valid between two times, such as `20300101000000Z`."""
        request, key, certificate = (self._folder / f"dated.{end}" for end in ("csr", "key", "pem"))
        config, extensions = self._folder / "ca.cnf", self._folder / "dated.ext"
        extensions.write_text(f"subjectAltName={','.join(alternatives)}\n")
        index = self._folder / "index.txt"
        index.write_text("")
        config.write_text(
            f"[ca]\ndefault_ca=own\n[own]\ndatabase={index}\nnew_certs_dir={self._folder}\ndefault_md=sha256\n"
            "policy=any\nrand_serial=yes\n[any]\ncommonName=supplied\n"
        )
        _openssl("req", "-new", *NEW_KEY, "-subj", "/CN=server", "-keyout", str(key), "-out", str(request))
        _openssl(
            *("ca", "-batch", "-notext", "-config", str(config), "-in", str(request), "-extfile", str(extensions)),
            *("-cert", str(self.certificate), "-keyfile", str(self._key), "-out", str(certificate)),
            *("-startdate", begins, "-enddate", ends),
        )
        return certificate, key

    def issue_client(self, name: str) -> tuple[Path, Path]:
        """A client's certificate and key, with `name` as its common name."""
        request, key, certificate = (self._folder / f"client.{end}" for end in ("csr", "key", "pem"))
        _openssl("req", "-new", *NEW_KEY, "-subj", f"/CN={name}", "-keyout", str(key), "-out", str(request))
        _openssl(
            *("x509", "-req", "-days", "2", "-in", str(request), "-CA", str(self.certificate)),
            *("-CAkey", str(self._key), "-CAcreateserial", "-out", str(certificate)),
        )
        return certificate, key


NEW_KEY = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")


def _openssl(*arguments: str) -> None:
    subprocess.run(["openssl", *arguments], check=True, capture_output=True)
