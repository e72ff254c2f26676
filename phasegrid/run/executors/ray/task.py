"""Do one pack in a worker process of Ray: the body of a task."""

import os
import traceback
from dataclasses import replace

import ray
import ray.exceptions

from phasegrid.errors import DeviceError
from phasegrid.packs import Outcome, Pack
from phasegrid.run import crashes, underway, watchdog
from phasegrid.run.executors.base import PackOptions
from phasegrid.run.executors.ray import gpus
from phasegrid.run.worker import node_folder
from phasegrid.store.failures import failure_of_pack
from phasegrid.store.store import Store


def on_device(place: PackOptions, assigned: str | None) -> PackOptions:
    """Return a place on the GPU that Ray assigned, or on the CPU if it assigned none. A place that
    names a device other than ``cuda`` stays.

    A process may see GPUs that Ray did not assign to it: other processes use these.
    """
    if assigned is None:
        return replace(place, device="cpu") if place.device is None else place
    return replace(place, device=assigned) if place.device in (None, "cuda") else place


_STORES: dict[str, Store] = {}


def do_pack(pack: Pack, storage: str, place: PackOptions, failure_id: str) -> list[Outcome]:
    """Do a pack in a worker process, which stays warm; give the memory back afterwards."""
    from phasegrid.run.worker.malloc import give_back, keep_freed_memory
    from phasegrid.run.worker.pack import do
    from phasegrid.run.worker.queues import open_queues

    open_queues()
    folder = None if place.shared_data is None else node_folder.enter(place.shared_data)
    crashes.note_attempt(folder, failure_id)
    assigned = gpus.device_of(ray.get_gpu_ids())
    place = on_device(place, assigned)
    if assigned is not None and place.device == assigned:
        gpus.take(assigned, place.gpu_share)
    if storage not in _STORES:
        _STORES[storage] = Store.open(storage)
    store = _STORES[storage]

    def give_up(stack: str) -> None:
        why = watchdog.explanation(place.timeout_s or 0)
        store.put_failure(
            failure_of_pack(pack, "timeout", why, stack, attempt=1) | {"id": failure_id}
        )

    def note_life() -> bool:
        alive()
        return False

    noted = underway.Noted(place.shared_data, pack.key)
    keep_freed_memory()
    try:
        with watchdog.watched(place.timeout_s, give_up) as alive:
            return do(pack, store, place, note_life, noted.note)
    except DeviceError as error:
        word = f"its GPU was lost: {error}\n{traceback.format_exc()}"
        crashes.leave_word(folder, word, is_of_hardware=error.card_is_lost)
        noted.forget()
        os._exit(1)  # this process must get no other pack
    finally:
        noted.forget()
        give_back()
        gpus.give_back()
