"""Load on a served model, from a process of its own.

sending.py      when requests are sent: at times drawn beforehand, or as soon as answers come. On an event loop's clock
wire.py         the requests as bytes, written beforehand, and the connections that they go over
generator.py    the process that does it, and the handle that this one has on it
health.py       whether it kept up, or the figures are its own
"""
