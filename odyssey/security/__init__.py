# SPDX-License-Identifier: AGPL-3.0-or-later
"""Who somebody is: the certificate authority, one-time join tokens, and enrolment."""

from odyssey.security.ca import CaError, CertificateAuthority, IssuedFiles

__all__ = ["CaError", "CertificateAuthority", "IssuedFiles"]
