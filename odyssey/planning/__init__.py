# SPDX-License-Identifier: AGPL-3.0-or-later
"""From a wish to a plan, without clock, socket or store: the same snapshot and goal give the same plan.

`resolve` makes an absolute goal of a wish, `plan` the steps that reach the goal from a snapshot. A plan can be made
again from its goal at any point of its execution and then holds what is left.
"""

from __future__ import annotations

from odyssey.planning.goal import (
    ApplyGoal,
    EnsureAbsent,
    EnsureNodes,
    Goal,
    InventoryGoal,
    MaintenanceGoal,
    RemovePlatformGoal,
    ScaleGoal,
    Settle,
    WeighGoal,
)
from odyssey.planning.images import image_references
from odyssey.planning.planner import plan
from odyssey.planning.resolve import resolve
from odyssey.planning.steps import Change, DrainStep, Plan, PlanOptions, PlanRefused, QuietStep, Step, TransactionStep
from odyssey.planning.undo import undo

__all__ = [
    "ApplyGoal",
    "Change",
    "DrainStep",
    "EnsureAbsent",
    "EnsureNodes",
    "Goal",
    "InventoryGoal",
    "MaintenanceGoal",
    "Plan",
    "PlanOptions",
    "PlanRefused",
    "QuietStep",
    "RemovePlatformGoal",
    "ScaleGoal",
    "Settle",
    "Step",
    "TransactionStep",
    "WeighGoal",
    "image_references",
    "plan",
    "resolve",
    "undo",
]
