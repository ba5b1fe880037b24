"""The profile of a step: times by kind of kernel, and gaps; rungs that measure in turn."""

import fcntl
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch
from step_kernels import NUM_STEPS, Gap, Kernel, gaps, kind_of, profiled, write_kernels

BENCH = Path(__file__).resolve().parents[2] / "tools/bench/pretrain_step.py"


def test_gaps_are_the_times_without_any_kernel() -> None:
    kernels = [Kernel("a", 0, 10), Kernel("b", 2, 4), Kernel("c", 13, 20), Kernel("d", 25, 26)]
    assert gaps(kernels) == [Gap(5, "c", "d"), Gap(3, "a", "c")]


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("void pytorch_flash::flash_bwd_kernel<cutlass::bfloat16_t>", "attention"),
        ("triton_per_fused__to_copy_add_native_layer_norm_6", "fused by the compiler"),
        ("nvjet_sm90_tst_256x128_64x4_1x2_h_bz_coopA_bias_TNT", "matrix products"),
        ("void at::native::multi_tensor_apply_kernel<FusedOptimizer>", "optimizer"),
        ("Memcpy HtoD (Pageable -> Device)", "copies"),
        ("void at::native::reduce_kernel<128, 4>", "other"),
    ],
)
def test_kernels_have_the_kind_of_their_name(name: str, kind: str) -> None:
    assert kind_of(name) == kind


def test_a_profile_has_what_each_step_calls(tmp_path: Path) -> None:
    matrix = torch.ones(64, 64)
    kernels = profiled(lambda _: (matrix @ matrix).exp(), 0, torch.device("cpu"))
    assert [k.name for k in kernels if k.name == "aten::matmul"] == ["aten::matmul"] * NUM_STEPS
    write_kernels(tmp_path / "found.txt", kernels)
    lines = (tmp_path / "found.txt").read_text().splitlines()
    assert any(line.endswith("1.0  aten::exp") for line in lines)


@pytest.mark.slow
def test_a_rung_is_measured_when_the_lock_is_free(tmp_path: Path) -> None:
    command = [sys.executable, str(BENCH), "--quick", "--rungs", "d", "--lock", f"{tmp_path}/lock"]
    with (tmp_path / "lock").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        process = subprocess.Popen(
            [*command, "--kernels", str(tmp_path)], stdout=subprocess.PIPE, text=True
        )
        assert process.stdout is not None
        limit = threading.Timer(120, process.kill)
        limit.start()
        assert "warm after" in process.stdout.readline()
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(3)
    output = process.stdout.read()
    limit.cancel()
    assert process.wait(60) == 0
    assert '"tokens_per_s": ' in output and "a  Hugging Face" not in output
    assert (tmp_path / "d.txt").read_text().strip()
