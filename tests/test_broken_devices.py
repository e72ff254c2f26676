"""Laws of errors after which a process has lost its GPU: they blame no job, and end the process."""

import sys

import pytest
import torch
from fake_nvml import FakeCard, error, fake_nvml

from phasegrid.errors import DeviceError, MetricError, exit_code
from phasegrid.run.worker import broken_devices
from phasegrid.run.worker.broken_devices import raise_if_broken

STICKY = [
    "CUDA error: misaligned address\nCUDA kernel errors might be asynchronously reported",
    "CUDA error: an illegal memory access was encountered",
    "CUDA error: device-side assert triggered",
    "CUDA error: unspecified launch failure",
    "cuDNN error: CUDNN_STATUS_EXECUTION_FAILED_CUDART",
    "CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling `cublasSgemm(...)`",
]


@pytest.mark.parametrize("text", STICKY)
def test_an_error_that_stays_is_taken_at_its_word_wherever_it_comes_from(text: str) -> None:
    with pytest.raises(DeviceError, match=text.split("\n", 1)[0].split("(", 1)[0]) as found:
        raise_if_broken(RuntimeError(text))
    assert exit_code(found.value) == 4
    assert "asynchronously" not in str(found.value)
    wrapped = MetricError("cannot be measured")
    wrapped.__cause__ = RuntimeError(text)
    with pytest.raises(DeviceError):
        raise_if_broken(wrapped)


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory"),
        RuntimeError("CUDA error: out of memory"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        RuntimeError("mat1 and mat2 shapes cannot be multiplied"),
        ValueError("CUDA error: misaligned address"),  # a text, not an error of torch
    ],
)
def test_other_errors_are_those_of_their_job(error: Exception) -> None:
    raise_if_broken(error)


@pytest.mark.parametrize("works", [True, False])
def test_after_an_error_that_may_pass_the_device_is_asked(
    works: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(broken_devices, "_works", lambda: works)
    error = RuntimeError("CUDA error: invalid argument")
    if works:
        raise_if_broken(error)
    else:
        with pytest.raises(DeviceError, match="invalid argument"):
            raise_if_broken(error)


NO_HANDLE = FakeCard(handle=error("GPU_IS_LOST"))


@pytest.mark.parametrize(
    ("card", "said", "is_lost"),
    [
        (FakeCard(), "unknown error; on GPU 0 of .* \\(NVIDIA H200, GPU-aaaa\\)$", False),
        (FakeCard(errors=2), "GPU 0 of .* has had 2 uncorrected errors", False),
        (NO_HANDLE, "GPU 0 of .* is lost \\(NVML: GPU is lost\\)", True),
        (FakeCard("GPU-bbbb"), "unknown error$", False),  # another card
    ],
)
def test_the_card_that_a_process_has_lost_is_named_with_what_is_wrong_with_it(
    monkeypatch: pytest.MonkeyPatch, card: FakeCard, said: str, is_lost: bool
) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", fake_nvml([card, FakeCard("GPU-cccc")]))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(broken_devices, "_uuid", lambda: "aaaa")
    with pytest.raises(DeviceError, match=said) as found:
        raise_if_broken(RuntimeError("CUDA error: unknown error"))
    assert found.value.card_is_lost == is_lost


def test_a_process_without_a_gpu_has_lost_none() -> None:
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        pytest.skip("this process uses a GPU")
    assert broken_devices._works()


@pytest.mark.gpu
def test_a_gpu_that_was_asked_for_too_much_still_works() -> None:
    with pytest.raises(torch.OutOfMemoryError) as found:
        torch.empty(2**50, device="cuda")
    raise_if_broken(found.value)
    assert broken_devices._works()
