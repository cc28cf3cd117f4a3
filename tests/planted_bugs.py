"""Bugs in the synchronisation and the bounds of the emulated kernels, which test_planted_bugs.py plants."""

# The call that must show each bug: one op on sizes of several tiles, compared with the CPU backend.
PROBES = {
    "matmul": """
x, w = normal(300, 136), normal(264, 136)
compare(emulated.matmul_forward(x, w, dtype=DTYPE)["out"], cpu.matmul_forward(x, w, dtype=DTYPE)["out"])""",
    "gelu": """
x = normal(7, 11)
compare(emulated.gelu_forward(x, dtype=DTYPE), cpu.gelu_forward(x, dtype=DTYPE))""",
    "classifier": """
x, t = normal(5, 3000), np.arange(5, dtype=np.int32)
compare(*(b.classifier(x, t, vocab_size=3000, dloss=1.0, dtype=DTYPE)["logits"] for b in (emulated, cpu)))""",
    "column_sums": """
x = normal(200, 40)
compare(*(b.matmul_backward(x, dbias=np.zeros(40, np.float32), dtype=DTYPE)["dbias"] for b in (emulated, cpu)))""",
    "weight gradient": """
dout, x, held = normal(2000, 264), normal(2000, 136), normal(264, 136)
for overwrite in (True, False):
    results = [b.matmul_backward(dout, inp=x, dweight=held, dbias=np.zeros(264, np.float32), dtype=DTYPE,
                                 overwrite_dweight=overwrite) for b in (emulated, cpu)]
compare(*(np.append(r["dweight"], r["dbias"]) for r in results))""",
    "embedding": """
d, t = normal(2, 1500, 8), rng.integers(0, 300, (2, 1500)).astype(np.int32)
zeros = np.zeros((300, 8), np.float32), np.zeros((1500, 8), np.float32)
compare(*(b.embedding_backward(d, t, *zeros, dtype=DTYPE)["dwte"] for b in (emulated, cpu)))""",
    "wgmma": """
emulated.choose_matmul_kernel("wgmma")
x, w = normal(300, 520), normal(600, 520)
compare(emulated.matmul_forward(x, w, dtype=DTYPE)["out"], cpu.matmul_forward(x, w, dtype=DTYPE)["out"])""",
    "wgmma, gradients": """
emulated.choose_matmul_kernel("wgmma")
dout, x, w = normal(2000, 264), normal(2000, 136), normal(264, 136)
results = [b.matmul_backward(dout, inp=x, weight=w, dweight=np.zeros((264, 136), np.float32),
                             dbias=np.zeros(264, np.float32), dtype=DTYPE) for b in (emulated, cpu)]
compare(*(np.concatenate([r[k].ravel() for k in ("dinp", "dweight", "dbias")]) for r in results))""",
    "attention": """
x = normal(1, 300, 3 * 64)
compare(*(b.attention_forward(x, num_heads=1, logit_scale=0.1, dtype=DTYPE)["out"] for b in (emulated, cpu)))""",
    "attention on wgmma": """
emulated.choose_matmul_kernel("auto")
x = normal(1, 600, 3 * 64)
compare(*(b.attention_forward(x, num_heads=1, logit_scale=0.1, dtype=DTYPE)["out"] for b in (emulated, cpu)))""",
    "attention backward": """
# 24 heads on 9 multiprocessors: 13 use the memory of another one's dq.
qkv, dout = normal(1, 300, 3 * 24 * 32), normal(1, 300, 24 * 32)
forward = cpu.attention_forward(qkv, num_heads=24, logit_scale=0.2, dtype=DTYPE)
compare(*(b.attention_backward(dout, forward["out"], forward["lse"], qkv, logit_scale=0.2, dtype=DTYPE)
          for b in (emulated, cpu)))""",
    "attention backward on wgmma": """
emulated.choose_matmul_kernel("auto")
qkv, dout = normal(1, 330, 3 * 64), normal(1, 330, 64)
forward = cpu.attention_forward(qkv, num_heads=1, logit_scale=0.2, dtype=DTYPE)
compare(*(b.attention_backward(dout, forward["out"], forward["lse"], qkv, logit_scale=0.2, dtype=DTYPE)
          for b in (emulated, cpu)))""",
    "layernorm": """
x, w = normal(64, 300), normal(300)
compare(*(b.layernorm_forward(x, w, w, dtype=DTYPE)["out"] for b in (emulated, cpu)))""",
}
PROBES["wgmma, short bursts, shuffled"] = """
emulated.choose_matmul_kernel("wgmma")
x, w = normal(1100, 64), normal(1040, 64)
compare(emulated.matmul_forward(x, w, dtype=DTYPE)["out"], cpu.matmul_forward(x, w, dtype=DTYPE)["out"])"""
PREAMBLE = """
import sys
sys.path[:0] = ["python", "tests"]
import numpy as np
from measures import relative_error
import llmc
cpu, emulated = llmc.backend("cpu"), llmc.backend("emulated")
emulated.choose_matmul_kernel("mma")
rng = np.random.default_rng(0)
normal = lambda *shape: rng.standard_normal(shape).astype(np.float32)
def compare(a, b):
    error = relative_error(a, b)
    print("same result" if error < 1e-2 else f"wrong result: {error}")
"""

# For the probes: blocks at the same time; the weight gradient is divided, with wgmma among four clusters of two.
EMULATOR = "workers=2 multiprocessors=9"

# name: (kind of build, file, old text, new text, what to run, element type, what must be reported)
BUGS = {
    "missing barrier": (
        "tsan", "llmc/cuda/matmul/fp32.h", "        __syncthreads();  // also", "        // also",
        "matmul", "fp32", r"data race[^$]*matmul_fp32_kernel",
    ),
    "missing barrier before scratch is used again": (
        "tsan", "llmc/cuda/reduce.h", "    __syncthreads();  // the scratch may", "    // the scratch may",
        "classifier", "bf16", r"data race[^$]*reduce_block",
    ),
    "missing barrier in the sums of several rows": (
        "tsan", "llmc/cuda/reduce.h", "    __syncthreads();\n#pragma unroll\n    for (int k = 0; k < kCount",
        "#pragma unroll\n    for (int k = 0; k < kCount",
        "layernorm", "bf16", r"data race[^$]*block_sums",
    ),
    "sums of several rows use one scratch without a barrier": (
        "tsan", "llmc/cuda/layernorm.cu", "block_sums(rstd, s, 1);\n    if constexpr",
        "block_sums(rstd, s, 0);\n    if constexpr",
        "layernorm", "bf16", r"data race[^$]*block_sums",
    ),
    "a warp counts digits that its lanes still read": (
        "tsan", "llmc/cuda/embedding.cu", "        __syncwarp();\n        if (exists[g] && before == 0)",
        "        if (exists[g] && before == 0)",
        "embedding", "bf16", r"data race[^$]*count_digits",
    ),
    "a warp reads digits that it still counts": (
        "tsan", "llmc/cuda/embedding.cu", "__popc(lanes);\n        __syncwarp();\n    }\n    __syncthreads();",
        "__popc(lanes);\n    }\n    __syncthreads();",
        "embedding", "bf16", r"data race[^$]*count_digits",
    ),
    "digits are added before all warps have counted": (
        "tsan", "llmc/cuda/embedding.cu", "        __syncwarp();\n    }\n    __syncthreads();",
        "        __syncwarp();\n    }",
        "embedding", "bf16", r"data race[^$]*(count_digits|scatter)_kernel",
    ),
    "positions are scattered before all starts are known": (
        "tsan", "llmc/cuda/embedding.cu", "        start += count;\n    }\n    __syncthreads();",
        "        start += count;\n    }",
        "embedding", "bf16", r"data race[^$]*scatter_kernel",
    ),
    "missing cp.async wait": (
        "emu", "llmc/cuda/matmul/bf16.h",
        "            cp_async_wait<kStages - 2>();\n            __syncthreads();\n            slot",
        "            __syncthreads();\n            slot",
        "matmul", "bf16", "wrong result: nan",
    ),
    "missing cp.async wait at the end": (
        "emu", "llmc/cuda/matmul/bf16.h", "    cp_async_wait<0>();\n}", "}",
        "matmul", "bf16", "thread ends with cp.async in flight",
    ),
    "stage released early": (
        "emu", "llmc/cuda/matmul/bf16.h", "for (int i = 0; i < kStages - 1; ++i) load_stage();",
        "for (int i = 0; i < kStages; ++i) load_stage();",
        "matmul", "bf16", "wrong result: nan",
    ),
    "stage released early, as ThreadSanitizer sees it": (
        "tsan", "llmc/cuda/attention/forward_bf16.h", "        __syncthreads();  // this tile", "        // this tile",
        "attention", "bf16", r"data race[^$]*attention_forward_bf16_kernel",
    ),
    "off-by-one store": (
        "asan", "llmc/cuda/gelu.cu", "    store_upto(out + i, x, count, aligned);",
        "    store_upto(out + i, x, count + 1, aligned);",
        "gelu", "fp32", r"AddressSanitizer: heap-buffer-overflow[^$]*gelu_forward_kernel",
    ),
    "a row too many in an epilogue": (
        "emu", "llmc/cuda/matmul/fragments.h", "const bool below = row + 8 * r < M;",
        "const bool below = row + 8 * r <= M;",
        "matmul", "bf16", r"store8 (of an address that is not in memory|reaches beyond)",
    ),
    "shared memory too small": (
        "emu", "llmc/cuda/column_sums.cu", "kThreads, sizeof(SumColumnsShared)}",
        "kThreads, sizeof(SumColumnsShared) / 2}",
        "column_sums", "fp32", "shared memory is larger than its launch gave it",
    ),
    "divergent barrier": (
        "emu", "llmc/cuda/reduce.h", "    if (lane_id() == 0) scratch.of_warp[warp_id()] = x;\n    __syncthreads();",
        "    if (lane_id() == 0) {\n        scratch.of_warp[warp_id()] = x;\n        __syncthreads();\n    } else {\n"
        "        __syncthreads();\n    }",
        "classifier", "bf16", r"threads meet at different barriers[^$]*reduce\.h",
    ),
    "barrier that some never reach": (
        "emu", "llmc/cuda/reduce.h", "    __syncthreads();  // the scratch may",
        "    if (warp_id() == 0) __syncthreads();  // the scratch may",
        "classifier", "bf16", "threads meet at different barriers|deadlock",
    ),
    "shuffle in half a warp": (
        "emu", "llmc/cuda/reduce.h", "    for (; lanes > 0; lanes /= 2) v[0]",
        "    for (; lanes > 0 && lane_id() < 16; lanes /= 2) v[0]",
        "layernorm", "bf16", "threads meet at different barriers|which takes no part|deadlock",
    ),
    "two blocks write one place": (
        "tsan", "llmc/cuda/column_sums.cu", "parts[int64_t(blockIdx.y) * C + first + c] = total;",
        "parts[first + c] = total;",
        "column_sums", "fp32", r"data race[^$]*sum_columns_kernel",
    ),
    "stage released before wgmma has read it": (
        "tsan", "tests/cuda/conformance.cu",
        "wgmma_wait<0>();\n            if (t % 128 < kCluster) mbarrier_arrive_at(&s.empty[slot], t % 128);",
        "if (t % 128 < kCluster) mbarrier_arrive_at(&s.empty[slot], t % 128);\n            wgmma_wait<0>();",
        "conformance", "bf16", r"data race[^$]*hopper_kernel",
    ),
    "bytes of a bulk copy miscounted": (
        "emu", "tests/cuda/conformance.cu", "mbarrier_arrive_expect(&s.full[slot], (kM + kN) * kK * 2);",
        "mbarrier_arrive_expect(&s.full[slot], kM * kK * 2);",
        "conformance", "bf16", r"deadlock[^$]*mbarrier|FAILED|more arrivals",
    ),
    "stage of the ring read before its copy is complete": (
        "emu", "llmc/cuda/matmul/pipeline.h", "{ gpu::mbarrier_wait(&full[at.slot], at.parity); }", "{}",
        "wgmma", "bf16", "wrong result: nan|deadlock",
    ),
    "stage of the ring released before wgmma has read it": (
        "tsan", "llmc/cuda/matmul/wgmma.h", "        wgmma_wait<0>();\n        release(s);",
        "        release(s);\n        wgmma_wait<0>();",
        "wgmma", "bf16", r"data race[^$]*matmul_wgmma_kernel",
    ),
    "stage of the ring released one product early": (
        "tsan", "llmc/cuda/matmul/wgmma.h", "            wgmma_wait<1>();", "            wgmma_wait<2>();",
        "wgmma", "bf16", r"data race[^$]*matmul_wgmma_kernel",
    ),
    "wrong parity of the ring": (
        "emu", "llmc/cuda/matmul/pipeline.h", "at.parity ^ 1);  // a new", "at.parity);  // a new",
        "wgmma", "bf16", r"deadlock[^$]*mbarrier",
    ),
    "stage released in one block of the cluster only": (
        "emu", "llmc/cuda/matmul/wgmma.h", "if (lane_id() < kCluster) s.ring.release(last, lane_id());",
        "if (lane_id() == 0) s.ring.release(last, 0);",
        "wgmma", "bf16", "more arrivals|deadlock",
    ),
    "no fence before wgmma": (
        "emu", "llmc/cuda/matmul/wgmma.h", "            wgmma_fence();\n            multiply<kSums>(0",
        "            multiply<kSums>(0",
        "wgmma", "bf16", "no wgmma_fence before the first product",
    ),
    "no fence between stores and wgmma": (
        "emu", "llmc/cuda/matmul/wgmma.h", "        fence_proxy_async();\n", "",
        "wgmma, gradients", "bf16", "no fence_proxy_async followed",
    ),
    "wrong distance in a descriptor": (
        "emu", "llmc/cuda/matmul/wgmma.h", "b(wgmma_descriptor(shared_address(s.stages[0].b), kBoxBytes, 1024))",
        "b(wgmma_descriptor(shared_address(s.stages[0].b), kBoxBytes / 2, 1024))",
        "wgmma, gradients", "bf16", "wrong result",
    ),
    "wrong step inside a swizzled tile": (
        "emu", "llmc/cuda/matmul/wgmma.h", "(kAByColumns ? 16 * 128 : 32)", "(kAByColumns ? 16 * 128 : 64)",
        "wgmma", "bf16", "wrong result",
    ),
    "first product added to the last tile's": (
        "emu", "llmc/cuda/matmul/wgmma.h", "multiply<kSums>(0, step > 0);", "multiply<kSums>(0, true);",
        "wgmma", "bf16", "wrong result",
    ),
    "burst ended by one warp for all four": (
        "emu", "llmc/cuda/matmul/wgmma.h", "mbarrier_init(&turn, kWarpgroup / kWarp);", "mbarrier_init(&turn, 1);",
        "wgmma, short bursts, shuffled", "bf16", "has missed the end of a phase|deadlock[^$]*waits for mbarrier",
    ),
    "warpgroup that adds before its turn": (
        "tsan", "llmc/cuda/matmul/wgmma.h",
        "if (threadIdx.x % kWarpgroup == 0) wait_for_value(counter, uint32_t(piece.turn));", "",
        "wgmma, gradients", "bf16", r"data race[^$]*matmul_wgmma_kernel",
    ),
    "turn of a warpgroup ended before its threads have added": (
        "tsan", "llmc/cuda/matmul/wgmma.h", "        named_barrier(barrier, kWarpgroup);\n        if", "        if",
        "wgmma, gradients", "bf16", r"data race[^$]*matmul_wgmma_kernel",
    ),
    "adding before it is the block's turn": (
        "tsan", "llmc/cuda/matmul/problem.h", "if (threadIdx.x == 0) wait_for_value(turns + (piece.tile - w.whole), "
        "uint32_t(piece.turn));", "",
        "weight gradient", "bf16", r"data race[^$]*matmul_bf16_kernel",
    ),
    "turn ended before all threads have added": (
        "tsan", "llmc/cuda/matmul/problem.h", "    __syncthreads();  // all threads have added theirs\n", "",
        "weight gradient", "fp32", r"data race[^$]*matmul_fp32_kernel",
    ),
    "turn ended without a release": (
        "tsan", "llmc/cuda/matmul/problem.h", "store_release(turns + (piece.tile - w.whole), uint32_t(next));",
        "turns[piece.tile - w.whole] = uint32_t(next);",
        "weight gradient", "bf16", r"data race[^$]*matmul_bf16_kernel",
    ),
    "turn that nobody ends": (
        "emu", "llmc/cuda/matmul/problem.h", "if (threadIdx.x == 0) store_release(",
        "if (threadIdx.x == 0 && piece.turn > 0) store_release(",
        "weight gradient", "fp32", r"deadlock[^$]*waits for wait_for_value",
    ),
    "stage of attention read before its copy is complete": (
        "tsan", "llmc/cuda/attention/forward_wgmma.h", "        s.ring.wait(at);\n", "",
        "attention on wgmma", "bf16", r"data race[^$]*attention_forward_wgmma_kernel",
    ),
    "queries read before their copy is complete": (
        "emu", "llmc/cuda/attention/forward_wgmma.h", "mbarrier_wait(&s.queries, 0);", "mbarrier_wait(&s.queries, 1);",
        "attention on wgmma", "bf16", "wrong result",
    ),
    "stage of attention released before wgmma has read it": (
        "tsan", "llmc/cuda/attention/forward_wgmma.h",
        "        wgmma_wait<0>();\n        wgmma_results(acc[0]);\n        release();",
        "        release();\n        wgmma_wait<0>();\n        wgmma_results(acc[0]);",
        "attention on wgmma", "bf16", r"data race[^$]*attention_forward_wgmma_kernel",
    ),
    "stage of attention released by one warp only": (
        "emu", "llmc/cuda/attention/forward_wgmma.h", "if (lane_id() == 0) s.ring.release(at);",
        "if (threadIdx.x % 128 == 0) s.ring.release(at);",
        "attention on wgmma", "bf16", r"deadlock[^$]*mbarrier",
    ),
    "no fence before a product of probabilities": (
        "emu", "llmc/cuda/attention/forward_wgmma.h",
        "        wgmma_fence();\n        start_scores();\n        start_values();",
        "        start_scores();\n        start_values();",
        "attention on wgmma", "bf16", "no wgmma_fence between wgmma_wait and a product whose A is in registers",
    ),
    "probabilities overwritten while they are multiplied": (
        "emu", "llmc/cuda/attention/forward_wgmma.h", "        load();\n", "        load();\n        pack();\n",
        "attention on wgmma", "bf16", "registers of A were written before a wait",
    ),
    "scores used before they are computed": (
        "emu", "llmc/cuda/attention/forward_wgmma.h", "        wgmma_wait<1>();", "        wgmma_wait<2>();",
        "attention on wgmma", "bf16", "wrong result",
    ),
    "dq added before it is the block's turn": (
        "tsan", "llmc/cuda/attention/dq_turns.h", "wait_until_above(progress + warp, tile);", "tile + 1;",
        "attention backward", "bf16", r"data race[^$]*add_dq",
    ),
    "dq read by lanes that waited for nothing": (
        "tsan", "llmc/cuda/attention/dq_turns.h", "    __syncwarp();  // what lane 0 waited for", "    // what",
        "attention backward", "bf16", r"data race[^$]*add_dq",
    ),
    "dq added without a release": (
        "tsan", "llmc/cuda/attention/dq_turns.h", "store_release(own + warp, tile);", "own[warp] = tile;",
        "attention backward", "bf16", r"data race[^$]*add_dq",
    ),
    "dq released before all lanes have added": (
        "tsan", "llmc/cuda/attention/backward_bf16.h", "    __syncwarp();  // the warp's", "    // the warp's",
        "attention backward", "bf16", r"data race[^$]*add_dq",
    ),
    "dq's memory taken from a head that still needs it": (
        "tsan", "llmc/cuda/attention/dq_turns.h", "at.tile > 0 && at.head >= slots ?", "false ?",
        "attention backward", "bf16", r"data race[^$]*add_dq",
    ),
    "dq that nobody passes on": (
        "emu", "llmc/cuda/attention/dq_turns.h", "if (lane_id() == 0) store_release(own",
        "if (lane_id() > 31) store_release(own",
        "attention backward", "bf16", r"deadlock[^$]*waits for wait_until_above",
    ),
    "dS read before all warps have written it": (
        "tsan", "llmc/cuda/attention/backward_bf16.h", "        __syncthreads();  // dS is complete", "        // dS",
        "attention backward", "bf16", r"data race[^$]*attention_backward_bf16_kernel",
    ),
    "stage of attention's backward pass read before its copy is complete": (
        "tsan", "llmc/cuda/attention/backward_wgmma.h", "        mbarrier_wait(&s.full[at.slot], at.parity);\n",
        "",
        "attention backward on wgmma", "bf16", r"data race[^$]*attention_backward_wgmma_kernel",
    ),
    "stage of attention's backward pass filled before wgmma has read it": (
        "tsan", "llmc/cuda/attention/backward_wgmma.h", "kAhead = Traits::kStages - 1;", "kAhead = Traits::kStages;",
        "attention backward on wgmma", "bf16", r"data race[^$]*attention_backward_wgmma_kernel",
    ),
    "statistics announced by one warp only": (
        "emu", "llmc/cuda/attention/backward_wgmma.h", "if (lane_id() == 0) mbarrier_arrive(&s.full[tile",
        "if (threadIdx.x == 0) mbarrier_arrive(&s.full[tile",
        "attention backward on wgmma", "bf16", r"deadlock[^$]*mbarrier",
    ),
    "dS read before it is written": (
        "tsan", "llmc/cuda/attention/backward_wgmma.h",
        "            mbarrier_wait(&s.ds_full[at.slot], at.parity);\n", "",
        "attention backward on wgmma", "bf16", r"data race[^$]*attention_backward_wgmma_kernel",
    ),
    "dS overwritten while it is multiplied": (
        "tsan", "llmc/cuda/attention/backward_wgmma.h",
        "        wait_for_ds();  // here", "        // here",
        "attention backward on wgmma", "bf16", r"data race[^$]*attention_backward_wgmma_kernel",
    ),
    "no fence between the stores of dS and wgmma": (
        "emu", "llmc/cuda/attention/backward_wgmma.h", "        fence_proxy_async();\n", "",
        "attention backward on wgmma", "bf16", "was written by ordinary stores, and no fence_proxy_async",
    ),
    "dS of keys after all queries left as it was": (
        "emu", "llmc/cuda/attention/backward_wgmma.h", "for (uint32_t& pair : fragment) pair = 0;",
        "for (uint32_t& pair : fragment) pair = 0x3f803f80u;",
        "attention backward on wgmma", "bf16", "wrong result",
    ),
    "more registers than a block starts with": (
        "emu", "llmc/cuda/attention/backward_wgmma.h", "raise_registers<Traits::kConsumerRegisters>();",
        "raise_registers<Traits::kConsumerRegisters + 8>();",
        "attention backward on wgmma", "bf16", r"deadlock[^$]*setmaxnreg",
    ),
    "dq of wgmma passed on before its additions": (
        "tsan", "llmc/cuda/attention/backward_wgmma.h", "s.turns.end(warp_id(), of_head);",
        "s.turns.end(warp_id(), of_head + 1);",
        "attention backward on wgmma", "bf16", r"data race[^$]*DqWarpgroup::add",
    ),
    "shared memory read before it is written": (
        "emu", "llmc/cuda/column_sums.cu", "    float* mine = s.of_warp[warp_id()];",
        "    float* mine = s.of_warp[warp_id() > 0 ? warp_id() : 1];",
        "column_sums", "fp32", "wrong result: nan",
    ),
}  # fmt: skip
