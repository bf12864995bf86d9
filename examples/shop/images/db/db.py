#!/usr/bin/python3 -I
# SPDX-License-Identifier: AGPL-3.0-or-later
"""Start PostgreSQL on the volume; at the first start put the database there.

``template`` makes an empty database once, when the image is built. A first start copies it beside its place, sets the
password, and moves it to its place when it is complete: a start that was killed in the middle leaves nothing that looks
like a database.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

TEMPLATE = Path("/var/lib/postgresql/template")
VOLUME = Path("/var/lib/postgresql/data")
DATA = VOLUME / "15"
UNFINISHED = VOLUME / "15.unfinished"
SHARE = Path("/usr/local/share/shop")
PASSWORD_FILE = Path("/run/secrets/db-password")
SOCKETS = Path("/run/postgresql")
POSTGRES = 102
DATABASE = "shop"


def sql_text(value: str) -> str:
    """A text as an SQL literal."""
    quoted = value.replace("'", "''")
    return f"'{quoted}'"


def become_postgres() -> None:
    """Drop all rights of root for good."""
    os.setgroups([])
    os.setgid(POSTGRES)
    os.setuid(POSTGRES)
    os.environ.update(HOME=str(VOLUME), USER="postgres", LC_ALL="C.UTF-8")


def single(directory: Path, database: str, sql: list[str]) -> None:
    """Run statements, one a line, without a server. Raises RuntimeError with PostgreSQL's words if one fails."""
    # A statement may hold the password: errors are told without it. Nothing is forced to disk: `create` does that.
    settings = ("-F", "-c", "exit_on_error=on", "-c", "log_min_error_statement=panic")
    argv = ["postgres", "--single", "-D", str(directory), *settings, database]
    result = subprocess.run(argv, input="\n".join(sql) + "\n", capture_output=True, text=True, check=False)
    if result.returncode != 0 or "ERROR:" in result.stderr:
        raise RuntimeError(f"{database}: {result.stderr.strip()}")


def make_template() -> None:
    """Make the empty database that every first start copies."""
    TEMPLATE.mkdir(mode=0o700)
    os.chown(TEMPLATE, POSTGRES, POSTGRES)
    become_postgres()
    options = ["-U", "postgres", "--auth=peer", "--encoding=UTF8", "--locale=C.UTF-8", "--wal-segsize=1"]
    initdb = ["initdb", "-D", str(TEMPLATE), *options, "--no-instructions", "--no-sync"]
    subprocess.run(initdb, check=True, stdout=subprocess.DEVNULL)
    single(TEMPLATE, "template1", [f"alter database postgres rename to {DATABASE};", "create role shop login;"])
    single(TEMPLATE, DATABASE, (SHARE / "schema.sql").read_text(encoding="utf-8").splitlines())


def create(password: str) -> None:
    """Copy the template, set the password, force all of it to disk, then move it to its place."""
    if not password or not password.isprintable():
        raise RuntimeError(f"{PASSWORD_FILE} has to hold a password of one line")
    shutil.rmtree(UNFINISHED, ignore_errors=True)
    shutil.copytree(TEMPLATE, UNFINISHED)
    single(UNFINISHED, DATABASE, [f"alter role shop password {sql_text(password)};"])
    subprocess.run(["initdb", "-D", str(UNFINISHED), "--sync-only"], check=True, stdout=subprocess.DEVNULL)
    UNFINISHED.rename(DATA)


def start() -> None:
    """Prepare the volume and become PostgreSQL."""
    password = PASSWORD_FILE.read_text(encoding="utf-8").strip()
    if os.getuid() == 0:
        for place in (VOLUME, SOCKETS):
            os.chown(place, POSTGRES, POSTGRES)
        VOLUME.chmod(0o700)
        become_postgres()
    if not DATA.exists():
        print("shop-db: making the database", flush=True)
        create(password)
    os.execvp("postgres", ["postgres", "-D", str(DATA), "-c", f"config_file={SHARE}/postgresql.conf"])


def main() -> int:
    """Carry out one command; returns only after an error, or when the template is made."""
    try:
        make_template() if sys.argv[1:] == ["template"] else start()
    except (OSError, RuntimeError, subprocess.CalledProcessError) as error:
        print(f"shop-db: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
