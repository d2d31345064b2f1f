"""Fitting: how the published model is best run on this machine, found by measuring the real server.

goals.py        what is aimed at, and which settings are candidates for it
race.py         sequential halving: short turns for all, longer ones for those that are still in the race
verdict.py      the winner against the recipe's settings, measured anew; they stay unless it is better beyond the noise
arena.py        the private server that all of it is measured on: it changes settings without a restart
fit.py          the whole, and the artifact `serving/` that keeps what was found
"""
