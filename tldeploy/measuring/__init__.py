"""Measuring: how rows are sent to runners, and statistics of the samples. The export and the bench stage share it.

scenarios/     what is sent and what is kept: the raw samples
asking.py      how a runner is asked and timed: query after query, or by clients
isolated.py    an engine in a process of its own, which takes its times
process.py     that process's two ends
load/          load on a served model, made by another process
warming.py     requests that are not kept, until they get no faster
noise.py       an engine against itself: which differences are none
parts.py       where the time of a served request goes, step by step
shapes.py      rows of one length
loading.py     the time until a graph is ready, and its memory, in fresh processes
profiling.py   where a session spends its time, node by node and provider by provider
energy.py      what the machine drew meanwhile, where it tells
statistics.py  percentiles, speed-ups and their intervals, derived from the samples
"""
