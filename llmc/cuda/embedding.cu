// Token and position embeddings.
//
// Forward: out[b,t,:] = scale (wte[token] + wpe[t]).  Bytes in bf16: 4 N C + 2 T C. A warp per position, which loads 4
// pieces of 16 bytes of both rows in each lane before it uses the first.
//
// Backward: dwte[v] += dwte_scale * sum of dout over the positions of token v. Deterministic, without atomics: a stable
// radix sort of the positions by token, then sums over runs of equal tokens. A run may be one row or most of the batch,
// so the sorted positions are divided into pieces of kPiece. The parts of a run that crosses pieces are stored in
// scratch memory, and a second kernel adds them in order.  Bytes in bf16: 2 N C read, 8 C for each distinct token, up
// to N C of parts.
//           dwpe[t] += dwpe_scale * sum over b of dout[b,t].  Bytes in bf16: 2 N C (again) + 8 T C.
// A thread has 4 channels, 8 bytes of bf16 and 16 of fp32, so that no access has sectors in part, and loads kAtOnce rows
// before it adds the first: 64 to 192 bytes.
// Bound: memory; floor bytes / copy bandwidth, about 50 us each at N = 65,536, C = 768 on an H200.
#include "llmc/cuda/scratch.h"
#include "llmc/cuda/vec.h"
#include "llmc/ops/checks.h"

namespace llmc {
namespace cuda {
namespace {

constexpr int kThreads = 256, kAtOnce = 8;

// --- Forward ---

template <int kWidth, class T>
__global__ void __launch_bounds__(kThreads)
    embedding_forward_kernel(T* out, const int32_t* tokens, const T* wte, const T* wpe, int N, int length, int C,
                             float scale) {
    launch_bounds<kThreads>();
    constexpr int kPieces = 4, kStep = kWarp * kWidth;
    const int n = int(blockIdx.x) * (kThreads / kWarp) + warp_id();
    if (n >= N) return;
    const T *token = wte + int64_t(tokens[n]) * C, *position = wpe + int64_t(n % length) * C;
    for (int first = lane_id() * kWidth; first < C; first += kPieces * kStep) {
        Packed<T, kWidth> x[kPieces], y[kPieces];
#pragma unroll
        for (int i = 0; i < kPieces; ++i) {  // those that do not exist: again what does
            const int c = first + i * kStep < C ? first + i * kStep : first;
            x[i].load(token + c);
            y[i].load(position + c);
        }
#pragma unroll
        for (int i = 0; i < kPieces; ++i) {
            float v[kWidth], w[kWidth];
            x[i].unpack(v);
            y[i].unpack(w);
#pragma unroll
            for (int k = 0; k < kWidth; ++k) v[k] = scale * (v[k] + w[k]);
            if (first + i * kStep < C) store(out + int64_t(n) * C + first + i * kStep, v);
        }
    }
}

// --- Positions sorted by token: one pass of a radix sort per 8 bits of the token, stable ---

constexpr int kSortWarps = kDigits / kWarp, kOfThread = kSortBlock / kDigits;  // positions of a thread

struct Sorted {
    int32_t *tokens, *positions;
};

struct SortShared {
    int of_warp[kSortWarps][kDigits];  // how many of each digit a warp has; then: where its first goes
    int of_digits[kSortWarps];
};

// A warp has kOfThread groups of 32 positions in a row.
GPU int64_t sort_index(int group) {
    return int64_t(blockIdx.x) * kSortBlock + (warp_id() * kOfThread + group) * kWarp + lane_id();
}

// The lanes of the warp with the same digit; -1 for those that have none.
GPU uint32_t lanes_with(int digit) {
    uint32_t lanes = kAllLanes;
#pragma unroll
    for (int bit = 0; bit < 9; ++bit) {  // the 9th is the sign
        const bool set = digit >> bit & 1;
        const uint32_t with = __ballot_sync(kAllLanes, set);
        lanes &= set ? with : ~with;
    }
    return lanes;
}

// Counts the digits of a warp's positions in s.of_warp, and finds each position's rank among those of the warp.
GPU void count_digits(SortShared& s, const int32_t (&token)[kOfThread], const bool (&exists)[kOfThread], int shift,
                      int (&rank)[kOfThread]) {
    int* counts = s.of_warp[warp_id()];
    for (int d = lane_id(); d < kDigits; d += kWarp) counts[d] = 0;
    __syncwarp();
#pragma unroll
    for (int g = 0; g < kOfThread; ++g) {
        const int digit = exists[g] ? token[g] >> shift & (kDigits - 1) : -1;
        const uint32_t lanes = lanes_with(digit), before = lanes & ((1u << lane_id()) - 1);
        rank[g] = exists[g] ? counts[digit] + __popc(before) : 0;
        __syncwarp();
        if (exists[g] && before == 0) counts[digit] += __popc(lanes);
        __syncwarp();
    }
    __syncthreads();
}

GPU void load_tokens(const int32_t* tokens, int64_t N, int32_t (&token)[kOfThread], bool (&exists)[kOfThread]) {
#pragma unroll
    for (int g = 0; g < kOfThread; ++g) {
        exists[g] = sort_index(g) < N;
        token[g] = tokens[exists[g] ? sort_index(g) : 0];
    }
}

// counts[block][digit]
__global__ void __launch_bounds__(kDigits)
    count_digits_kernel(int32_t* counts, const int32_t* tokens, int64_t N, int shift) {
    launch_bounds<kDigits>();
    SortShared& s = shared<SortShared>();
    int32_t token[kOfThread];
    bool exists[kOfThread];
    int rank[kOfThread];
    load_tokens(tokens, N, token, exists);
    count_digits(s, token, exists, shift, rank);
    int count = 0;
#pragma unroll
    for (int w = 0; w < kSortWarps; ++w) count += s.of_warp[w][threadIdx.x];
    counts[int64_t(blockIdx.x) * kDigits + threadIdx.x] = count;
}

// Where the positions of this block with digit threadIdx.x go: after those with smaller digits, and those of the blocks
// before this one. Every block adds up all blocks' counts: 1 KB a block, from the second-level cache.
GPU int start_of_digit(SortShared& s, const int32_t* counts, int blocks) {
    int before = 0, total = 0;
#pragma unroll 8
    for (int b = 0; b < blocks; ++b) {
        const int count = counts[int64_t(b) * kDigits + threadIdx.x];
        before += b < int(blockIdx.x) ? count : 0;
        total += count;
    }
    int smaller_digits = total;  // of this warp's digits, up to this one
#pragma unroll
    for (int lanes = 1; lanes < kWarp; lanes *= 2) {
        const int other = __shfl_up_sync(kAllLanes, smaller_digits, lanes);
        smaller_digits += lane_id() >= lanes ? other : 0;
    }
    if (lane_id() == kWarp - 1) s.of_digits[warp_id()] = smaller_digits;
    __syncthreads();
    smaller_digits -= total;
    for (int w = 0; w < warp_id(); ++w) smaller_digits += s.of_digits[w];
    return smaller_digits + before;
}

// positions is null in the first pass, in which position i is at index i.
__global__ void __launch_bounds__(kDigits) scatter_kernel(Sorted to, const int32_t* counts, const int32_t* tokens,
                                                          const int32_t* positions, int64_t N, int shift) {
    launch_bounds<kDigits>();
    SortShared& s = shared<SortShared>();
    int32_t token[kOfThread], position[kOfThread];
    bool exists[kOfThread];
    int rank[kOfThread];
    load_tokens(tokens, N, token, exists);
#pragma unroll
    for (int g = 0; g < kOfThread; ++g)
        position[g] = positions ? positions[exists[g] ? sort_index(g) : 0] : int32_t(sort_index(g));
    int start = start_of_digit(s, counts, int(gridDim.x));
    count_digits(s, token, exists, shift, rank);
#pragma unroll
    for (int w = 0; w < kSortWarps; ++w) {  // thread d: digit d
        const int count = s.of_warp[w][threadIdx.x];
        s.of_warp[w][threadIdx.x] = start;
        start += count;
    }
    __syncthreads();
#pragma unroll
    for (int g = 0; g < kOfThread; ++g) {
        if (!exists[g]) continue;
        const int at = s.of_warp[warp_id()][token[g] >> shift & (kDigits - 1)] + rank[g];
        to.tokens[at] = token[g];
        to.positions[at] = position[g];
    }
}

// --- Sums over runs of equal tokens ---

// The parts of runs that cross pieces: in the piece in which a run begins, and in those in which it continues.
struct RunParts {
    float *begun, *continued;  // (pieces, C) each
};

struct RunsShared {
    int position[kPiece], token[kPiece + 2];  // token[0] and token[count + 1] are the neighbours', -1 at the ends
};

// The first of a thread's channels, and how many the grid's threads have together.
template <int kWidth>
GPU int first_channel() {
    return (int(blockIdx.y) * int(blockDim.x) + int(threadIdx.x)) * kWidth;
}
template <int kWidth>
GPU int channel_step() {
    return int(gridDim.y * blockDim.x) * kWidth;
}

// target[c...] = old + scale * sum
template <int kWidth>
GPU void store_sum(float* target, const Packed<float, kWidth>& old, const float (&sum)[kWidth], float scale) {
    float x[kWidth];
    old.unpack(x);
#pragma unroll
    for (int k = 0; k < kWidth; ++k) x[k] += scale * sum[k];
    store(target, x);
}

template <int kWidth, class T>
__global__ void __launch_bounds__(kThreads)
    sum_runs_kernel(float* dwte, RunParts parts, const T* dout, Sorted sorted, int64_t N, int C, float scale) {
    launch_bounds<kThreads>();
    RunsShared& s = shared<RunsShared>();
    const int64_t piece = blockIdx.x, first = piece * kPiece;
    const int count = int(N - first < kPiece ? N - first : kPiece);
    for (int i = int(threadIdx.x); i < count + 2; i += int(blockDim.x)) {
        const int64_t at = first + i - 1;
        s.token[i] = at >= 0 && at < N ? sorted.tokens[at] : -1;
        if (i >= 1 && i <= count) s.position[i - 1] = sorted.positions[at];
    }
    __syncthreads();
    // A run ends where the next token is another; if it began in this piece, its sum is complete.
    const auto ends = [&](int i) { return s.token[i + 2] != s.token[i + 1]; };
    for (int c = first_channel<kWidth>(); c < C; c += channel_step<kWidth>()) {
        float sum[kWidth] = {}, v[kWidth];
        bool begun_here = s.token[0] != s.token[1];
        for (int begin = 0; begin < count; begin += kAtOnce) {
            Packed<T, kWidth> x[kAtOnce];
            Packed<float, kWidth> old[kAtOnce];
#pragma unroll
            for (int j = 0; j < kAtOnce; ++j) {  // those that do not exist: again what does
                const int i = smaller(begin + j, count - 1);
                x[j].load(dout + int64_t(s.position[i]) * C + c);
            }
#pragma unroll
            for (int j = 0; j < kAtOnce; ++j)
                if (const int i = begin + j; i < count && ends(i)) old[j].load(dwte + int64_t(s.token[i + 1]) * C + c);
#pragma unroll
            for (int j = 0; j < kAtOnce; ++j) {
                const int i = begin + j;
                if (i >= count) break;
                x[j].unpack(v);
#pragma unroll
                for (int k = 0; k < kWidth; ++k) sum[k] += v[k];
                if (i + 1 < count && !ends(i)) continue;
                if (begun_here && ends(i))
                    store_sum(dwte + int64_t(s.token[i + 1]) * C + c, old[j], sum, scale);
                else
                    store((begun_here ? parts.begun : parts.continued) + piece * C + c, sum);
                begun_here = true;
#pragma unroll
                for (int k = 0; k < kWidth; ++k) sum[k] = 0;
            }
        }
    }
}

// The last of the pieces after `piece` that begin with this token, which the next one does: steps of 1, 2, 4, ... and
// back, because a run may have most of the pieces.
GPU int64_t last_piece(const int32_t* tokens, int64_t piece, int token, int64_t N) {
    const auto continues = [&](int64_t p) { return p * kPiece < N && tokens[p * kPiece] == token; };
    int64_t last = piece + 1, step = 1;
    while (continues(last + step)) last += step, step *= 2;
    for (; step > 0; step /= 2)
        if (continues(last + step)) last += step;
    return last;
}

// Block i finishes the run that begins in piece i and continues in the next, if there is one.
template <int kWidth>
__global__ void __launch_bounds__(kThreads)
    join_runs_kernel(float* dwte, RunParts parts, const int32_t* tokens, int64_t N, int C, float scale) {
    launch_bounds<kThreads>();
    const int64_t piece = blockIdx.x, begin = piece * kPiece, end = begin + kPiece;
    if (end >= N) return;
    const int token = tokens[end - 1], next = tokens[end], first = tokens[begin],
              before = begin > 0 ? tokens[begin - 1] : -1;
    if (next != token) return;                      // ends here
    if (first == token && before == token) return;  // began earlier
    const int64_t last = last_piece(tokens, piece, token, N);
    for (int c = first_channel<kWidth>(); c < C; c += channel_step<kWidth>()) {
        float* target = dwte + int64_t(token) * C + c;
        Packed<float, kWidth> old, begun, x[kAtOnce];
        begun.load(parts.begun + piece * C + c);
        old.load(target);
        float sum[kWidth], v[kWidth];
        begun.unpack(sum);
        for (int64_t p = piece + 1; p <= last; p += kAtOnce) {
#pragma unroll
            for (int j = 0; j < kAtOnce; ++j) x[j].load(parts.continued + (p + j < last ? p + j : last) * C + c);
#pragma unroll
            for (int j = 0; j < kAtOnce; ++j) {
                x[j].unpack(v);
#pragma unroll
                for (int k = 0; k < kWidth; ++k) sum[k] += p + j <= last ? v[k] : 0;
            }
        }
        store_sum(target, old, sum, scale);
    }
}

// --- Positions ---

template <int kWidth, class T>
__global__ void __launch_bounds__(kThreads)
    sum_positions_kernel(float* dwpe, const T* dout, int B, int length, int C, float scale) {
    launch_bounds<kThreads>();
    const int64_t i = (int64_t(blockIdx.x) * kThreads + threadIdx.x) * kWidth, of_sequence = int64_t(length) * C;
    if (i >= of_sequence) return;
    Packed<float, kWidth> old;
    old.load(dwpe + i);
    float sum[kWidth] = {}, v[kWidth];
    for (int b = 0; b < B; b += kAtOnce) {
        Packed<T, kWidth> x[kAtOnce];
#pragma unroll
        for (int j = 0; j < kAtOnce; ++j) x[j].load(dout + smaller(b + j, B - 1) * of_sequence + i);
#pragma unroll
        for (int j = 0; j < kAtOnce; ++j) {
            x[j].unpack(v);
#pragma unroll
            for (int k = 0; k < kWidth; ++k)
                sum[k] += b + j < B ? v[k] : 0;  // a branch would end with one load at a time
        }
    }
    store_sum(dwpe + i, old, sum, scale);
}

// Uses the buffers in turn; returns the one that holds the positions sorted by token, and the tokens in that order.
Sorted sort_positions(Sorted to, Sorted spare, int32_t* counts, const int32_t* tokens, int64_t N, int64_t vocabulary) {
    const unsigned blocks = unsigned(ceil_div(N, kSortBlock));
    const int32_t* positions = nullptr;
    for (int shift = 0; shift == 0 || (vocabulary - 1) >> shift > 0; shift += 8) {
        launch({blocks, kDigits, sizeof(SortShared)}, count_digits_kernel, counts, tokens, N, shift);
        launch({blocks, kDigits, sizeof(SortShared)}, scatter_kernel, to, counts, tokens, positions, N, shift);
        tokens = to.tokens, positions = to.positions;
        std::swap(to, spare);
    }
    return spare;
}

template <int kWidth, class T>
void sum_gradients(const EmbeddingBackward& args, const Sorted& sorted, const RunParts& parts) {
    const int64_t B = args.tokens.shape[0], length = args.tokens.shape[1], N = B * length, C = args.dout.last(),
                  columns = ceil_div(C, kWidth);
    const unsigned threads = unsigned(std::min<int64_t>(ceil_div(columns, kWarp) * kWarp, kThreads));
    const Launch runs{dim3(unsigned(ceil_div(N, kPiece)), unsigned(ceil_div(columns, threads))), threads,
                      sizeof(RunsShared)};
    const T* dout = args.dout.as<T>();
    launch(runs, sum_runs_kernel<kWidth, T>, args.dwte.as<float>(), parts, dout, sorted, N, int(C), args.dwte_scale);
    launch({runs.grid, runs.block}, join_runs_kernel<kWidth>, args.dwte.as<float>(), parts, sorted.tokens, N, int(C),
           args.dwte_scale);
    launch({unsigned(ceil_div(length * columns, kThreads)), kThreads}, sum_positions_kernel<kWidth, T>,
           args.dwpe.as<float>(), dout, int(B), int(length), int(C), args.dwpe_scale);
}

}  // namespace
}  // namespace cuda

using namespace cuda;

void embedding_forward(const EmbeddingForward& args) {
    check(args);
    const int64_t N = args.tokens.numel(), C = args.wte.last();
    if (N == 0) return;
    const bool aligned = rows_are_aligned(args.out, args.wte, args.wpe);
    with_type("embedding_forward", "wte", args.wte.dtype, [&]<class T>(T) {
        launch({unsigned(ceil_div(N, kThreads / kWarp)), kThreads},
               aligned ? embedding_forward_kernel<kWidest<T>, T> : embedding_forward_kernel<1, T>, args.out.as<T>(),
               args.tokens.as<int32_t>(), args.wte.as<T>(), args.wpe.as<T>(), int(N), int(args.tokens.shape[1]), int(C),
               args.scale);
    });
}

void embedding_backward(const EmbeddingBackward& args) {
    check(args);
    const int64_t N = args.tokens.numel(), C = args.dout.last();
    if (N == 0) return;
    const Workspace memory(embedding_scratch(N, C));
    const auto positions = [&](int i) { return Sorted{memory.part<int32_t>(i), memory.part<int32_t>(i + 1)}; };
    const Sorted sorted = sort_positions(positions(2), positions(4), memory.part<int32_t>(6), args.tokens.as<int32_t>(),
                                         N, args.dwte.shape[0]);
    const RunParts parts{memory.part<float>(0), memory.part<float>(1)};
    const bool aligned = rows_are_aligned(args.dout, args.dwte, args.dwpe);
    with_type("embedding_backward", "dout", args.dout.dtype, [&]<class T>(T) {
        aligned ? sum_gradients<4, T>(args, sorted, parts) : sum_gradients<1, T>(args, sorted, parts);
    });
}

}  // namespace llmc
