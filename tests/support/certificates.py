"""Certificate authorities and server certificates for tests, made by the `openssl` program."""

from __future__ import annotations

import subprocess
from pathlib import Path
from tempfile import mkdtemp


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

    def issue_at(self, start: str, end: str, *alternatives: str) -> tuple[Path, Path]:
        """A server's certificate and key that hold from `start` to `end`, such as 20200101000000Z."""
        folder = Path(mkdtemp(dir=self._folder))
        request, key, certificate, conf = (folder / f"server.{kind}" for kind in ("csr", "key", "pem", "conf"))
        (folder / "index.txt").write_text("")
        conf.write_text(
            f"[ca]\ndefault_ca=own\n[own]\ndatabase={folder}/index.txt\nnew_certs_dir={folder}\nrand_serial=yes\n"
            f"default_md=sha256\npolicy=any\nx509_extensions=names\n[any]\ncommonName=supplied\n"
            f"[names]\nsubjectAltName={','.join(alternatives)}\n"
        )
        _openssl("req", "-new", *NEW_KEY, "-subj", "/CN=server", "-keyout", str(key), "-out", str(request))
        _openssl(
            *("ca", "-batch", "-config", str(conf), "-startdate", start, "-enddate", end, "-in", str(request)),
            *("-cert", str(self.certificate), "-keyfile", str(self._key), "-out", str(certificate), "-notext"),
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
