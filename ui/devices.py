"""The devices as lines of HTML: those that cannot be used, and current memory and load."""

from __future__ import annotations

from html import escape

from backend.device.gpu import GpuReading, read_gpus
from backend.device.host import read_load, read_memory
from backend.errors import UserError
from ui.text.say import in_bytes, say
from ui.torch_queries import query_machine


def unusable_gpus() -> str:
    """Return a line for each GPU that cannot be used, and what to do; empty if there are none.

    The first call takes seconds, because torch is asked.
    """
    try:
        machine = query_machine()
    except UserError as error:  # then no training starts either
        return f'<p role="alert">{escape(str(error))}</p>'
    lines = [
        say(
            "gpu_unusable",
            title=gpu.title,
            name=gpu.name,
            why=say(f"gpu_why_{gpu.why}", **gpu.values),
            cure=say(f"gpu_cure_{gpu.cure}", **gpu.values),
        )
        for gpu in machine.unusable
    ]
    return "".join(f'<p role="alert">{escape(line)}</p>' for line in lines)


def device_lines() -> str:
    """Return a line for each GPU that the driver lists, and one for the host."""
    lines = [*map(_gpu_line, read_gpus()), _host_line()]
    return "<br>".join(f"<small>{escape(line)}</small>" for line in lines)


def _gpu_line(gpu: GpuReading) -> str:
    """Describe a GPU without what its driver does not report; unknown free memory is named as such."""
    load = "" if gpu.utilization_percent is None else say("gpu_load", load=gpu.utilization_percent)
    warmth = "" if gpu.temperature_c is None else say("gpu_temperature", temperature=gpu.temperature_c)
    if gpu.free_bytes is None or gpu.total_bytes is None:
        return say("gpu_unknown", title=gpu.title, load=load, temperature=warmth)
    others = "" if gpu.others_bytes is None else say("gpu_others", others=in_bytes(gpu.others_bytes))
    free, total = in_bytes(gpu.free_bytes), in_bytes(gpu.total_bytes)
    return say(
        "gpu_line", title=gpu.title, free=free, total=total, others=others, load=load, temperature=warmth
    )


def _host_line() -> str:
    """Describe the host, without its load until that was read twice, since it is measured in between."""
    memory, load = read_memory(), read_load()
    free, total = in_bytes(memory.free_bytes), in_bytes(memory.total_bytes)
    if load is None:
        return say("host_line_no_load", free=free, total=total)
    return say("host_line", load=round(load), free=free, total=total)
