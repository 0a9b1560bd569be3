"""Which device a run computes on, on machines that are not this one."""

import os
from types import SimpleNamespace

import pytest
import torch

from vanishing.errors import UserError
from vanishing.training import devices

CPU = torch.device("cpu")
APPLE = "an Apple GPU has neither CUDA nor the double precision that sums are taken in"
KERNELS = ["sm_75", "sm_86", "sm_90a", "sm_103", "compute_120"]


@pytest.fixture(autouse=True)
def anew():
    """Forget what has been said."""
    devices._say_once.cache_clear()


@pytest.fixture
def machine(monkeypatch):
    """Return a function that puts GPUs into this machine, as PyTorch sees them."""
    torch.use_deterministic_algorithms(True)  # this imports modules that look at the machine too

    def put(mps=False, cuda=False, hip=None, capability=(9, 0), kernels=KERNELS):
        monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)
        monkeypatch.setattr(torch.version, "hip", hip)
        for name, answer in (
            ("is_available", cuda),
            ("get_device_capability", capability),
            ("get_arch_list", kernels),
            ("get_device_name", "GPU 1080"),
        ):
            monkeypatch.setattr(torch.cuda, name, lambda answer=answer: answer)

    return put


UNUSABLE = {
    "Apple's": ({"mps": True}, APPLE),
    "AMD's": (
        {"cuda": True, "hip": "7.1"},
        f"PyTorch {torch.__version__} is built for AMD GPUs (ROCm), on which nothing here has been tested",
    ),
    "too old": (
        {"cuda": True, "capability": (6, 1)},
        f"PyTorch {torch.__version__} has kernels for {', '.join(KERNELS)}, and none for GPU 1080, "
        "of compute capability 6.1",
    ),
}


@pytest.mark.parametrize(("gpu", "reason"), UNUSABLE.values(), ids=list(UNUSABLE))
def test_a_gpu_that_cannot_be_used_is_refused_by_name_or_left_alone_after_a_line(tiny, machine, capsys, gpu, reason):
    machine(**gpu)
    with pytest.raises(UserError) as caught:
        devices.configure(tiny(train={"device": "cuda"}).train)
    assert str(caught.value) == f"train.device = 'cuda': {reason}; allowed here: auto, cpu"
    for _ in range(2):
        assert devices.configure(tiny(train={"device": "auto"}).train) == CPU
    assert capsys.readouterr().err == f"train.device = 'auto': {reason}; computing on the CPU\n"


@pytest.mark.parametrize("gpu", [{}, {"hip": "7.1"}], ids=["nothing", "PyTorch for AMD and no GPU"])
def test_a_machine_without_a_gpu_trains_on_the_cpu_without_a_word(tiny, machine, capsys, gpu):
    machine(**gpu)
    assert devices.configure(tiny(train={"device": "auto"}).train) == CPU
    assert capsys.readouterr().err == ""


def test_whoever_asks_for_the_cpu_gets_it_without_a_word(tiny, machine, capsys):
    machine(mps=True)
    assert devices.configure(tiny(train={"device": "cpu"}).train) == CPU
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("device", ["auto", "cuda"])
def test_a_gpu_that_pytorch_has_kernels_for_is_used(tiny, machine, capsys, device):
    machine(cuda=True)
    assert devices.configure(tiny(train={"device": device}).train) == torch.device("cuda")
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("capability", "runs"),
    [
        ((7, 0), False),  # older than all
        ((7, 5), True),
        ((8, 0), False),  # sm_86 needs minor version 6
        ((8, 9), True),
        ((10, 0), False),
        ((10, 3), True),
        ((11, 0), False),  # a major version without a binary, older than the PTX
        ((12, 1), True),
        ((13, 0), True),  # PTX is compiled for what is newer
    ],
)
def test_binaries_run_within_their_major_version_and_ptx_on_what_is_newer(machine, capability, runs):
    machine(cuda=True, capability=capability)
    assert (devices.cuda_obstacle() == "") is runs


@pytest.mark.parametrize("kernels", [[], ["next_generation"]], ids=["none", "unknown"])
def test_where_pytorch_does_not_say_what_it_has_kernels_for_cuda_is_tried(machine, kernels):
    machine(cuda=True, kernels=kernels)
    assert devices.cuda_obstacle() == ""


def test_a_system_without_glibc_has_no_malloc_to_set(tiny, monkeypatch):
    monkeypatch.setattr(devices, "ctypes", SimpleNamespace(CDLL=lambda _: object()))
    assert devices.configure(tiny().train) == CPU


def test_measuring_is_in_single_precision_whatever_the_run_trains_in(tiny):
    train = tiny(train={"precision": "tf32"}).train
    for measuring in (False, True):
        devices.configure(train, measuring)
        assert torch.backends.cudnn.allow_tf32 is not measuring
        assert torch.backends.cuda.matmul.allow_tf32 is not measuring


@pytest.mark.parametrize("precision", ["fp32", "tf32"])
def test_configuring_puts_in_force_what_is_described(tiny, precision):
    train = tiny(train={"precision": precision, "threads": 2}).train
    devices.configure(train)
    assert devices.numerics(train) == {
        "threads": torch.get_num_threads(),
        "deterministic_algorithms": torch.are_deterministic_algorithms_enabled(),
        "cudnn_benchmark": torch.backends.cudnn.benchmark,
        "cudnn_allow_tf32": torch.backends.cudnn.allow_tf32,
        "matmul_allow_tf32": torch.backends.cuda.matmul.allow_tf32,
        "CUBLAS_WORKSPACE_CONFIG": os.environ["CUBLAS_WORKSPACE_CONFIG"],
    }
    assert devices.numerics(train)["matmul_allow_tf32"] is (precision == "tf32")


LACKS = {
    "Triton": "the package triton is not installed",
    "a compiler": "gcc or clang, which Triton needs, is not installed",
    "headers": "Python.h, which Triton needs (Debian: python3-dev), is not installed",
    "bf16": "GPU 1080 has compute capability 7.5, and 8.0 is needed",
}


@pytest.mark.parametrize(("lacks", "missing"), LACKS.items(), ids=LACKS)
def test_without_what_fused_kernels_need_they_are_a_mistake_of_the_user(
    tiny, machine, monkeypatch, tmp_path, lacks, missing
):
    machine(cuda=True, capability=(7, 5) if lacks == "bf16" else (9, 0))
    monkeypatch.delenv("CC", raising=False)
    (tmp_path / "Python.h").touch()
    monkeypatch.setattr(devices.importlib.util, "find_spec", lambda name: None if lacks == "Triton" else name)
    monkeypatch.setattr(devices.shutil, "which", lambda name: None if lacks == "a compiler" else f"/bin/{name}")
    monkeypatch.setattr(
        devices.sysconfig, "get_path", lambda name: tmp_path / "elsewhere" if lacks == "headers" else tmp_path
    )
    with pytest.raises(UserError) as caught:
        devices.configure(tiny(train={"kernels": "fused", "device": "auto"}).train)
    assert str(caught.value) == f"train.kernels = 'fused': {missing}; allowed here: pytorch"
    assert devices.configure(tiny(train={"device": "auto"}).train).type == "cuda"
