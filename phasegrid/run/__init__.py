"""From a plan to stored results: scheduler, loop, executors and worker."""
