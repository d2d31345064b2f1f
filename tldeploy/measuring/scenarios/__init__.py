"""Scenarios: how rows are sent to engines. Each returns its raw samples; statistics are derived from them elsewhere.

single.py    `single_stream` (MLPerf's SingleStream): one request at a time, one row each
multi.py     `multi_stream` (MLPerf's MultiStream): some rows a query, one query at a time
batched.py   `offline` (MLPerf's Offline): all rows at once, in batches of similar lengths
open.py      `server` (MLPerf's Server): requests arrive at random; the highest rate that keeps a bound on p99
closed.py    `closed_loop`: N clients, each sending its next row as soon as the last one is answered
turns.py     what they share

All interleave the engines in short turns, because a machine changes (clock, temperature, neighbours) within a minute
by more than engines differ. The order of turns is drawn anew for every block: under a fixed rotation each engine would
always inherit the caches and the spinning threads of the same predecessor.
"""

from tldeploy.measuring.scenarios.batched import BATCH, Offline, offline
from tldeploy.measuring.scenarios.closed import ROUNDS, ClosedLoop, closed_loop
from tldeploy.measuring.scenarios.multi import MultiStream, multi_stream
from tldeploy.measuring.scenarios.open import Server, Trial, server
from tldeploy.measuring.scenarios.single import SingleStream, single_stream
from tldeploy.measuring.scenarios.turns import FEWEST_BLOCKS, MOST_ROWS_A_BLOCK, blocks, neighbours

__all__ = [
    "BATCH",
    "FEWEST_BLOCKS",
    "MOST_ROWS_A_BLOCK",
    "ROUNDS",
    "ClosedLoop",
    "MultiStream",
    "Offline",
    "Server",
    "SingleStream",
    "Trial",
    "blocks",
    "closed_loop",
    "multi_stream",
    "neighbours",
    "offline",
    "server",
    "single_stream",
]
