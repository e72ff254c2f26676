"""Turn a plan into stored results: scheduler, loop, executors and worker."""
