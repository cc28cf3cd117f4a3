// Token and position embeddings.
//
// Forward: out[b,t,:] = scale (wte[token] + wpe[t]).  Bytes in bf16: 4 N C + 2 T C. One thread per 8 channels.
//
// Backward: dwte[v] += dwte_scale * sum of dout over the positions of token v. Deterministic, without atomics: a stable
// radix sort of the positions by token, then sums over runs of equal tokens. A run may be one row or most of the batch,
// so the sorted positions are divided into pieces of kPiece. The parts of a run that crosses pieces are stored in
// scratch memory, and a second kernel adds them in order.  Bytes in bf16: 2 N C read, 8 C for each distinct token, up
// to N C of parts.
//           dwpe[t] += dwpe_scale * sum over b of dout[b,t].  Bytes in bf16: 2 N C (again) + 8 T C.
// Bound: memory; floor bytes / copy bandwidth, about 50 us each at N = 65,536, C = 768 on an H200.
#include "llmc/cuda/scratch.h"
#include "llmc/cuda/vec.h"
#include "llmc/ops/checks.h"

namespace llmc {
namespace cuda {
namespace {

// --- Forward ---

constexpr int kThreads = 256;

template <class T>
__global__ void __launch_bounds__(kThreads)
    embedding_forward_kernel(T* out, const int32_t* tokens, const T* wte, const T* wpe, int64_t N, int length, int C,
                             float scale, bool aligned) {
    launch_bounds<kThreads>();
    const int vectors = (C + kVec - 1) / kVec;
    const int64_t i = int64_t(blockIdx.x) * kThreads + threadIdx.x, n = i / vectors;
    if (n >= N) return;
    const int c = int(i % vectors) * kVec, count = C - c;
    float token[kVec], position[kVec];
    load_upto(token, wte + int64_t(tokens[n]) * C + c, count, aligned);
    load_upto(position, wpe + n % length * C + c, count, aligned);
#pragma unroll
    for (int k = 0; k < kVec; ++k) token[k] = scale * (token[k] + position[k]);
    store_upto(out + n * C + c, token, count, aligned);
}

// --- Positions sorted by token: one pass of a radix sort per 8 bits of the token, stable ---

struct SortShared {
    int digit[kSortBlock];
    int total[kDigits];
};

// Digits of the block's positions. order is null in the first pass, in which position i is at index i.
GPU void load_digits(SortShared& s, const int32_t* tokens, const int32_t* order, int64_t N, int shift) {
    for (int i = int(threadIdx.x); i < kSortBlock; i += kDigits) {
        const int64_t at = int64_t(blockIdx.x) * kSortBlock + i;
        s.digit[i] = at < N ? tokens[order ? order[at] : at] >> shift & (kDigits - 1) : -1;
    }
    __syncthreads();
}

// counts[digit][block]: thread d counts digit d.
__global__ void __launch_bounds__(kDigits)
    count_digits_kernel(int32_t* counts, const int32_t* tokens, const int32_t* order, int64_t N, int shift) {
    launch_bounds<kDigits>();
    SortShared& s = shared<SortShared>();
    load_digits(s, tokens, order, N, shift);
    const int digit = int(threadIdx.x);
    int count = 0;
    for (int i = 0; i < kSortBlock; ++i) count += s.digit[i] == digit;
    counts[int64_t(digit) * gridDim.x + blockIdx.x] = count;
}

// Replaces the counts by the index at which each block's positions with each digit begin. One block.
__global__ void __launch_bounds__(kDigits) scan_counts_kernel(int32_t* counts, int blocks) {
    launch_bounds<kDigits>();
    SortShared& s = shared<SortShared>();
    const int digit = int(threadIdx.x);
    int32_t* row = counts + int64_t(digit) * blocks;
    int total = 0;
    for (int b = 0; b < blocks; ++b) total += row[b];
    s.total[digit] = total;
    __syncthreads();
    int begin = 0;
    for (int d = 0; d < digit; ++d) begin += s.total[d];
    for (int b = 0; b < blocks; ++b) {
        const int count = row[b];
        row[b] = begin;
        begin += count;
    }
}

__global__ void __launch_bounds__(kDigits) scatter_kernel(int32_t* sorted, const int32_t* starts, const int32_t* tokens,
                                                          const int32_t* order, int64_t N, int shift) {
    launch_bounds<kDigits>();
    SortShared& s = shared<SortShared>();
    load_digits(s, tokens, order, N, shift);
    const int digit = int(threadIdx.x);
    int to = starts[int64_t(digit) * gridDim.x + blockIdx.x];
    for (int i = 0; i < kSortBlock; ++i)
        if (s.digit[i] == digit) {
            const int64_t at = int64_t(blockIdx.x) * kSortBlock + i;
            sorted[to++] = int32_t(order ? order[at] : at);
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

template <class T>
__global__ void __launch_bounds__(kThreads)
    sum_runs_kernel(float* dwte, RunParts parts, const T* dout, const int32_t* tokens, const int32_t* sorted, int64_t N,
                    int C, float scale, bool aligned) {
    launch_bounds<kThreads>();
    RunsShared& s = shared<RunsShared>();
    const int64_t piece = blockIdx.x, first = piece * kPiece;
    const int count = int(N - first < kPiece ? N - first : kPiece);
    for (int i = int(threadIdx.x); i < count + 2; i += int(blockDim.x)) {
        const int64_t at = first + i - 1;
        const int position = at >= 0 && at < N ? sorted[at] : -1;
        s.token[i] = position >= 0 ? tokens[position] : -1;
        if (i >= 1 && i <= count) s.position[i - 1] = position;
    }
    __syncthreads();
    for (int c = (int(blockIdx.y) * int(blockDim.x) + int(threadIdx.x)) * kVec; c < C;
         c += int(gridDim.y * blockDim.x) * kVec) {
        float sum[kVec] = {}, x[kVec];
        bool begun_here = s.token[0] != s.token[1];
        for (int i = 0; i < count; ++i) {
            load_upto(x, dout + int64_t(s.position[i]) * C + c, C - c, aligned);
#pragma unroll
            for (int k = 0; k < kVec; ++k) sum[k] += x[k];
            const int token = s.token[i + 1];
            if (i + 1 < count && s.token[i + 2] == token) continue;
            if (begun_here && s.token[i + 2] != token) {  // the whole run
                float* target = dwte + int64_t(token) * C + c;
                load_upto(x, target, C - c, aligned);
#pragma unroll
                for (int k = 0; k < kVec; ++k) x[k] += scale * sum[k];
                store_upto(target, x, C - c, aligned);
            } else {
                store_upto((begun_here ? parts.begun : parts.continued) + piece * C + c, sum, C - c, aligned);
            }
            begun_here = true;
#pragma unroll
            for (int k = 0; k < kVec; ++k) sum[k] = 0;
        }
    }
}

// Block i finishes the run that begins in piece i and continues in the next, if there is one.
__global__ void __launch_bounds__(kThreads)
    join_runs_kernel(float* dwte, RunParts parts, const int32_t* tokens, const int32_t* sorted, int64_t N, int C,
                     float scale, bool aligned) {
    launch_bounds<kThreads>();
    const int64_t piece = blockIdx.x, begin = piece * kPiece, end = begin + kPiece;
    if (end >= N) return;
    const auto token_at = [&](int64_t at) { return tokens[sorted[at]]; };
    const int token = token_at(end - 1);
    if (token_at(end) != token) return;                                                 // ends here
    if (token_at(begin) == token && begin > 0 && token_at(begin - 1) == token) return;  // began earlier
    int64_t last = piece + 1;                                                           // the piece in which it ends
    while ((last + 1) * kPiece < N && token_at((last + 1) * kPiece) == token) ++last;
    for (int c = (int(blockIdx.y) * int(blockDim.x) + int(threadIdx.x)) * kVec; c < C;
         c += int(gridDim.y * blockDim.x) * kVec) {
        float sum[kVec], x[kVec];
        load_upto(sum, parts.begun + piece * C + c, C - c, aligned);
        for (int64_t p = piece + 1; p <= last; ++p) {
            load_upto(x, parts.continued + p * C + c, C - c, aligned);
#pragma unroll
            for (int k = 0; k < kVec; ++k) sum[k] += x[k];
        }
        float* target = dwte + int64_t(token) * C + c;
        load_upto(x, target, C - c, aligned);
#pragma unroll
        for (int k = 0; k < kVec; ++k) x[k] += scale * sum[k];
        store_upto(target, x, C - c, aligned);
    }
}

// --- Positions ---

template <class T>
__global__ void __launch_bounds__(kThreads)
    sum_positions_kernel(float* dwpe, const T* dout, int B, int length, int C, float scale, bool aligned) {
    launch_bounds<kThreads>();
    const int vectors = (C + kVec - 1) / kVec;
    const int64_t i = int64_t(blockIdx.x) * kThreads + threadIdx.x, t = i / vectors;
    if (t >= length) return;
    const int c = int(i % vectors) * kVec;
    float sum[kVec] = {}, x[kVec];
    for (int b = 0; b < B; ++b) {
        load_upto(x, dout + (int64_t(b) * length + t) * C + c, C - c, aligned);
#pragma unroll
        for (int k = 0; k < kVec; ++k) sum[k] += x[k];
    }
    load_upto(x, dwpe + t * C + c, C - c, aligned);
#pragma unroll
    for (int k = 0; k < kVec; ++k) x[k] += scale * sum[k];
    store_upto(dwpe + t * C + c, x, C - c, aligned);
}

// Uses the buffers `order` and `spare` (N each) in turn; returns the one that holds the positions sorted by token.
int32_t* sort_positions(int32_t* order, int32_t* spare, int32_t* counts, const int32_t* tokens, int64_t N,
                        int64_t vocabulary) {
    const int blocks = int(ceil_div(N, kSortBlock));
    const int32_t* from = nullptr;
    for (int shift = 0; shift == 0 || (vocabulary - 1) >> shift > 0; shift += 8) {
        launch({unsigned(blocks), kDigits, sizeof(SortShared)}, count_digits_kernel, counts, tokens, from, N, shift);
        launch({1, kDigits, sizeof(SortShared)}, scan_counts_kernel, counts, blocks);
        launch({unsigned(blocks), kDigits, sizeof(SortShared)}, scatter_kernel, order, counts, tokens, from, N, shift);
        from = order;
        std::swap(order, spare);
    }
    return spare;
}

}  // namespace
}  // namespace cuda

using namespace cuda;

void embedding_forward(const EmbeddingForward& args) {
    check(args);
    const int64_t N = args.tokens.numel(), C = args.wte.last(), threads = N * ceil_div(C, kVec);
    if (N == 0) return;
    with_type("embedding_forward", "wte", args.wte.dtype, [&]<class T>(T) {
        launch({unsigned(ceil_div(threads, kThreads)), kThreads}, embedding_forward_kernel<T>, args.out.as<T>(),
               args.tokens.as<int32_t>(), args.wte.as<T>(), args.wpe.as<T>(), N, int(args.tokens.shape[1]), int(C),
               args.scale, rows_are_aligned(args.out, args.wte, args.wpe));
    });
}

void embedding_backward(const EmbeddingBackward& args) {
    check(args);
    const int64_t B = args.tokens.shape[0], length = args.tokens.shape[1], N = B * length, C = args.dout.last(),
                  pieces = ceil_div(N, kPiece), columns = ceil_div(C, kVec);
    if (N == 0) return;
    const Workspace memory(embedding_scratch(N, C));
    const RunParts parts{memory.part<float>(0), memory.part<float>(1)};
    const int32_t* tokens = args.tokens.as<int32_t>();
    const int32_t* sorted = sort_positions(memory.part<int32_t>(2), memory.part<int32_t>(3), memory.part<int32_t>(4),
                                           tokens, N, args.dwte.shape[0]);
    const unsigned threads = unsigned(std::min<int64_t>(ceil_div(columns, kWarp) * kWarp, kThreads));
    const Launch runs{dim3(unsigned(pieces), unsigned(ceil_div(columns, threads))), threads, sizeof(RunsShared)};
    const bool aligned = rows_are_aligned(args.dout, args.dwte, args.dwpe);
    with_type("embedding_backward", "dout", args.dout.dtype, [&]<class T>(T) {
        launch(runs, sum_runs_kernel<T>, args.dwte.as<float>(), parts, args.dout.as<T>(), tokens, sorted, N, int(C),
               args.dwte_scale, aligned);
        launch({runs.grid, runs.block}, join_runs_kernel, args.dwte.as<float>(), parts, tokens, sorted, N, int(C),
               args.dwte_scale, aligned);
        launch({unsigned(ceil_div(length * columns, kThreads)), kThreads}, sum_positions_kernel<T>,
               args.dwpe.as<float>(), args.dout.as<T>(), int(B), int(length), int(C), args.dwpe_scale, aligned);
    });
}

}  // namespace llmc
