# SPDX-License-Identifier: AGPL-3.0-or-later
"""`odysseyctl ca`: the cluster's certificate authority, on the machine that holds its key. No daemon is asked."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from odyssey.cli.app import App, output_option
from odyssey.cli.exits import Exit, Failure
from odyssey.security.ca import ROLES, CaError, CertificateAuthority

DEFAULT_DIRECTORY = "/etc/odyssey/ca"

_directory = click.option(
    "--dir", "directory",
    type=click.Path(path_type=Path, file_okay=False),
    default=DEFAULT_DIRECTORY,
    envvar="ODYSSEYCTL_CA",
    show_default=True,
    show_envvar=True,
    help="Where the CA is.",
)  # fmt: skip


@click.group()
def ca() -> None:
    """The certificate authority: who somebody is."""


@ca.command()
@click.option("--cluster", required=True, help="The cluster's name; it stands in every certificate.")
@_directory
@output_option
@click.pass_obj
def init(app: App, cluster: str, directory: Path) -> None:
    """Make the CA of a new cluster. Whoever can read its key (mode 0600) can be anybody."""
    try:
        authority = CertificateAuthority.create(directory, cluster)
    except (CaError, OSError) as error:
        raise Failure(str(error), Exit.REFUSED) from error
    _show(app, authority, directory)
    app.out.note(f"Keep {directory / 'ca.key'} safe, and a copy of it elsewhere.")


@ca.command()
@_directory
@output_option
@click.pass_obj
def show(app: App, directory: Path) -> None:
    """Show the CA: cluster, fingerprint, lifetime."""
    _show(app, _load(directory), directory)


@ca.command()
@click.argument("role", type=click.Choice(ROLES))
@click.argument("name")
@click.option("--out", type=click.Path(path_type=Path, file_okay=False), required=True, help="Directory for the files.")
@click.option("--host", "hosts", multiple=True, help="DNS name or address to put in too, for other software.")
@_directory
@output_option
@click.pass_obj
def issue(app: App, role: str, name: str, out: Path, hosts: tuple[str, ...], directory: Path) -> None:
    """Make a key and a certificate for ROLE NAME: cert.pem, key.pem (0600) and ca.pem in --out."""
    authority = _load(directory)
    try:
        files = authority.issue(role, name, out, hosts=hosts)
    except (CaError, OSError, ValueError) as error:
        raise Failure(str(error), Exit.REFUSED) from error
    paths = {"cert": str(files.cert), "key": str(files.key), "ca": str(files.ca)}
    if app.out.json:
        app.out.data({"identity": f"odyssey://{authority.cluster}/{role}/{name}", **paths})
    else:
        app.out.fields(list(paths.items()))


def _load(directory: Path) -> CertificateAuthority:
    try:
        return CertificateAuthority.load(directory)
    except CaError as error:
        raise Failure(str(error), Exit.REFUSED) from error


def _show(app: App, authority: CertificateAuthority, directory: Path) -> None:
    facts: dict[str, Any] = {
        "cluster": authority.cluster,
        "fingerprint": authority.fingerprint,
        "notBefore": authority.certificate.not_valid_before_utc.isoformat(),
        "notAfter": authority.certificate.not_valid_after_utc.isoformat(),
        "directory": str(directory),
    }
    if app.out.json:
        app.out.data(facts)
    else:
        app.out.fields(list(facts.items()))
