"""What the kernel tells of the machine, read from made-up /proc and /sys."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from ovquant import environment
from ovquant.environment import MachineState, disturbances, machine_state

TICK = 1 / os.sysconf("SC_CLK_TCK")
STAT = """cpu  1000 20 300 5000 60 7 8 90 11 12
cpu0 500 10 150 2500 30 4 4 45 6 6
intr 1 2 3
"""
OWN = "4276 (odd) name (x) R 1 2 3 4 5 6 7 8 9 10 40 2 30 4 20 0 1 0 100 1000 200"
CPUINFO = "processor\t: 0\ncpu MHz\t\t: 2596.136\nflags\t\t: fpu\n\nprocessor\t: 1\ncpu MHz\t\t: 3400.5\n"


def machine(root: Path, **files: str) -> MachineState:
    """Return the state of a machine with these files; a name has `__` for `/`."""
    for name, text in files.items():
        path = root / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return machine_state(root)


def test_a_machine_that_tells_nothing_has_a_state_all_the_same(tmp_path: Path) -> None:
    assert machine_state(tmp_path) == MachineState()


def test_cpu_time_is_split_into_this_process_others_and_other_machines(tmp_path: Path) -> None:
    state = machine(tmp_path, proc__stat=STAT, proc__self__stat=OWN)
    assert state.cpu_seconds == pytest.approx((1000 + 20 + 300 + 5000 + 60 + 7 + 8 + 90) * TICK)
    assert state.others_seconds == pytest.approx((1000 + 20 + 300 + 7 + 8 - 40 - 2) * TICK)
    assert state.stolen_seconds == pytest.approx(90 * TICK)


def test_without_this_process_own_time_the_load_of_others_is_unknown(tmp_path: Path) -> None:
    state = machine(tmp_path, proc__stat=STAT)
    assert state.others_seconds is None
    assert state.stolen_seconds is not None


def test_a_stat_file_of_an_old_kernel_is_unknown(tmp_path: Path) -> None:
    assert machine(tmp_path, proc__stat="cpu 1 2 3 4\n", proc__self__stat=OWN) == MachineState()


def test_the_clock_is_that_of_the_fastest_cpu(tmp_path: Path) -> None:
    assert machine(tmp_path, proc__cpuinfo=CPUINFO).megahertz == 3400.5


def test_cpufreq_knows_the_clock_better_than_cpuinfo(tmp_path: Path) -> None:
    folder = "sys__devices__system__cpu"
    clocks = {f"{folder}__cpu{number}__cpufreq__scaling_cur_freq": text for number, text in enumerate(["800000\n", "2100000\n"])}
    assert machine(tmp_path, proc__cpuinfo=CPUINFO, **clocks).megahertz == 2100


def test_throttling_is_counted_over_all_cpus(tmp_path: Path) -> None:
    folder = "sys__devices__system__cpu"
    counts = {f"{folder}__cpu{number}__thermal_throttle__core_throttle_count": f"{number}\n" for number in (0, 3, 11)}
    assert machine(tmp_path, **counts).n_throttled == 14


def test_files_that_cannot_be_understood_are_unknown(tmp_path: Path) -> None:
    state = machine(tmp_path, sys__devices__system__cpu__cpu0__cpufreq__scaling_cur_freq="<unknown>\n")
    assert state.megahertz is None


def test_the_machine_at_hand_has_a_state() -> None:
    before, after = machine_state(), machine_state()
    if before.cpu_seconds is not None and after.cpu_seconds is not None:
        assert 0 < before.cpu_seconds <= after.cpu_seconds


# Disturbances


def state(at: float, *, others: float = 0.0, stolen: float = 0.0, megahertz: float = 3000.0, throttled: int = 0) -> MachineState:
    """Return the state of two CPUs after `at` seconds."""
    return MachineState(
        cpu_seconds=2 * at, others_seconds=others, stolen_seconds=stolen, megahertz=megahertz, n_throttled=throttled
    )


def test_a_quiet_machine_has_no_disturbances() -> None:
    assert disturbances([state(0), state(5, others=0.4, stolen=0.4), state(10, others=0.9, stolen=0.9)]) is None


@pytest.mark.parametrize("states", [[], [MachineState()], [MachineState(), MachineState()], [state(3)]])
def test_nothing_is_read_off_what_is_not_known(states: list[MachineState]) -> None:
    assert disturbances(states) is None


def test_load_is_a_share_of_all_cpus_since_the_first_state() -> None:
    assert disturbances([state(10, others=7), state(20, others=12)]) == "other processes took 25 % of the CPU time"


def test_time_taken_by_other_virtual_machines_is_told() -> None:
    assert disturbances([state(0), state(10, stolen=2)]) == "other virtual machines took 10 % of the CPU time"


def test_changes_of_the_clock_between_visits_are_told() -> None:
    states = [state(0), state(1, megahertz=2000), state(2)]
    assert disturbances(states) == "the CPU clock went from 2000 to 3000 MHz"


def test_small_changes_of_the_clock_are_not_told() -> None:
    assert disturbances([state(0), state(1, megahertz=2800)]) is None


def test_throttling_since_the_first_state_is_told() -> None:
    assert disturbances([state(0, throttled=5), state(1, throttled=8)]) == "the CPU got too hot and was slowed down 3 times"


def test_all_disturbances_are_told() -> None:
    found = disturbances([state(0), state(10, others=10, megahertz=1500, throttled=1)])
    assert found is not None
    assert found.count(", ") == 2


@pytest.mark.parametrize(
    ("flags", "device", "expected"),
    [
        ({"avx2"}, "CPU", True),
        ({"avx2", "avx512_vnni"}, "CPU", False),
        ({"avx2", "avx_vnni"}, "CPU", False),
        (None, "CPU", True),
        ({"avx2"}, "GPU.0", False),
    ],
)
def test_sums_may_saturate_on_cpus_without_vnni(monkeypatch, flags, device, expected):
    monkeypatch.setattr(environment, "cpu_flags", lambda: None if flags is None else frozenset(flags))
    assert environment.may_saturate(device) is expected
