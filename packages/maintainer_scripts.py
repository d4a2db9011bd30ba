"""Maintainer scripts: the package's own text, with tokens for what every package of ours does alike.

Flows in: `packages/NAME/postinst` and the others. Flows out: the scripts of the .deb. The texts for units are those
that dh_installsystemd(1) writes, for bytecode those of dh_python3(1), for accounts and folders those of
dh_installsysusers(1) and dh_installtmpfiles(1): policy-rc.d, masked and disabled units, and roots without a running
systemd are seen to there.

| token | in | does |
| --- | --- | --- |
| `#ACCOUNT#` | postinst | makes the user of sysusers.d and the folders of tmpfiles.d |
| `#BYTECODE#` | postinst, prerm | compiles what is installed, and removes that again |
| `#UNITS#` | postinst, prerm, postrm | enables and starts, stops, forgets the units |
"""

from __future__ import annotations

from packages.definition import BuildError, Definition

CONFIGURED = (
    'if [ "$1" = "configure" ] || [ "$1" = "abort-upgrade" ] || [ "$1" = "abort-deconfigure" ] || '
    '[ "$1" = "abort-remove" ]; then'
)
ENABLE = """\
    deb-systemd-helper unmask '{unit}' >/dev/null || true
    # It is true of a unit that was never seen.
    if deb-systemd-helper --quiet was-enabled '{unit}'; then
        deb-systemd-helper enable '{unit}' >/dev/null || true
    else
        deb-systemd-helper update-state '{unit}' >/dev/null || true
    fi
"""


def texts(definition: Definition) -> dict[str, str]:
    """Return the scripts of a package, by name. Raises BuildError."""
    name = definition.name
    tokens = {
        ("postinst", "#ACCOUNT#"): _account(definition),
        (
            "postinst",
            "#BYTECODE#",
        ): f"{CONFIGURED}\n    py3compile -p {definition.name} /usr/lib/{definition.name}\nfi\n",
        ("prerm", "#BYTECODE#"): f"py3clean -p {definition.name} /usr/lib/{definition.name}\n",
        ("postinst", "#UNITS#"): _start(definition),
        ("prerm", "#UNITS#"): _stop(definition),
        ("postrm", "#UNITS#"): _forget(definition),
    }
    made = {}
    for script, template in definition.script_templates.items():
        made[script] = template
        for token, replacement in ((token, text) for (where, token), text in tokens.items() if where == script):
            if f"\n{token}\n" not in template:
                raise BuildError(f"packages/{name}/{script}: has no line {token}")
            made[script] = made[script].replace(f"\n{token}\n", f"\n{replacement}")
    missing = {script for script, _ in tokens} - made.keys()
    if missing:
        raise BuildError(f"packages/{name}: has no {', '.join(sorted(missing))}")
    return made


def _account(definition: Definition) -> str:
    text = f"{CONFIGURED}\n"
    for folder, command in (("sysusers.d", "systemd-sysusers"), ("tmpfiles.d", "systemd-tmpfiles --create")):
        names = [file.target.rpartition("/")[2] for file in definition.files if f"usr/lib/{folder}/" in file.target]
        if names:
            text += f"    {command} {' '.join(names)}\n"
    return text + "fi\n"


def _start(definition: Definition) -> str:
    enabled = "".join(ENABLE.format(unit=unit) for unit in (*definition.started, *definition.enabled))
    started = " ".join(f"'{unit}'" for unit in definition.started)
    return f"""\
{CONFIGURED}
{enabled}\
    if [ -d /run/systemd/system ]; then
        systemctl --system daemon-reload >/dev/null || true
        if [ -n "$2" ]; then
            deb-systemd-invoke restart {started} >/dev/null || true
        else
            deb-systemd-invoke start {started} >/dev/null || true
        fi
    fi
fi
"""


def _stop(definition: Definition) -> str:
    units = " ".join(f"'{unit}'" for unit in reversed((*definition.started, *definition.enabled)))
    return f"""\
if [ "$1" = "remove" ] && [ -d /run/systemd/system ]; then
    deb-systemd-invoke stop {units} >/dev/null || true
fi
"""


def _forget(definition: Definition) -> str:
    units = " ".join(f"'{unit}'" for unit in (*definition.started, *definition.enabled))
    return f"""\
if [ "$1" = "remove" ] && [ -d /run/systemd/system ]; then
    systemctl --system daemon-reload >/dev/null || true
fi
if [ "$1" = "purge" ] && command -v deb-systemd-helper >/dev/null; then
    deb-systemd-helper purge {units} >/dev/null || true
fi
"""
