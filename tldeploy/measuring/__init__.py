"""Measuring: how rows are sent to runners, and statistics of the samples. The export and the bench stage share it.

scenarios/     what is sent and what is kept: the raw samples
loading.py     the time until a graph is ready, and its memory, in fresh processes
profiling.py   where a session spends its time, node by node and provider by provider
statistics.py  percentiles, speed-ups and their intervals, derived from the samples
"""
