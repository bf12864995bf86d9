# SPDX-License-Identifier: AGPL-3.0-or-later
"""The Docker host: an engine behind a thread pool, and the driver that makes nodes of containers."""
