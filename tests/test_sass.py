"""Control flow, slow accesses, loops and paths of machine code, on short listings."""

import re
from itertools import count

import pytest
from sass_listing import listing

from llmc.bench import paths, sass, trips


def graph(text):
    return sass.Graph(sass.parse(listing(text)))


# --- Instructions, blocks, branches ---


def test_instructions_are_parsed():
    lines = listing("@!P0 LDG.E.128.CONSTANT R4, desc[UR6][R2.64+0x10]\n@UP1 UIADD3 UR4, UR4, 0x1, URZ\nEXIT")
    load, add, end = sass.parse(['\t.headerflags @"EF_CUDA_SM80"', *lines, " " * 40 + "/* 0x000fe20000000800 */"])
    assert (load.address, load.guard, load.opcode, load.width) == (0, "!P0", "LDG.E.128.CONSTANT", 16)
    assert load.is_load and load.base == (2, 16)
    assert load.registers == {2, 3, 4, 5, 6, 7} and load.written == {4, 5, 6, 7}
    assert (add.guard, add.registers) == ("UP1", frozenset())
    assert (end.opcode, end.operands) == ("EXIT", "")


@pytest.mark.parametrize(
    "instruction, width",
    [("LDG.E.U16 R0, [R2.64]", 2), ("LDG.E R0, [R2.64]", 4), ("STG.E.64 [R2.64], R0", 8), ("LD.E.U8 R0, [R2.64]", 1),
     ("LDGSTS.E.BYPASS.LTC128B.128 [R9], [R2.64]", 16), ("LDG.E.ENL2.256 R4, R8, [R2.64]", 32)],
)  # fmt: skip
def test_widths(instruction, width):
    assert sass.parse(listing(instruction))[0].width == width


@pytest.mark.parametrize(
    "instruction, flops",
    [("HMMA.16816.F32.BF16 R0, R4, R8, R0", 4096), ("HMMA.1688.F32.TF32 R0, R4, R8, R0", 2048),
     ("HGMMA.64x256x16.F32.BF16 R24, gdesc[UR8], R24, gsb0", 131072), ("FFMA R0, R1, R2, R0", 0)],
)  # fmt: skip
def test_flops_of_tensor_cores(instruction, flops):
    assert sass.parse(listing(instruction))[0].flops == flops


def test_branches_make_blocks():
    g = graph("""
        ISETP.GE.AND P0, PT, R0, c[0x0][0x160], PT
        @P0 BRA far
        BRA.U UP0, far
        @P1 EXIT
        BRA.DIV UR4, unlikely
        BSSY B0, far
        far:
        BRA P2, last
        @!PT BRA far
        last:
        EXIT
        unlikely:
        BRA far
    """)
    far, last = 0x60, 0x80
    assert g.next[0x00] == [far, 0x20]
    assert g.next[0x20] == [far, 0x30]
    assert g.next[0x30] == [sass.EXIT, 0x40] and g.next_if_working[0x30] == [0x40]
    assert g.next[0x40] == [0x50]  # threads have not gone different ways
    assert g.next[far] == [last, 0x70]
    assert g.next[last] == [sass.EXIT] == g.next_if_working[last]


def test_a_call_of_a_function_returns_and_one_of_the_kernels_code_is_a_jump():
    g = graph("""
        again:
        @P1 BRA division
        @P0 CALL.REL.NOINC done
        BRA again
        division:
        MOV R2, 0x50
        CALL.REL.NOINC slow_path
        BRA again
        done:
        EXIT
        slow_path:
        FMUL R0, R0, R1
        RET.REL.NODEC R2 0x0
    """)
    assert g.next[0x10] == [0x60, 0x20]
    assert g.next[0x30] == [0x50] and g.blocks[0x30].calls and g.blocks[0x30].slow == 1
    assert not g.blocks[0x10].slow


def test_a_jump_table_leads_to_what_nothing_else_reaches():
    g = graph("BRX R2 -0x10\none:\nMOV R0, R1\nEXIT\nMOV R0, R2\nEXIT")
    assert g.next[0] == [0x10, 0x30]


# --- Slow accesses ---

VECTOR = "".join(f"LDG.E.U16 R{10 + i}, [R2.64+{hex(2 * i)}]\n" for i in range(8))


def slow(text):
    return sum(block.slow for block in graph(text).blocks.values())


def test_elements_of_a_vector_are_slow_in_kernels_with_whole_vectors():
    assert slow(f"LDG.E.128 R4, [R2.64]\n{VECTOR}EXIT") == 8
    assert slow(f"{VECTOR}EXIT") == 0  # a kernel without vectors
    registers = count(20, 2)
    other_registers = re.sub(r"\[R2", lambda match: f"[R{next(registers)}", VECTOR)
    assert slow(f"LDG.E.128 R4, [R2.64]\n{other_registers}EXIT") == 8


def test_two_elements_are_slow_if_one_may_not_exist():
    pair = "STG.E [R2.64+0x20], R4\n{}STG.E [R2.64+0x24], R5\n"
    assert slow("STG.E.128 [R8.64], R4\n" + pair.format("@P4 ") + "EXIT") == 2
    assert slow("STG.E.128 [R8.64], R4\n" + pair.format("") + "EXIT") == 0
    assert slow("STG.E.128 [R8.64], R4\n" + pair.format("IADD3 R2, R2, 0x8, RZ\n@P4 ") + "EXIT") == 0


def test_other_narrow_accesses_are_not_slow():
    assert slow("LDG.E.128 R4, [R2.64]\nLDG.E R0, [R8.64+0x40]\nLDG.E R1, [R8.64+0x44]\nEXIT") == 0
    rows = "".join(f"LDG.E R{20 + i}, [R2.64+{hex(32 * i)}]\n" for i in range(8))
    assert slow(f"LDG.E.128 R4, [R2.64]\n{rows}EXIT") == 0


# --- Loops and paths ---


def test_dominators_and_nested_loops():
    following = {0: [1], 1: [2, 5], 2: [3], 3: [2, 4], 4: [1], 5: [sass.EXIT]}
    assert paths.dominators(following, 0) == {0: 0, 1: 0, 2: 1, 3: 2, 4: 3, 5: 1, sass.EXIT: 5}
    inner, outer = paths.loops(following, 0)
    assert (inner.header, inner.body, inner.latches) == (2, {2, 3}, {3})
    assert (outer.header, outer.body, outer.latches) == (1, {1, 2, 3, 4}, {4})


def test_the_longest_path_runs_once_through_a_loop_that_is_left_from_its_header():
    following = {0: [1], 1: [2, 3], 2: [1], 3: [sass.EXIT]}
    assert paths.best_path(following, 0, [sass.EXIT], lambda node: (1,)) == [0, 1, 2, 3]
    endless = {0: [1], 1: [0]}
    assert paths.best_path(endless, 0, [sass.EXIT], lambda node: (1,)) is None


def test_paths_compare_by_the_first_weight_first():
    following = {0: [1, 2], 1: [3], 2: [3], 3: [sass.EXIT]}
    weights = {0: (0, 1), 1: (-1, 100), 2: (0, 1), 3: (0, 1)}
    assert paths.best_path(following, 0, [sass.EXIT], weights.__getitem__) == [0, 2, 3]
    best = [weights[0], (0, 100), weights[2], weights[3]]
    assert paths.best_path(following, 0, [sass.EXIT], lambda node: best[node]) == [0, 1, 3]


COUNTED = """
    {start}
    again:
    FADD R1, R1, R2
    {step}
    {test}
    {guard} BRA again
    EXIT
"""


@pytest.mark.parametrize(
    "start, step, test, guard, expected",
    [
        ("IMAD.MOV.U32 R0, RZ, RZ, RZ", "IADD3 R0, R0, 0x20, RZ", "ISETP.GE.U32.AND P0, PT, R0, 0x40, PT", "@!P0", 2),
        ("MOV R0, 0x5", "VIADD R0, R0, 0xffffffff", "ISETP.NE.AND P3, PT, R0, RZ, PT", "@P3", 5),
        ("MOV R0, RZ", "ISETP.NE.AND P0, PT, R0, 0x7, PT", "IADD3 R0, R0, 0x1, RZ", "@P0", 8),
        ("HFMA2.MMA R0, -RZ, RZ, 0, 5.9604644775390625e-08", "VIADD R0, R0, 0x1",
         "ISETP.LT.AND P0, PT, R0, 0x4, PT", "@P0", 3),
        ("MOV R0, RZ", "IADD3 R0, PT, PT, R0, 0x20, RZ", "ISETP.GE.U32.AND P0, PT, R0, 0x60, PT", "@!P0", 3),
        ("PLOP3.LUT P1, PT, PT, PT, PT, 0x80, 0x8", "PLOP3.LUT P2, PT, P1, PT, PT, 0x80, 0x8",
         "PLOP3.LUT P1, PT, PT, PT, PT, 0x8, 0x80", "@P2", 2),
        ("MOV R0, RZ", "IADD3 R0, R0, 0x1, RZ", "ISETP.GE.AND P0, PT, R0, c[0x0][0x160], PT", "@!P0", None),
        ("LDG.E R0, [R2.64]", "IADD3 R0, R0, 0x1, RZ", "ISETP.GE.AND P0, PT, R0, 0x40, PT", "@!P0", None),
        ("@P1 MOV R0, RZ", "IADD3 R0, R0, 0x1, RZ", "ISETP.GE.AND P0, PT, R0, 0x40, PT", "@!P0", None),
    ],
)  # fmt: skip
def test_constant_trips(start, step, test, guard, expected):
    g = graph(COUNTED.format(start=start, step=step, test=test, guard=guard))
    (loop,) = paths.loops(g.next, g.entry)
    assert trips.constant_trips(g, loop) == expected
