"""Say how a submitted job ended, and what to do about it."""

from phasegrid.store.submissions import Job


def exit_code_of(job: Job, stored: int | None) -> int:
    """Return the exit code of an ended job's driver, from the cluster, or else from the store.

    Ray has no code for a stopped job (then it is 143) or for a job that never ran (then it is 4, a
    fault of the cluster).
    """
    if job.exit_code is not None:
        return job.exit_code
    if stored is not None:
        return stored
    return {"SUCCEEDED": 0, "STOPPED": 143}.get(job.status or "", 4)


def hint(job: Job) -> str | None:
    """Say what to do about a job that failed before phasegrid could say anything itself."""
    message = job.message or ""
    if job.exit_code == 127 or "not found" in message:
        return (
            "the cluster did not find Python: name it with --python (for example --python python3)"
        )
    if "No module named phasegrid" in message:
        return (
            "that Python has no phasegrid: install it on every node, bundle this checkout with"
            " --with-code, or name the right Python with --python"
        )
    return None
