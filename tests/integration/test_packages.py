"""Debian packages: the same bytes each time, what is in them, the repository's signature, what the bundle refuses."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from edge.host import install
from edge.host.broker_files import AdmittedDevices
from packages.source import ROOT
from tests.support import debs, needs

pytestmark = [
    pytest.mark.skipif(shutil.which("dpkg-deb") is None, reason="no dpkg-deb: scripts/servers"),
    pytest.mark.timeout(400),  # the first build on a machine fetches the wheels
]
SUITE, SUFFIX = ("trixie", "~deb13u1") if sys.version_info >= (3, 13) else ("bookworm", "~deb12u1")
EPOCH = debs.SETTINGS["SOURCE_DATE_EPOCH"]


def packages(
    *arguments: str | Path, expect: int = 0, umask: int = 0o022, environment: Mapping[str, str] | None = None
) -> str:
    """Run `python -m packages`; returns what it says."""
    done = subprocess.run(
        [sys.executable, "-m", "packages", *arguments],
        cwd=ROOT,
        env={**os.environ, **debs.SETTINGS, **(environment or {})},
        umask=umask,
        check=False,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == expect, done.stderr
    return done.stdout + done.stderr


def build(out: Path, umask: int = 0o022, **others: str) -> Path:
    packages("debs", "iot-edge", "--suite", SUITE, "--arch", "amd64", "--out", out, umask=umask, environment=others)
    (deb,) = out.glob("*.deb")
    return deb


@pytest.fixture(scope="module")
def deb() -> Path:
    """The package of the commit, which other tests install."""
    return debs.built(SUITE)


@pytest.fixture(scope="module")
def content(deb: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the package installs, and what dpkg is told below DEBIAN."""
    folder = tmp_path_factory.mktemp("content")
    subprocess.run(["dpkg-deb", "--raw-extract", deb, folder], check=True)
    return folder


@pytest.fixture
def key() -> Iterator[str]:
    """A key for this test alone, in a GNUPGHOME of its own: gpg's sockets need a short path."""
    needs.program(needs.GPG)
    needs.program(needs.APT_FTPARCHIVE)
    before = os.environ.get("GNUPGHOME")
    with tempfile.TemporaryDirectory(prefix="gpg-") as home:
        os.environ["GNUPGHOME"] = home
        try:
            gpg = ["gpg", "--batch", "--quiet", "--pinentry-mode", "loopback", "--passphrase", ""]
            made = ["--quick-generate-key", "packages@example.com", "ed25519", "sign", "1d"]
            subprocess.run([*gpg, *made], check=True, capture_output=True)
            yield "packages@example.com"
        finally:
            subprocess.run(["gpgconf", "--kill", "all"], check=False)
            os.environ.pop("GNUPGHOME")
            if before is not None:
                os.environ["GNUPGHOME"] = before


def apt(state: Path, source: Path, *command: str) -> subprocess.CompletedProcess[str]:
    """Run apt-get on a repository alone, with a state of its own."""
    for folder in ("lists/partial", "archives/partial", "parts"):
        (state / folder).mkdir(parents=True, exist_ok=True)
    (state / "status").touch()
    settings = {
        "Dir::State": state,
        "Dir::State::Lists": state / "lists",
        "Dir::State::status": state / "status",
        "Dir::Cache": state,
        "Dir::Etc::SourceList": source,
        "Dir::Etc::SourceParts": state / "parts",
        "APT::Architecture": "amd64",
        "APT::Architectures": "amd64",
        "APT::Sandbox::User": "root" if os.geteuid() == 0 else "",
        "Acquire::Languages": "none",
        "APT::Update::Error-Mode": "any",
    }
    options = [part for name, value in settings.items() for part in ("-o", f"{name}={value}")]
    return subprocess.run([f"apt-{command[0]}", *options, *command[1:]], check=False, capture_output=True, text=True)


def test_package_built_twice_is_the_same_bytes(deb: Path, tmp_path: Path) -> None:
    again = build(
        tmp_path / "other" / "place", 0o077, TZ="Asia/Tokyo", PYTHONHASHSEED="2", LC_ALL="C", TMPDIR=str(tmp_path)
    )
    assert (again.name, again.read_bytes()) == (deb.name, deb.read_bytes())


def test_package_names_its_python_and_its_conffiles(deb: Path, content: Path) -> None:
    fields = subprocess.run(["dpkg-deb", "-f", deb], check=True, capture_output=True, text=True).stdout
    minor = 13 if SUITE == "trixie" else 11
    assert f"Depends: python3 (>= 3.{minor}), python3 (<< 3.{minor + 1}), " in fields
    assert deb.name.endswith(f"-1{SUFFIX}_amd64.deb")
    assert "Maintainer: A Site <packages@example.com>\n" in fields
    assert (content / "DEBIAN/conffiles").read_text().split() == [
        "/etc/iot-edge/edge.toml",
        "/etc/mosquitto/conf.d/iot-edge.conf",
        "/etc/mosquitto/iot-edge.acl",
    ]


def test_package_installs_what_install_writes(content: Path, tmp_path: Path) -> None:
    install.install(tmp_path, Path("/usr/bin/iot-edge"), AdmittedDevices.KEYS)
    written = {path.relative_to(tmp_path) for path in tmp_path.rglob("*") if path.is_file()}
    by_script = {Path("etc/iot-edge/credentials/mqtt.password"), Path("etc/mosquitto/iot-edge.passwd")}
    by_script.add(Path("etc/iot-edge/installed.sha256"))  # dpkg keeps its own
    others = {path for path in written - by_script if path.parts[0] == "etc"}
    assert len(others) >= 7
    for path in others:
        packaged = path
        for folder in ("systemd/system", "sysusers.d"):
            if path.is_relative_to(f"etc/{folder}"):
                packaged = Path("usr/lib", folder, path.relative_to(f"etc/{folder}"))
        assert (content / packaged).read_text() == (tmp_path / path).read_text(), packaged


def test_maintainer_scripts_are_whole_and_posix(content: Path) -> None:
    for name in ("preinst", "postinst", "prerm", "postrm"):
        script = content / "DEBIAN" / name
        assert not [line for line in script.read_text().splitlines() if line.startswith("#") and line.endswith("#")]
        subprocess.run(["sh", "-n", script], check=True)


@pytest.mark.parametrize(
    ("others", "used"),
    [
        ({}, True),
        ({"conf.d/site.conf": "log_type all\nconnection head\naddress 192.0.2.1:1883\n"}, True),
        ({"conf.d/site.conf": "listener 1883\n"}, False),
        ({"conf.d/site.conf": "password_file /etc/mosquitto/site.passwd\n"}, False),
        ({"mosquitto.conf": "port 1883\ninclude_dir /etc/mosquitto/conf.d\n"}, False),
    ],
    ids=["stock", "log and bridge", "listener", "password_file", "port"],
)
def test_installing_leaves_a_broker_that_is_set_up_alone(tmp_path: Path, others: dict[str, str], used: bool) -> None:
    """Run as the postinst has it, with the command that it calls."""
    install.install(tmp_path, Path("/usr/bin/iot-edge"), AdmittedDevices.KEYS)
    folder = tmp_path / "etc/mosquitto"
    for name, text in ({"mosquitto.conf": "include_dir /etc/mosquitto/conf.d\n"} | others).items():
        (folder / name).write_text(text)
    conf = folder / "conf.d/iot-edge.conf"
    postinst = Path("packages/iot-edge/postinst").read_text()
    start = postinst.index("leave_foreign_broker_alone() {")
    function = postinst[start : postinst.index("\n}\n", start) + 3]
    called = f'iot-edge() {{ "{sys.executable}" -m edge "$@" --root "{tmp_path}"; }}\n'
    script = f'set -e\nCONF="{conf}"\n{called}{function}leave_foreign_broker_alone\n'
    done = subprocess.run(["bash", "-c", script], check=True, capture_output=True, text=True)
    assert conf.exists() is used, done.stderr
    assert conf.with_name("iot-edge.conf.unused").exists() is not used
    assert ("is set up already" in done.stderr) is not used


def test_every_part_has_its_licence(content: Path) -> None:
    text = (content / "usr/share/doc/iot-edge/copyright").read_text()
    parts = [path.name.split("-")[0].lower().replace("_", "-") for path in content.rglob("*.dist-info")]
    named = text.lower().replace("_", "-")
    assert len(parts) > 20
    assert [
        part for part in parts if part != "iot-edge-bridge" and f"files: usr/lib/iot-edge/{part}" not in named
    ] == []


@pytest.mark.skipif(sys.version_info[:2] not in ((3, 11), (3, 13)), reason="no Debian's Python: its wheels do not load")
def test_packaged_command_needs_nothing_but_its_own(content: Path, tmp_path: Path) -> None:
    (tmp_path / "pydantic.py").write_text("raise SystemExit('of the working directory')")
    launcher = (content / "usr/bin/iot-edge").read_text()
    program = launcher.replace("/usr/lib/iot-edge", str(content / "usr/lib/iot-edge"))
    assert launcher.startswith("#!/usr/bin/python3 -IS\n")
    done = subprocess.run(
        [sys.executable, "-IS", "-c", program, "size", "--devices", "3", "--json"],
        cwd=tmp_path,
        env={"PYTHONPATH": str(tmp_path), "PATH": "/usr/bin:/bin"},
        check=False,
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_apt_takes_the_repository_and_refuses_one_that_was_changed(deb: Path, key: str, tmp_path: Path) -> None:
    out = tmp_path / "apt"
    packages("apt-repo", "--debs", deb.parent, "--out", out, "--key", key, "--url", f"file:{out}")
    source = out / f"iot-edge-bridge-{SUITE}.sources"
    assert apt(tmp_path / "state", source, "get", "update").returncode == 0
    assert f"Version: {deb.name.split('_')[1]}" in apt(tmp_path / "state", source, "cache", "show", "iot-edge").stdout

    release = out / "dists" / SUITE / "InRelease"
    signed = release.read_bytes()
    release.write_bytes(signed.replace(b"Origin: iot-edge-bridge", b"Origin: somebody-else00"))
    (out / "dists" / SUITE / "Release.gpg").unlink()
    refused = apt(tmp_path / "other", source, "get", "update")
    assert refused.returncode != 0
    assert "signature" in refused.stderr.lower()

    release.write_bytes(signed)
    indexes = [path for path in (out / "dists" / SUITE / "main/binary-amd64").rglob("*") if path.is_file()]
    for index in indexes:
        index.write_bytes(index.read_bytes()[::-1])
    assert apt(tmp_path / "third", source, "get", "update").returncode != 0


def test_published_version_is_never_replaced_by_another(deb: Path, key: str, tmp_path: Path) -> None:
    debs, out = tmp_path / "debs", tmp_path / "apt"
    debs.mkdir()
    shutil.copy(deb, debs)
    packages("apt-repo", "--debs", debs, "--out", out, "--key", key, "--url", "https://packages.example.com")
    (debs / deb.name).write_bytes(deb.read_bytes() + b"\0")
    said = packages("apt-repo", "--debs", debs, "--out", out, "--key", key, "--url", "https://x.example", expect=1)
    assert "is published with other content" in said


def test_repository_without_a_key_says_what_it_needs(deb: Path, tmp_path: Path) -> None:
    said = packages(
        "apt-repo", "--debs", deb.parent, "--out", tmp_path / "apt", expect=1, environment={"KEY": "", "URL": ""}
    )
    assert "needs KEY=" in said


def bundle(deb: Path, out: Path) -> Path:
    """An offline bundle, unpacked."""
    needs.program(needs.APT_FTPARCHIVE)
    packages("offline", "--arch", "amd64", "--ours-only", "--debs", deb.parent, "--out", out)
    subprocess.run(["tar", "-x", "-f", out / "iot-edge-offline-amd64.tar", "-C", out], check=True)
    return out / "iot-edge-offline-amd64"


def refusal(folder: Path, tmp_path: Path, **answers: str) -> str:
    """What `install` says on a machine whose commands answer so."""
    tools = tmp_path / "tools"
    shutil.rmtree(tools, ignore_errors=True)
    tools.mkdir()
    for name, answer in {"dpkg": "amd64", "id": "0", "df": "h\nd 1 1 99999999 1% /", **answers}.items():
        (tools / name).write_text(f"#!/bin/sh\ncat <<'END'\n{answer}\nEND\n")
        (tools / name).chmod(0o755)
    path = f"{tools}:/usr/bin:/bin"
    done = subprocess.run(
        [folder / "install"], env={"PATH": path}, check=False, capture_output=True, text=True, stdin=subprocess.DEVNULL
    )
    assert (done.returncode, done.stderr.count("\n")) == (1, 1), done.stderr
    return done.stderr


def test_offline_bundle_refuses_with_one_line(deb: Path, tmp_path: Path) -> None:
    folder = bundle(deb, tmp_path)
    assert "32-bit Debian (armhf)" in refusal(folder, tmp_path, dpkg="armhf")
    assert "take iot-edge-offline-arm64.tar" in refusal(folder, tmp_path, dpkg="arm64")
    assert "it needs amd64 or arm64" in refusal(folder, tmp_path, dpkg="riscv64")
    assert "needs root" in refusal(folder, tmp_path, id="1000")
    assert "has 9 MB free; it needs 200 MB" in refusal(folder, tmp_path, df="h\nd 1 1 9999 1% /")
    packages_of = folder / SUITE / "Packages"
    packages_of.write_bytes(packages_of.read_bytes() + b"\n")
    assert "this copy is damaged" in refusal(folder, tmp_path)
    shutil.move(folder / "bookworm", folder / "potato")
    shutil.move(folder / "trixie", folder / "woody")
    assert "it needs Debian 12 (bookworm) or 13 (trixie)" in refusal(folder, tmp_path)


def test_32_bit_arm_is_refused_with_one_line(tmp_path: Path) -> None:
    from packages import refusal as refusals
    from packages.source import Source
    from packages.stage import Workshop

    source = Source(ROOT, "0" * 40, int(EPOCH), "1.0", "A Site <packages@example.com>")
    made = refusals.build("iot-edge", "1.0-1~deb12u1", Workshop(source, tmp_path, tmp_path, tmp_path, tmp_path))
    subprocess.run(["dpkg-deb", "--control", made, tmp_path / "control"], check=True)
    done = subprocess.run([tmp_path / "control/preinst", "install"], check=False, capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.startswith("iot-edge: this is 32-bit Debian (armhf); it needs the 64-bit one")


@pytest.mark.parametrize("linked", [True, False], ids=["whole", "the power went after the link"])
def test_state_of_a_dynamic_user_is_taken_over_by_the_package(tmp_path: Path, linked: bool) -> None:
    script = (Path(__file__).parents[2] / "packages/iot-edge/postinst").read_text()
    begin = script.index("take_over_state() {")
    function = script[begin : script.index("\n}\n", begin) + 3]
    for ours, there in (
        ("/var/lib", str(tmp_path)),
        ("iot-edge:iot-edge", f"{os.geteuid()}:{os.getegid()}"),
        ("deb-systemd-invoke", ":"),
    ):
        function = function.replace(ours, there)
    private, state = tmp_path / "private/iot-edge", tmp_path / "iot-edge"
    private.mkdir(parents=True)
    (private / "spool.db").write_text("readings")
    if linked:
        state.symlink_to("private/iot-edge")
    for _ in range(2):
        subprocess.run(["sh", "-euc", f"{function}\ntake_over_state"], check=True)
        assert not state.is_symlink()
        assert (state / "spool.db").read_text() == "readings"
