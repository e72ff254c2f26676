"""See and say how the GPUs of a run are: lost, hot, full or shared; their use and memory.

`nvml` reads this machine's cards through NVML; nobody else imports `pynvml`. `card` says what a
card is, as text and as JSON. `findings` tells from a card what is wrong with it, and what to do.
`watch` reads the cards of all nodes every few seconds in a thread of the run, says each finding
once, and keeps the latest reading in the store for ``phasegrid status``. On a cluster each node
with GPUs reads its own cards (`phasegrid.run.executors.ray.cards`).

What NVML cannot tell is unknown, and never an error: without a driver, in a container without it,
on a card that is split (MIG). No module here imports torch.
"""
