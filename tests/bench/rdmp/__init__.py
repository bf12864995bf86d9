# SPDX-License-Identifier: AGPL-3.0-or-later
"""`make bench-rdmp`: RDMP's speed and size beside its peers. Not a test: nothing here asserts a time."""
