"""Measuring: how rows are sent to runners, and statistics of the samples. The export and the bench stage share it.

scenarios.py   what is sent and what is kept: the raw samples
statistics.py  percentiles, speed-ups and their intervals, derived from the samples
"""
