# SPDX-License-Identifier: AGPL-3.0-or-later
"""What was tried to make RDMP faster, for docs/benchmarks.md; written by hand."""

BEGAN = (
    "The first version committed 788 transactions in a second with 256 open, with 3239 us of processor time "
    "for each when 16 were open and 1785 us with 256 (all processes together). The figures below were taken "
    "one after another on a machine that others used too; processor time says more than the clock. No promise "
    "was given up for any of them."
)
KEPT = (
    "What is sent in one turn of the event loop leaves in one TLS record; group commit wakes the loop once for "
    "a batch and takes no savepoints unless work raises; the log keeps open and finished transactions instead "
    "of searching for them: 1709 us and 1337 us.",
    "The garbage collector looks less often (thresholds 50,000, 50, 100): 1528 us and 1176 us. In a fan-out to "
    "4,000 agents 188 us instead of 284 for each in the orchestrator, 423 instead of 691 in the agents' "
    "processes.",
    "The coordinator keeps who has not answered; to search for it at each vote was quadratic.",
    "TLS buffers of 16 KiB instead of 256: 136 KiB instead of 617 for a connection with both ends in one "
    "process.",
    "64 TLS handshakes at a time, the rest wait in order: 1,000 agents were back 3.6 s after a restart instead "
    "of 10.1, and the event loop was late by 0.16 s at most instead of 2.9.",
    "No session tickets, for no peer resumes a session: 900 us of the server's processor for a handshake instead of "
    "1260, 4.7 KiB less for a connection with both ends in one process.",
    "The write-ahead log is moved into its file after an answer, no longer before one, and PRAGMA synchronous is "
    "set only when it changes: an idle transaction took 8.2 ms instead of 8.8 (p99 12.2 instead of 12.8).",
    "A participant reads its certificate again only when the file changed: 970 us less for each attempt to "
    "connect.",
)
DROPPED = (
    "uvloop 0.23: 1382 us for a transaction instead of 1116, 241 us for each agent of a fan-out to 1,000 "
    "instead of 201, but 89 MiB instead of 99. After the batches above the event loop is no longer what costs.",
    "The intent of a commit written, but not synced, before its effect: 11 syncs for a transaction instead of 14, "
    "yet an idle one took only 0.4 ms less, for the processor and not the disk is what it waits for. After a power "
    "cut the journal would not know that a stage may be visible.",
    "A lone write committed in the event loop itself instead of in the thread: 1.3 ms less when idle, but a disk that "
    "hangs would stop the heartbeats.",
    "Events of transactions gathered for 10 ms: nothing to be seen.",
    "orjson and msgspec: neither refuses a duplicate key, and orjson writes NaN as null; reading JSON is 3 % "
    "of the time.",
)
OPEN = (
    "Several processes for the connections of one orchestrator.",
)
