"""The Containerfile without a container engine: read into stages, and its steps run in copies of a Debian root.

It knows the instructions that ours has, and takes any other for a mistake.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
from dataclasses import dataclass, field
from pathlib import Path

CONFIGURING = {"LABEL", "ENV", "USER", "WORKDIR", "EXPOSE", "STOPSIGNAL", "HEALTHCHECK", "ENTRYPOINT", "CMD"}
DOING = {"RUN", "COPY"}
DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


@dataclass(frozen=True)
class Instruction:
    name: str
    text: str

    @property
    def flags(self) -> dict[str, str]:
        """`--from=build` and the like, by name."""
        found = {}
        for word in self.text.split():
            if not word.startswith("--"):
                break
            name, _, value = word.removeprefix("--").partition("=")
            found[name] = value
        return found

    @property
    def arguments(self) -> list[str]:
        """Its words, without the flags; of a JSON list its items."""
        text = self.text
        while text.startswith("--"):
            text = text.partition(" ")[2].lstrip()
        if self.name == "HEALTHCHECK":
            text = text.removeprefix("CMD ")
        return list(json.loads(text)) if text.startswith("[") else shlex.split(text)

    @property
    def pairs(self) -> dict[str, str]:
        """NAME=VALUE of ENV and LABEL."""
        return dict(word.split("=", 1) for word in self.arguments)


@dataclass
class Stage:
    base: str
    name: str
    instructions: list[Instruction] = field(default_factory=list)

    def last(self, name: str) -> Instruction:
        """The instruction of a name that holds in the end."""
        return [each for each in self.instructions if each.name == name][-1]

    @property
    def environment(self) -> dict[str, str]:
        found = {"PATH": DEFAULT_PATH}
        for each in self.instructions:
            if each.name == "ENV":
                found |= each.pairs
        return found


def parse(text: str) -> list[Stage]:
    """The stages of a Containerfile, in their order."""
    stages: list[Stage] = []
    lines = [line for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    for line in "\n".join(lines).replace("\\\n", " ").splitlines():
        name, _, rest = line.strip().partition(" ")
        if name == "FROM":
            words = rest.split()
            assert len(words) == 1 or (len(words) == 3 and words[1] == "AS"), line
            stages.append(Stage(words[0], words[-1] if len(words) == 3 else ""))
            continue
        assert name in CONFIGURING | DOING, f"{name}: this reader does not know it"
        stages[-1].instructions.append(Instruction(name, rest.strip()))
    return stages


def hand_network_on(root: Path) -> dict[str, str]:
    """Give a root what names this machine's registries, as scripts/fresh does. Returns the variables to run with."""
    for name in ("etc/resolv.conf", "etc/hosts", "etc/pip.conf"):
        if Path("/", name).exists():
            shutil.copyfile(Path("/", name), root / name)
    for path in Path("/etc/apt/apt.conf.d").glob("*"):
        if "roxy" in path.read_text() or "Verify" in path.read_text() or "CaInfo" in path.read_text():
            shutil.copyfile(path, root / "etc/apt/apt.conf.d" / path.name)
    names = ("http_proxy", "https_proxy", "no_proxy")
    not_network = ("PIP_CACHE_DIR", "PIP_TARGET", "PIP_USER")
    kept = {
        name: value
        for name, value in os.environ.items()
        if name.lower() in names or (name.startswith("PIP_") and name not in not_network)
    }
    for value in kept.values():
        for word in value.split():
            if word.startswith("/") and Path(word).exists():
                (root / word[1:]).parent.mkdir(parents=True, exist_ok=True)
                subprocess.run(["cp", "-RLT", word, root / word[1:]], check=True)
    return kept


def build(stages: list[Stage], base: Path, context: Path, folder: Path) -> Path:
    """Run the steps of every stage in a copy of `base`. Returns the root of the last. Needs root."""
    roots: dict[str, Path] = {}
    root = base
    for number, stage in enumerate(stages):
        root = roots[stage.name] = folder / f"stage-{number}"
        subprocess.run(["cp", "-a", base, root], check=True)
        network = hand_network_on(root)
        for each in stage.instructions:
            if each.name == "RUN":
                step(root, ["/bin/sh", "-c", each.text], stage.environment | network)
            elif each.name == "COPY":
                copy(root, each, roots[each.flags["from"]] if "from" in each.flags else context)
    return root


def copy(root: Path, instruction: Instruction, source: Path) -> None:
    """COPY: files into a folder whose name ends in /, or one folder's content into another."""
    *names, target = instruction.arguments
    place = root / target.lstrip("/")
    for name in names:
        found = sorted(source.glob(name.lstrip("/")))
        assert found, f"COPY {name}: is not in {source}"
        for path in found:
            if path.is_dir():
                subprocess.run(["cp", "-aT", path, place], check=True)
            else:
                place.mkdir(parents=True, exist_ok=True)
                shutil.copy(path, place)


def step(root: Path, command: list[str], environment: dict[str, str], *, user: str = "0:0") -> str:
    """Run a command in a root, in mounts and processes of its own. Returns what it says."""
    done = subprocess.run(inside(root, command, user), env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{command}: {done.stdout[-2000:]}{done.stderr[-4000:]}"
    return done.stdout


def inside(root: Path, command: list[str], user: str) -> list[str]:
    """What runs a command in a root: /proc and /dev are there, and end with it."""
    mounts = (
        '/usr/bin/mount -t proc proc "$0/proc" && /usr/bin/mount --rbind /dev "$0/dev"'
        ' && exec /usr/sbin/chroot --userspec="$1" "$0" "${@:2}"'
    )
    unshare = ["/usr/bin/unshare", "--mount", "--pid", "--fork", "--kill-child"]
    return [*unshare, "/bin/bash", "-c", mounts, str(root), user, *command]
