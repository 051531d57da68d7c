from __future__ import annotations

import os
from dataclasses import dataclass, field
from types import SimpleNamespace

import pytest

from backend.device import gpu, host, nvml, visible


class DriverError(Exception):
    """A stand-in for pynvml.NVMLError."""


@dataclass
class FakeGpu:
    uuid: str
    title: str
    free: int
    processes: list[tuple[int, int | None]] = field(default_factory=list)
    total: int = 1000
    silent: frozenset[str] = frozenset()  # questions that it refuses
    mig: list[FakeGpu | None] | None = None  # the instances in their places, in MIG mode
    bus: str = ""
    instance: tuple[int, int] = (0, 0)  # of a MIG instance: the GPU's and the compute instance's number


class FakeNvml:
    """The part of pynvml that is asked; `lost` is the GPU at which the driver goes away."""

    NVMLError = DriverError
    NVML_TEMPERATURE_GPU = 0
    NVML_DEVICE_MIG_ENABLE = 1

    def __init__(self, gpus: list[FakeGpu], *, lost: int | None = None, driver: bool = True) -> None:
        self.gpus, self.lost, self.driver, self.open = gpus, lost, driver, 0

    def nvmlInit(self) -> None:
        if not self.driver:
            raise DriverError("NVML Shared Library Not Found")
        self.open += 1

    def nvmlShutdown(self) -> None:
        self.open -= 1

    def nvmlDeviceGetCount(self) -> int:
        return len(self.gpus)

    def nvmlDeviceGetHandleByIndex(self, index: int) -> FakeGpu:
        return self.gpus[index]

    def nvmlDeviceGetPciInfo(self, handle: FakeGpu) -> SimpleNamespace:
        return SimpleNamespace(busId=handle.bus.encode())

    def nvmlSystemGetDriverVersion(self) -> bytes:
        return b"580.82.07"

    def nvmlSystemGetCudaDriverVersion_v2(self) -> int:
        return 13020

    def nvmlDeviceGetCudaComputeCapability(self, handle: FakeGpu) -> tuple[int, int]:
        self._ask(handle, "capability")
        assert handle in self.gpus
        return 8, 6

    def nvmlDeviceGetGpuInstanceId(self, handle: FakeGpu) -> int:
        return handle.instance[0]

    def nvmlDeviceGetComputeInstanceId(self, handle: FakeGpu) -> int:
        return handle.instance[1]

    def nvmlDeviceGetHandleByUUID(self, uuid: str) -> FakeGpu:
        for handle in [*self.gpus, *self._instances()]:
            if handle.uuid == uuid:
                return handle
        raise DriverError("not found")

    def nvmlDeviceGetMigMode(self, handle: FakeGpu) -> list[int]:
        self._ask(handle, "mig")
        return [int(handle.mig is not None), 1]

    def nvmlDeviceGetMaxMigDeviceCount(self, handle: FakeGpu) -> int:
        return len(handle.mig or ())

    def nvmlDeviceGetMigDeviceHandleByIndex(self, handle: FakeGpu, place: int) -> FakeGpu:
        instance = (handle.mig or ())[place]
        if instance is None:
            raise DriverError("not found")
        return instance

    def nvmlDeviceGetDeviceHandleFromMigDeviceHandle(self, handle: FakeGpu) -> FakeGpu:
        for board in self.gpus:
            if handle in (board.mig or ()):
                return board
        raise DriverError("Invalid Argument")

    def _instances(self) -> list[FakeGpu]:
        return [instance for handle in self.gpus for instance in handle.mig or () if instance is not None]

    def nvmlDeviceGetUUID(self, handle: FakeGpu) -> bytes:
        return handle.uuid.encode()

    def nvmlDeviceGetName(self, handle: FakeGpu) -> str:
        if self.lost is not None and handle in self.gpus[self.lost :]:
            raise DriverError("GPU is lost")
        return handle.title

    def nvmlDeviceGetMemoryInfo(self, handle: FakeGpu) -> SimpleNamespace:
        self._ask(handle, "memory")
        return SimpleNamespace(total=handle.total, used=handle.total - handle.free, free=handle.free)

    def nvmlDeviceGetUtilizationRates(self, handle: FakeGpu) -> SimpleNamespace:
        self._ask(handle, "utilization")
        return SimpleNamespace(gpu=37)

    def nvmlDeviceGetTemperature(self, handle: FakeGpu, sensor: int) -> int:
        assert handle in self.gpus
        self._ask(handle, "temperature")
        return 55

    def nvmlDeviceGetComputeRunningProcesses(self, handle: FakeGpu) -> list[SimpleNamespace]:
        self._ask(handle, "processes")
        return [SimpleNamespace(pid=pid, usedGpuMemory=used) for pid, used in handle.processes]

    def _ask(self, handle: FakeGpu, question: str) -> None:
        if question in handle.silent:
            raise DriverError("Not Supported")


TWO = [FakeGpu("GPU-aaa1", "Small", 300), FakeGpu("GPU-bbb2", "Large", 700)]


@pytest.fixture
def use(monkeypatch):
    """Puts a driver in pynvml's place, and sets CUDA_VISIBLE_DEVICES if one is given."""

    def put(driver: FakeNvml, named: str | None = None) -> FakeNvml:
        for module in (gpu, nvml, visible):
            monkeypatch.setattr(module, "pynvml", driver)
        monkeypatch.setenv("CUDA_DEVICE_ORDER", "PCI_BUS_ID")
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
        if named is not None:
            monkeypatch.setenv("CUDA_VISIBLE_DEVICES", named)
        return driver

    return put


def test_two_gpus_are_read_and_the_driver_is_closed(use):
    driver = use(FakeNvml(TWO))
    small, large = gpu.read_gpus()
    assert (small.index, small.title, small.uuid) == (0, "Small", "GPU-aaa1")
    assert (large.index, large.total_bytes, large.used_bytes, large.free_bytes) == (1, 1000, 300, 700)
    assert (large.utilization_percent, large.temperature_c) == (37, 55)
    assert driver.open == 0


def test_other_processes_are_those_that_are_not_this_one(use):
    use(FakeNvml([FakeGpu("GPU-a", "A", 1, [(os.getpid(), 400), (1, 30), (2, 50)])]))
    assert gpu.read_gpus()[0].others_bytes == 80


def test_a_process_without_a_number_makes_the_sum_unknown(use):
    use(FakeNvml([FakeGpu("GPU-a", "A", 1, [(1, 30), (2, None)])]))
    assert gpu.read_gpus()[0].others_bytes is None


@pytest.mark.parametrize(
    ("named", "titles"),
    [
        ("1,0", ["Large", "Small"]),
        ("1", ["Large"]),
        ("GPU-bbb,GPU-aaa1", ["Large", "Small"]),
        ("GPU-", []),  # fits both: no GPU
        ("1,-1,0", ["Large"]),
        ("0,7", ["Small"]),
        ("", []),
    ],
)
def test_order_is_that_of_cuda_visible_devices(use, named, titles):
    use(FakeNvml(TWO), named)
    readings = gpu.read_gpus()
    assert [reading.title for reading in readings] == titles
    assert [reading.index for reading in readings] == list(range(len(titles)))


ON_BUSES = [
    FakeGpu("GPU-slow", "Slow", 1, bus="00000000:81:00.0"),
    FakeGpu("GPU-fast", "Fast", 1, bus="00000000:C1:00.0"),
    FakeGpu("GPU-mid", "Middle", 1, bus="00000000:21:00.0"),
]


@pytest.mark.parametrize(
    ("named", "titles"),
    [
        (None, ["Middle", "Slow", "Fast"]),
        ("2,0", ["Fast", "Middle"]),
        ("GPU-slow,2", ["Slow", "Fast"]),
    ],
)
def test_numbers_follow_the_pci_bus_and_not_the_drivers_own_order(use, named, titles):
    use(FakeNvml(ON_BUSES), named)
    assert [reading.title for reading in gpu.read_gpus()] == titles


@pytest.mark.parametrize("uuids", [("fast", "slow"), ("FAST", "slow", "gone")])
def test_under_an_order_of_the_users_own_torch_tells_which_card_has_which_number(use, monkeypatch, uuids):
    use(FakeNvml(ON_BUSES), "0,2")
    monkeypatch.setenv("CUDA_DEVICE_ORDER", "FASTEST_FIRST")
    queried = []
    monkeypatch.setattr(visible, "query_torch_uuids", lambda named: queried.append(named) or uuids)
    readings = gpu.read_gpus()
    assert [(reading.index, reading.title) for reading in readings] == [(0, "Fast"), (1, "Slow")]
    assert queried == ["0,2"]
    assert gpu.own_bytes(2) is None


def test_where_torch_sees_no_gpu_the_numbers_are_those_of_the_bus(use, monkeypatch):
    use(FakeNvml(ON_BUSES))
    monkeypatch.setenv("CUDA_DEVICE_ORDER", "FASTEST_FIRST")
    monkeypatch.setattr(visible, "query_torch_uuids", lambda named: ())
    assert [reading.title for reading in gpu.read_gpus()] == ["Middle", "Slow", "Fast"]


def test_a_mig_instance_is_told_by_torch_without_the_kind_of_its_uuid(use, monkeypatch):
    use(FakeNvml([TWO[0], FakeGpu("GPU-ccc3", "H100", 1, mig=SLICES)]))
    monkeypatch.setenv("CUDA_DEVICE_ORDER", "FASTEST_FIRST")
    monkeypatch.setattr(visible, "query_torch_uuids", lambda named: ("b",))
    assert [reading.title for reading in gpu.read_gpus()] == ["H100 MIG 3g"]


NOT_OF_MIG = frozenset({"utilization"})
SLICES: list[FakeGpu | None] = [
    FakeGpu("MIG-a", "H100 MIG 1g", 90, total=100, silent=NOT_OF_MIG, instance=(7, 0)),
    None,
    FakeGpu("MIG-b", "H100 MIG 3g", 150, [(7, 20)], total=300, silent=NOT_OF_MIG, instance=(2, 0)),
]


@pytest.mark.parametrize(
    ("named", "titles"),
    [
        (None, ["H100 MIG 1g", "H100 MIG 3g"]),  # the GPU beside them is not shown by CUDA either
        ("MIG-b,MIG-a", ["H100 MIG 3g", "H100 MIG 1g"]),
        ("MIG-b", ["H100 MIG 3g"]),
        ("MIG-GPU-ccc3/2/0", ["H100 MIG 3g"]),  # its name under drivers before 470
        ("MIG-GPU-ccc3/9/0", []),
        ("MIG-GPU-ddd/2/0", []),
        ("MIG-b,GPU-aaa1", ["H100 MIG 3g"]),
        ("MIG-b,MIG-x,MIG-a", ["H100 MIG 3g"]),
        ("1,0", ["H100 MIG 1g", "Small"]),  # of a GPU in MIG mode, the first instance
        ("GPU-ccc", ["H100 MIG 1g"]),
    ],
)
def test_instances_of_a_gpu_in_mig_mode_are_listed(use, named, titles):
    use(FakeNvml([TWO[0], FakeGpu("GPU-ccc3", "H100", 1, mig=SLICES)]), named)
    assert [reading.title for reading in gpu.read_gpus()] == titles


def test_a_mig_instance_has_its_own_memory_and_its_gpus_temperature_but_no_utilization(use):
    use(FakeNvml([FakeGpu("GPU-ccc3", "H100", 1, mig=SLICES)]), "MIG-b")
    (reading,) = gpu.read_gpus()
    assert (reading.uuid, reading.total_bytes, reading.free_bytes) == ("MIG-b", 300, 150)
    assert (reading.others_bytes, reading.utilization_percent, reading.temperature_c) == (20, None, 55)


def test_a_gpu_in_mig_mode_without_instances_cannot_be_used(use):
    use(FakeNvml([FakeGpu("GPU-ccc3", "H100", 1, mig=[None]), TWO[0]]), "0,1")
    assert gpu.read_gpus() == ()


def test_the_bytes_of_this_process_are_the_drivers_or_unknown(use):
    processes = [(os.getpid(), 400), (1, 30)]
    use(FakeNvml([TWO[0], FakeGpu("GPU-b", "B", 1, processes)]), "GPU-b")
    assert gpu.own_bytes(0) == 400
    assert gpu.own_bytes(1) is None
    use(FakeNvml([FakeGpu("GPU-b", "B", 1, [(1, 30)])]))
    assert gpu.own_bytes(0) is None
    use(FakeNvml(TWO, driver=False))
    assert gpu.own_bytes(0) is None


def test_hidden_gpus_are_read_when_asked_for(use):
    use(FakeNvml(TWO), "")
    assert len(gpu.read_gpus(hidden_too=True)) == 2


def test_a_driver_lost_half_way_gives_what_was_read_before(use):
    driver = use(FakeNvml(TWO, lost=1))
    assert [reading.title for reading in gpu.read_gpus()] == ["Small"]
    assert driver.open == 0


def test_what_the_driver_does_not_say_is_none(use):
    silent = frozenset({"memory", "utilization", "temperature", "processes", "capability"})
    use(FakeNvml([FakeGpu("GPU-a", "A", 1, silent=silent)]))
    (reading,) = gpu.read_gpus()
    assert reading.title == "A"
    assert (reading.total_bytes, reading.free_bytes, reading.others_bytes) == (None, None, None)
    assert (reading.utilization_percent, reading.temperature_c, reading.capability) == (None, None, None)


def test_no_driver_gives_no_gpu(use):
    use(FakeNvml(TWO, driver=False))
    assert gpu.read_gpus() == ()
    assert gpu.read_driver() == gpu.Driver(None, None)


def test_the_driver_says_which_cuda_it_serves_and_each_card_its_capability(use):
    use(FakeNvml([TWO[0], FakeGpu("GPU-ccc3", "H100", 1, mig=SLICES)]), "0,1")
    assert gpu.read_driver() == gpu.Driver("580.82.07", (13, 2))
    assert [reading.capability for reading in gpu.read_gpus()] == [(8, 6), (8, 6)]


@pytest.fixture
def machine(monkeypatch):
    """A machine with 1000 bytes, 800 of them free."""
    memory = SimpleNamespace(total=1000, available=800)
    monkeypatch.setattr(host.psutil, "virtual_memory", lambda: memory)


def write(folder, **files):
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name.replace("__", ".")).write_text(text)


def test_without_control_groups_the_machine_counts(machine, tmp_path):
    assert host.read_memory(tmp_path, tmp_path / "none") == host.HostMemory(1000, 800)


def test_the_tightest_limit_of_version_2_counts(machine, tmp_path):
    (tmp_path / "own").write_text("0::/box/job\n")
    write(
        tmp_path / "box",
        memory__max="500\n",
        memory__current="450\n",
        memory__stat="anon 1\ninactive_file 70\n",
    )
    write(tmp_path / "box" / "job", memory__max="max\n", memory__current="10\n")
    assert host.read_memory(tmp_path, tmp_path / "own") == host.HostMemory(500, 120)


def test_a_limit_of_version_1_counts_and_a_huge_one_does_not(machine, tmp_path):
    (tmp_path / "own").write_text("4:cpu,memory:/job\n2:cpu:/\n0::/\n")
    write(tmp_path / "memory", memory__limit_in_bytes=str(2**63), memory__usage_in_bytes="5")
    write(tmp_path / "memory" / "job", memory__limit_in_bytes="600", memory__usage_in_bytes="100")
    assert host.read_memory(tmp_path, tmp_path / "own") == host.HostMemory(600, 500)
