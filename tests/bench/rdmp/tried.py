# SPDX-License-Identifier: AGPL-3.0-or-later
"""What was tried to make RDMP faster, for docs/benchmarks.md; written by hand."""

LINES = (
    "The first version committed 788 transactions in a second with 256 open. All of this was measured on a busy machine,",
    "so as processor time (us for each transaction, all processes, with 16 and with 256 open); no promise was given up.",
    "",
    "| change | before | after | kept |",
    "|---|---|---|---|",
    "| what is sent in one turn of the loop leaves in one TLS record; group commit wakes the loop once for a batch and "
    "has no savepoints unless work raises; open and finished transactions are kept, not searched for "
    "| 3239 / 1785 | 1709 / 1337 | yes |",
    "| garbage collector: thresholds 50,000, 50, 100 | 1709 / 1337 | 1528 / 1176 | yes |",
    "| the same, fan-out to 4,000, us for each agent: orchestrator / agent | 284 / 691 | 188 / 423 | yes |",
    "| who has not answered is kept, not searched (it was quadratic) | - | 10,000 agents: linear | yes |",
    "| TLS buffers of 16 KiB: KiB for a connection with both ends in one process | 617 | 136 | yes |",
    "| 64 TLS handshakes at a time, the rest in order: 1,000 agents back, s / late, ms | 10.1 / 2880 | 3.6 / 163 | yes |",
    "| an agent reads its certificate again only when it was renewed: us for each attempt | 970 | 10 | yes |",
    "| uvloop 0.23, 256 open; fan-out to 1,000, us for each agent; MiB of the orchestrator "
    "| 1116; 201; 99 | 1382; 241; 89 | no |",
    "| orjson, msgspec for JSON: neither refuses a duplicate key, orjson writes NaN as null; parsing is 3 % | - | - | no |",
    "",
    "Not tried: a sync less in each stage (a commit's intent need not be durable before its effect, if a repeated commit",
    "finds the effect); several processes for the connections.",
)
