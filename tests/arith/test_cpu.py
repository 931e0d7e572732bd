import re
import subprocess

import numpy as np
import pytest

from veilsum.arith import _native, cpu, sha512, x25519
from veilsum.errors import ConfigError

NEWER = re.compile(
    r"v(?!er[rw])\w+|mulx|rorx|sarx|shlx|shrx|pdep|pext|bzhi|ad[co]x|t(?:ile|dp)\w+|\w+tilecfg"
)
"""VEX, EVEX, BMI2, ADX, AMX."""
OWN = re.compile(r"veilsum::\w+::(avx2|avx512|ifma|amx)::")


def test_paths_end_with_portable_and_each_needs_the_ones_after_it():
    assert cpu.paths()[-1] == "portable"
    everywhere = _native.cpu_paths(here=False)
    assert tuple(everywhere[-len(cpu.paths()) :]) == cpu.paths()


def test_every_family_has_a_portable_path_and_lists_the_best_first():
    order = _native.cpu_paths(here=False)
    assert set(cpu.families()) >= {"ring", "sha512", "x25519"}
    for built in cpu.families().values():
        assert built[-1] == "portable"
        assert sorted(built, key=order.index) == list(built)


def test_best_is_the_first_usable_path_and_respects_the_cap():
    for family in cpu.families():
        assert cpu.best(family) == cpu.usable(family)[0]
        assert cpu.best(family, cap="portable") == "portable"
        for cap in cpu.paths():
            order = _native.cpu_paths(here=False)
            assert order.index(cpu.best(family, cap)) >= order.index(cap)


def test_an_unknown_cap_names_the_choices():
    with pytest.raises(ConfigError, match="sse9") as caught:
        cpu.best("x25519", cap="sse9")
    assert "portable" in caught.value.remedy


def test_the_features_explain_the_paths():
    features = {name for name, present in _native.cpu_features().items() if present}
    assert ("avx2" in cpu.paths()) == ({"avx2", "bmi2"} <= features)
    wide = {"avx512f", "avx512dq", "avx512bw", "avx512vl"}
    assert ("avx512" in cpu.paths()) == ({"avx2", "bmi2"} | wide <= features)
    assert ("ifma" in cpu.paths()) == ("avx512" in cpu.paths() and "avx512ifma" in features)
    # the operating system may still say no to tiles
    assert "amx" not in cpu.paths() or ("ifma" in cpu.paths() and {"amx-tile", "amx-int8"} <= features)


def test_describe_names_the_path_of_every_family():
    assert f"x25519 by {cpu.best('x25519')}" in cpu.describe()
    assert "x25519 by portable" in cpu.describe(cap="portable")


@pytest.mark.parametrize("path", ["", "IFMA", "avx2", "nonsense"])
def test_a_path_the_family_does_not_have_is_refused(path):
    points = np.ones((1, 32), np.uint8)
    with pytest.raises(ValueError, match="path"):
        _native.x25519_mul(path, bytes(32), points, points.copy())
    with pytest.raises(ValueError, match="path"):
        x25519.map_to_curve(np.ones((1, 48), np.uint8), path=path or "x")
    with pytest.raises(ValueError, match="path"):
        sha512.digest(b"", np.zeros(1, np.int64), path=path or "x")


@pytest.mark.needs("objdump")
def test_newer_instructions_stand_only_in_the_kernels_of_their_own_namespace():
    # A weak symbol would break this, too: had an instruction-set file emitted its copy of a std:: template,
    # the linker could take that copy for everybody, and an older processor would meet its instructions.
    if not any({"avx2", "avx512", "ifma", "amx"} & set(built) for built in cpu.families().values()):
        pytest.skip("this build has portable kernels only")
    command = ["objdump", "--disassemble", "--demangle", "--no-show-raw-insn", _native.__file__]
    text = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    own, foreign, function = set(), set(), ""
    for line in text.splitlines():
        if line.endswith(">:"):
            function = line.partition("<")[2][:-2]
        elif line.startswith(" ") and "\t" in line and NEWER.fullmatch(line.split("\t")[1].split()[0]):
            (own if OWN.match(function) else foreign).add(function)
    assert not foreign
    assert any("x25519::ifma" in name for name in own)
    assert any("sha512::avx512" in name for name in own)
    for path in ("avx2", "avx512", "amx"):
        assert any(f"ring::{path}" in name for name in own)
