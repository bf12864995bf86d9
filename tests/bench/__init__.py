# SPDX-License-Identifier: AGPL-3.0-or-later
"""`make bench`: how long an addNode takes and where the time goes. Not a test: nothing here asserts a time."""
