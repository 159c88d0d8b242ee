"""What a forward pass does on a GPU: where it waits for it, and which kernels take the time."""

import warnings
from collections.abc import Iterator
from functools import partial

import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile
from transformers import PreTrainedModel

from benchmarks._gpu_cells import Part, Run, Settings, Subject
from benchmarks._gpu_report import short_path
from benchmarks._report import Report


def synchronisation_parts(settings: Settings) -> Iterator[Part]:
    """Yield how often a forward pass waits for the device, dense and conditional."""
    if not settings.on_gpu:
        return
    for name, tokens in (("BERT-base", 128), ("T5-XL", 128)):
        yield name, partial(_synchronisations, name, tokens, settings)


def _synchronisations(name: str, tokens: int, settings: Settings) -> Report:
    subject = Subject(name, 2, tokens, settings)
    ids = subject.inputs["input_ids"]
    mask = torch.ones_like(ids)
    mask[0, ids.shape[1] // 2 :] = 0
    report: Report = {}
    for key, candidate in subject.candidates.items():
        candidate.apply(subject.model)
        report[key] = {
            "without a mask": synchronisations(subject.infer),
            "with a mask": synchronisations(_inference(subject.model, ids, mask)),
        }
    return report


def _inference(model: PreTrainedModel, ids: Tensor, mask: Tensor) -> Run:
    return torch.inference_mode()(partial(model, input_ids=ids, attention_mask=mask))


def synchronisations(run: Run) -> list[str]:
    """Return the lines of code at which a call waits for the device, after a first call."""
    run()
    torch.cuda.synchronize()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            run()
        finally:
            torch.cuda.set_sync_debug_mode("default")
    return [
        f"{short_path(warning.filename)}:{warning.lineno}"
        for warning in caught
        # Not that the mode of looking for them is a prototype, which it says the first time.
        if "called a synchronizing" in str(warning.message)
    ]


def profile_parts(settings: Settings) -> Iterator[Part]:
    """Yield which kernels a forward pass spends its time in, dense and conditional."""
    for name, tokens in (("T5-XL", 512), ("ViT-L/16 at 224", None), ("Whisper-large-v3", None)):
        subject = Subject(name, 32, tokens, settings)
        for candidate in subject.few:
            yield f"{name}, {candidate}", partial(_profile, subject, candidate)


def _profile(subject: Subject, name: str) -> Report:
    subject.candidates[name].apply(subject.model)
    subject.infer()
    on_gpu = subject.settings.on_gpu
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_gpu else [])]
    with profile(activities=activities) as profiler:
        subject.infer()
        if on_gpu:
            torch.cuda.synchronize()
    return kernel_table(profiler, on_gpu=on_gpu)


def kernel_table(profiler: profile, *, on_gpu: bool, limit: int = 20) -> Report:
    """Return the kernels that take most of the time, those of a name together."""
    events = profiler.key_averages()
    if on_gpu:
        cuda = torch.autograd.DeviceType.CUDA
        spent = {e: e.self_device_time_total for e in events if e.device_type == cuda}
    else:
        spent = {event: event.self_cpu_time_total for event in events}
    slowest = sorted(spent, key=spent.__getitem__, reverse=True)[:limit]
    return {
        "milliseconds": round(sum(spent.values()) / 1e3, 3),
        "calls": sum(event.count for event in spent),
        "slowest": [
            {
                "kernel": event.key[:120],
                "milliseconds": round(spent[event] / 1e3, 3),
                "calls": event.count,
            }
            for event in slowest
        ],
    }
