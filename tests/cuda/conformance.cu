// Tests each instruction wrapper of llmc/cuda/gpu.h and gpu/hopper.h by itself, on data for which the result is exact.
// The same source runs in the emulator and on a GPU, which shows that the emulator's instructions do what the hardware
// does. Prints one line for each test; exits with 1 if one failed, with 5 if there is no GPU.
#include <cmath>
#include <cstdio>
#include <cstring>
#include <functional>
#include <string>
#include <vector>

#include "llmc/cuda/gpu/hopper.h"
#include "llmc/cuda/tile.h"
#include "llmc/ops/device.h"

using namespace llmc;
using namespace llmc::cuda;

namespace {

// --- Host side ---

template <class T>
class Array {  // on the device
public:
    explicit Array(size_t count) : buffer_(count * sizeof(T)), count_(count) {}
    explicit Array(const std::vector<T>& values) : Array(values.size()) {
        device::copy_to_device(buffer_.data(), values.data(), count_ * sizeof(T));
    }
    T* data() const { return reinterpret_cast<T*>(buffer_.data()); }
    std::vector<T> values() const {
        std::vector<T> out(count_);
        device::copy_to_host(out.data(), buffer_.data(), count_ * sizeof(T));
        return out;
    }

private:
    device::Buffer buffer_;
    size_t count_;
};

int g_failed = 0;

void report(const char* name, bool passed) {
    std::printf("%s %s\n", passed ? "ok    " : "FAILED", name);
    g_failed += !passed;
}

// Small integers: sums of their products are exact in fp32, in any order.
int integer(int i) { return (i * 7 + i / 5) % 9 - 4; }
std::vector<bf16> integers(int count, int first = 0) {
    std::vector<bf16> v;
    for (int i = 0; i < count; ++i) v.push_back(to_bf16(float(integer(first + i))));
    return v;
}
std::vector<float> floats(const std::vector<bf16>& v) {
    std::vector<float> out;
    for (bf16 x : v) out.push_back(to_float(x));
    return out;
}

// D (M, N) of A (M, K) and B (K, N), as they are stored.
std::vector<float> product(const std::vector<bf16>& a, const std::vector<bf16>& b, int M, int N, int K,
                           bool a_by_columns, bool b_by_rows) {
    std::vector<float> d(size_t(M * N));
    for (int m = 0; m < M; ++m)
        for (int n = 0; n < N; ++n)
            for (int k = 0; k < K; ++k)
                d[size_t(m * N + n)] += to_float(a[size_t(a_by_columns ? k * M + m : m * K + k)]) *
                                        to_float(b[size_t(b_by_rows ? k * N + n : n * K + k)]);
    return d;
}

// --- Threads and memory ---

struct ReverseShared {
    int value[256];
};
__global__ void reverse_kernel(int* out) {
    ReverseShared& s = shared<ReverseShared>();
    s.value[threadIdx.x] = int(blockIdx.x * blockDim.x + threadIdx.x);
    __syncthreads();
    out[blockIdx.x * blockDim.x + threadIdx.x] = s.value[blockDim.x - 1 - threadIdx.x];
}
void test_barrier() {
    Array<int> out(512);
    launch({2, 256, sizeof(ReverseShared)}, reverse_kernel, out.data());
    bool right = true;
    const auto values = out.values();
    for (int i = 0; i < 512; ++i) right &= values[size_t(i)] == i / 256 * 256 + 255 - i % 256;
    report("__syncthreads", right);
}

__global__ void shuffle_kernel(int* out) {
    const int lane = lane_id();
    out[lane] = __shfl_sync(kAllLanes, lane, (lane * 3) % 32);
    out[32 + lane] = __shfl_xor_sync(kAllLanes, lane, 5);
    out[64 + lane] = __shfl_down_sync(kAllLanes, lane, 3);
    out[96 + lane] = __shfl_up_sync(kAllLanes, lane, 3);
    out[128 + lane] = int(warp_sum(float(lane)));
    out[160 + lane] = int(warp_max(float(lane ^ 9)));
    out[192 + lane] = __popc(__ballot_sync(kAllLanes, lane % 3 == 0) & ((2u << lane) - 1));
}
void test_shuffles() {
    Array<int> out(224);
    launch({1, 32}, shuffle_kernel, out.data());
    const auto values = out.values();
    bool right = true;
    for (int lane = 0; lane < 32; ++lane) {
        const int expected[] = {
            lane * 3 % 32, lane ^ 5, lane < 29 ? lane + 3 : lane, lane > 2 ? lane - 3 : lane, 496, 31, lane / 3 + 1};
        for (int i = 0; i < 7; ++i) right &= values[size_t(32 * i + lane)] == expected[i];
    }
    report("__shfl_sync, xor, down, up; __ballot_sync; warp_sum, warp_max", right);
}

__global__ void copy16_kernel(uint4* out, const uint4* inp) { store16(out + threadIdx.x, load16(inp + threadIdx.x)); }
__global__ void copy8_kernel(uint2* out, const uint2* inp) { store8(out + threadIdx.x, load8(inp + threadIdx.x)); }
__global__ void copy4_kernel(uint32_t* out, const uint32_t* inp) {
    store4(out + threadIdx.x, load4(inp + threadIdx.x));
}
void test_load_store() {
    std::vector<uint4> inp(64);
    for (uint32_t i = 0; i < 64; ++i) inp[i] = {i, i * i, ~i, i << 20};
    Array<uint4> in(inp), out(64), out8(64), out4(64);
    launch({1, 64}, copy16_kernel, out.data(), in.data());
    report("load16, store16", !std::memcmp(out.values().data(), inp.data(), 64 * 16));
    launch({1, 128}, copy8_kernel, reinterpret_cast<uint2*>(out8.data()), reinterpret_cast<const uint2*>(in.data()));
    report("load8, store8", !std::memcmp(out8.values().data(), inp.data(), 64 * 16));
    launch({1, 256}, copy4_kernel, reinterpret_cast<uint32_t*>(out4.data()),
           reinterpret_cast<const uint32_t*>(in.data()));
    report("load4, store4", !std::memcmp(out4.values().data(), inp.data(), 64 * 16));
}

// Blocks change the same memory one after the other: 3 x + block is another number in any other order, and one that a
// block could not have seen is missing in all that come after.
__global__ void turns_kernel(uint32_t* out, uint32_t* turn) {
    uint32_t& mine = out[blockDim.x - 1 - threadIdx.x];
    if (threadIdx.x == 0) wait_for_value(turn, blockIdx.x);
    __syncthreads();
    mine = 3 * mine + blockIdx.x;
    __syncthreads();
    if (threadIdx.x == 0) store_release(turn, blockIdx.x + 1);
}
void test_turns() {
    const uint32_t blocks = 24, threads = 256;
    const Array<uint32_t> out(std::vector<uint32_t>(threads, 1)), turn(std::vector<uint32_t>{0});
    launch({blocks, threads}, turns_kernel, out.data(), turn.data());
    uint32_t expected = 1;
    for (uint32_t block = 0; block < blocks; ++block) expected = 3 * expected + block;
    report("wait_for_value, store_release: blocks in turn",
           turn.values()[0] == blocks && out.values() == std::vector<uint32_t>(threads, expected));
}

// Each block changes a list of numbers, and each number only after the block before has changed it.
__global__ void progress_kernel(uint32_t* out, uint32_t* progress, int count) {
    const uint32_t block = blockIdx.x;
    uint32_t found = block == 0 ? uint32_t(count) : 0;
    for (uint32_t i = 0; i < uint32_t(count); ++i) {
        if (threadIdx.x == 0 && found <= i) found = wait_until_above(progress + block - 1, i);
        __syncthreads();
        uint32_t& mine = out[i * blockDim.x + threadIdx.x];
        mine = 3 * mine + block;
        __syncthreads();
        if (threadIdx.x == 0) store_release(progress + block, i + 1);
    }
}
void test_progress() {
    const uint32_t blocks = 12, threads = 64, count = 5;
    const Array<uint32_t> out(std::vector<uint32_t>(threads * count, 1)), progress(std::vector<uint32_t>(blocks, 0));
    launch({blocks, threads}, progress_kernel, out.data(), progress.data(), int(count));
    uint32_t expected = 1;
    for (uint32_t block = 0; block < blocks; ++block) expected = 3 * expected + block;
    report("wait_until_above: each block follows the one before",
           progress.values() == std::vector<uint32_t>(blocks, count) &&
               out.values() == std::vector<uint32_t>(threads * count, expected));
}

// --- Numbers ---

__global__ void numbers_kernel(float* out, const float* x, int n) {
    const int i = int(blockIdx.x * blockDim.x + threadIdx.x);
    if (i >= n) return;
    out[i] = exp2_approx(x[i]);
    out[n + i] = tanh_approx(x[i]);
    out[2 * n + i] = rsqrt_approx(fabsf(x[i]) + 0.1f);
    out[3 * n + i] = divide_approx(3.0f, fabsf(x[i]) + 0.1f);
}
void test_numbers() {
    std::vector<float> x;
    for (int i = -600; i <= 600; ++i) x.push_back(float(i) / 40);
    const int n = int(x.size());
    Array<float> in(x), out(4 * x.size());
    launch({unsigned(ceil_div(n, 128)), 128}, numbers_kernel, out.data(), in.data(), n);
    const auto values = out.values();
    double worst[4] = {};
    for (int i = 0; i < n; ++i) {
        const double v = double(x[size_t(i)]), shifted = double(std::fabs(x[size_t(i)]) + 0.1f);
        const double expected[] = {std::exp2(v), std::tanh(v), 1 / std::sqrt(shifted), 3 / shifted};
        for (int f = 0; f < 4; ++f) {
            const double error = std::fabs(double(values[size_t(f * n + i)]) - expected[f]);
            worst[f] = std::max(worst[f], error / std::max(std::fabs(expected[f]), 1e-30));
        }
    }
    report("exp2_approx (2 ulp)", worst[0] < 3e-7);
    report("tanh_approx (2^-10.9)", worst[1] < 5.3e-4);
    report("rsqrt_approx (2 ulp)", worst[2] < 3e-7);
    report("divide_approx (2 ulp)", worst[3] < 4e-7);
}

__global__ void pack_kernel(uint32_t* out, const float* x) {
    const int i = int(threadIdx.x);
    out[3 * i] = pack_bf16x2(x[2 * i], x[2 * i + 1]);
    out[3 * i + 1] = bits_of(low_of(out[3 * i]));
    out[3 * i + 2] = bits_of(high_of(out[3 * i]));
}
void test_pack() {
    const std::vector<float> x = {1,     -1,       1 + 0x1p-8f, 1 + 3 * 0x1p-8f, 1 + 0x1p-8f + 0x1p-20f,
                                  -0.0f, INFINITY, 3.4e38f};
    Array<float> in(x);
    Array<uint32_t> out(12);
    launch({1, 4}, pack_kernel, out.data(), in.data());
    const auto values = out.values();
    bool right = true;
    for (size_t i = 0; i < 4; ++i) {
        const bf16 low = to_bf16(x[2 * i]), high = to_bf16(x[2 * i + 1]);
        right &= values[3 * i] == (low.bits | uint32_t{high.bits} << 16);
        right &= values[3 * i + 1] == uint32_t{low.bits} << 16 && values[3 * i + 2] == uint32_t{high.bits} << 16;
    }
    report("pack_bf16x2 (to nearest even), low_of, high_of", right);
}

// --- Tensor cores ---

// The fragments are filled from global memory by their definition, so that only mma is tested.
__global__ void mma_kernel(float* d, const bf16* a, const bf16* b, const float* c) {
    const int group = lane_id() / 4, t = lane_id() % 4;
    const auto pair = [](bf16 low, bf16 high) { return low.bits | uint32_t{high.bits} << 16; };
    uint32_t fa[4], fb[2];
    float acc[4];
    for (int r = 0; r < 4; ++r) {
        const bf16* row = a + (group + 8 * (r % 2)) * 16 + 2 * t + 8 * (r / 2);
        fa[r] = pair(row[0], row[1]);
        acc[r] = c[(group + 8 * (r / 2)) * 8 + 2 * t + r % 2];
    }
    for (int r = 0; r < 2; ++r) fb[r] = pair(b[(2 * t + 8 * r) * 8 + group], b[(2 * t + 8 * r + 1) * 8 + group]);
    mma_m16n8k16(acc, fa, fb);
    for (int r = 0; r < 4; ++r) d[(group + 8 * (r / 2)) * 8 + 2 * t + r % 2] = acc[r];
}
void test_mma() {
    const auto a = integers(16 * 16), b = integers(16 * 8, 1000);
    const auto c = floats(integers(16 * 8, 500));
    Array<bf16> da(a), db(b);
    Array<float> dc(c), d(16 * 8);
    launch({1, 32}, mma_kernel, d.data(), da.data(), db.data(), dc.data());
    auto expected = product(a, b, 16, 8, 16, false, true);
    for (size_t i = 0; i < expected.size(); ++i) expected[i] += c[i];
    report("mma_m16n8k16", d.values() == expected);
}

struct MatrixShared {
    alignas(16) uint16_t element[32 * 8];
};
__global__ void ldmatrix_kernel(uint32_t* out, const uint16_t* inp, int transposed, int by_address) {
    MatrixShared& s = shared<MatrixShared>();
    for (int i = lane_id(); i < 256; i += 32) s.element[i] = inp[i];
    __syncwarp();
    uint32_t r[4];
    const uint16_t* row = s.element + lane_id() * 8;  // row i % 8 of matrix i / 8
    if (by_address)
        transposed ? ldmatrix_x4_trans(r, shared_address(row)) : ldmatrix_x4(r, shared_address(row));
    else
        transposed ? ldmatrix_x4_trans(r, row) : ldmatrix_x4(r, row);
    for (int m = 0; m < 4; ++m) out[m * 32 + lane_id()] = r[m];
}
void test_ldmatrix() {
    std::vector<uint16_t> inp(256);
    for (size_t i = 0; i < 256; ++i) inp[i] = uint16_t(i * 257 + 3);
    Array<uint16_t> in(inp);
    for (int test = 0; test < 4; ++test) {
        const int transposed = test % 2, by_address = test / 2;
        Array<uint32_t> out(128);
        launch({1, 32, sizeof(MatrixShared)}, ldmatrix_kernel, out.data(), in.data(), transposed, by_address);
        const auto values = out.values();
        bool right = true;
        for (int m = 0; m < 4; ++m)
            for (int lane = 0; lane < 32; ++lane)
                for (int half = 0; half < 2; ++half) {
                    const int group = lane / 4, element = 2 * (lane % 4) + half;
                    const int row = transposed ? element : group, column = transposed ? group : element;
                    right &= uint16_t(values[size_t(m * 32 + lane)] >> (16 * half)) ==
                             inp[size_t(m * 64 + row * 8 + column)];
                }
        const std::string name = transposed ? "ldmatrix_x4_trans" : "ldmatrix_x4";
        report((by_address ? name + " by address" : name).c_str(), right);
    }
}

struct CopyShared {
    alignas(16) unsigned char bytes[3][64][16];
};
__global__ void cp_async_kernel(unsigned char* out, const unsigned char* inp) {
    CopyShared& s = shared<CopyShared>();
    const int i = int(threadIdx.x);
    for (int group = 0; group < 3; ++group) {
        cp_async16(s.bytes[group][i], inp + (group * 64 + i) * 16, i % 3 > 0);
        cp_async_commit();
    }
    cp_async_wait<1>();
    __syncthreads();
    for (int group = 0; group < 2; ++group)
        for (int k = 0; k < 16; ++k) out[(group * 64 + i) * 16 + k] = s.bytes[group][63 - i][k];
    cp_async_wait<0>();
    __syncthreads();
    for (int k = 0; k < 16; ++k) out[(128 + i) * 16 + k] = s.bytes[2][63 - i][k];
}
void test_cp_async() {
    std::vector<unsigned char> inp(3 * 64 * 16);
    for (size_t i = 0; i < inp.size(); ++i) inp[i] = static_cast<unsigned char>(i * 31 + 7);
    Array<unsigned char> in(inp), out(inp.size());
    launch({1, 64, sizeof(CopyShared)}, cp_async_kernel, out.data(), in.data());
    const auto values = out.values();
    bool right = true;
    for (int group = 0; group < 3; ++group)
        for (int i = 0; i < 64; ++i)
            for (int k = 0; k < 16; ++k) {
                const int from = 63 - i;
                const unsigned char expected = from % 3 ? inp[size_t((group * 64 + from) * 16 + k)] : 0;
                right &= values[size_t((group * 64 + i) * 16 + k)] == expected;
            }
    report("cp_async16 (and zeros), commit, wait", right);
}

__global__ void quad_kernel(uint32_t* out) {
    uint32_t words[4];
    for (uint32_t i = 0; i < 4; ++i) words[i] = uint32_t(lane_id()) * 100 + i;
    transpose_quad(words);
    for (int i = 0; i < 4; ++i) out[lane_id() * 4 + i] = words[i];
}
void test_transpose_quad() {
    Array<uint32_t> out(128);
    launch({1, 32}, quad_kernel, out.data());
    const auto values = out.values();
    bool right = true;
    for (uint32_t lane = 0; lane < 32; ++lane)
        for (uint32_t i = 0; i < 4; ++i)  // word i was word t of lane i of the four
            right &= values[lane * 4 + i] == 100 * (lane / 4 * 4 + i) + lane % 4;
    report("transpose_quad", right);
}

__global__ void exchange_kernel(uint32_t* out) {
    const int t = lane_id() % 4, row = lane_id() / 4;
    uint32_t pairs[2] = {uint32_t(100 * row + 2 * t), uint32_t(100 * row + 8 + 2 * t)};  // the pairs' first columns
    exchange_pairs(pairs);
    out[2 * lane_id()] = pairs[0], out[2 * lane_id() + 1] = pairs[1];
}
void test_exchange_pairs() {
    Array<uint32_t> out(64);
    launch({1, 32}, exchange_kernel, out.data());
    const auto values = out.values();
    bool right = true;
    for (uint32_t lane = 0; lane < 32; ++lane) {
        const uint32_t t = lane % 4, column = 100 * (lane / 4) + 8 * (t % 2) + 4 * (t / 2);
        right &= values[2 * lane] == column && values[2 * lane + 1] == column + 2;
    }
    report("exchange_pairs", right);
}

struct PairedShared {
    Tile<32, 32> b;
};
// B is row n, column k: n + 100 k, which mma's fragment of k = 2t and its column lane / 4 show.
__global__ void paired_kernel(uint32_t* out) {
    PairedShared& s = shared<PairedShared>();
    for (int k = 0; k < 32; ++k) s.b.chunk(lane_id(), k / 8)[k % 8].bits = uint16_t(lane_id() + 100 * k);
    __syncwarp();
    uint32_t b[2][2];
    s.b.b_fragments_paired(b, 16, 16);
    for (int q = 0; q < 2; ++q)
        for (int r = 0; r < 2; ++r) out[(2 * q + r) * 32 + lane_id()] = b[q][r];
}
void test_paired_fragments() {
    Array<uint32_t> out(128);
    launch({1, 32, sizeof(PairedShared)}, paired_kernel, out.data());
    const auto values = out.values();
    bool right = true;
    for (int q = 0; q < 2; ++q)
        for (int r = 0; r < 2; ++r)
            for (int lane = 0; lane < 32; ++lane) {
                const int column = lane / 4;  // of mma's, t = column / 2: 4t, 4t + 1 in the first fragment
                const int n = 16 + 4 * (column / 2) + column % 2 + 2 * q, k = 16 + 8 * r + 2 * (lane % 4);
                const uint32_t low = uint32_t(n + 100 * k), high = low + 100;
                right &= values[size_t((2 * q + r) * 32 + lane)] == (low | high << 16);
            }
    report("b_fragments_paired", right);
}

// --- Hopper: a product with all of it. 128 x 256 tiles, a cluster of two blocks shares B, a ring of two stages; the
// sums of A over K as a product with ones ---
// __syncwarp stands wherever the lanes of a warp may have diverged before an instruction that is ".aligned": all of
// cluster_sync, named_barrier, setmaxnreg and wgmma are.

constexpr int kM = 128, kN = 256, kK = 64, kRing = 2, kCluster = 2;

struct HopperShared {
    alignas(1024) bf16 a[kRing][kM * kK];
    alignas(1024) bf16 b[kRing][kN * kK];
    alignas(1024) uint32_t ones[8 * kK / 2];
    uint64_t full[kRing], empty[kRing];
};

template <bool kAByColumns, bool kBByRows>
__global__ void __launch_bounds__(384, 1) hopper_kernel(float* d, float* sums, const __grid_constant__ TensorMap a_map,
                                                        const __grid_constant__ TensorMap b_map, int N, int K) {
    launch_bounds<384, 1>();
#if LLMC_HAS_HOPPER
    HopperShared& s = shared<HopperShared>();
    const int t = int(threadIdx.x), warpgroup = t / 128, rank = cluster_rank();
    const int m = int(blockIdx.x) * kM, n = int(blockIdx.y) * kN;
    if (t == 0)
        for (int i = 0; i < kRing; ++i) {
            mbarrier_init(&s.full[i], 1);
            mbarrier_init(&s.empty[i], 2 * kCluster);
        }
    __syncwarp();
    if (t < 32) {
        for (int i = t; i < 8 * kK / 2; i += 32) s.ones[i] = 0x3f803f80u;
        fence_proxy_async();
    }
    mbarrier_init_fence();
    cluster_sync();
    if (warpgroup == 0) {
        lower_registers<40>();
        for (int k = 0, i = 0; t == 0 && k < K; k += kK, ++i) {
            const int slot = i % kRing;
            if (i >= kRing) mbarrier_wait(&s.empty[slot], (i / kRing - 1) % 2);
            mbarrier_arrive_expect(&s.full[slot], (kM + kN) * kK * 2);
            for (int half = 0; half < 2; ++half) {
                bf16* target = s.a[slot] + half * 64 * kK;
                if constexpr (kAByColumns)
                    tma_load(target, &a_map, &s.full[slot], m + 64 * half, k);
                else
                    tma_load(target, &a_map, &s.full[slot], k, m + 64 * half);
            }
            for (int quarter = 2 * rank; quarter < 2 * rank + 2; ++quarter) {  // each block loads one half for both
                bf16* target = s.b[slot] + quarter * 64 * kK;
                if constexpr (kBByRows)
                    tma_load_multicast(target, &b_map, &s.full[slot], n + 64 * quarter, k, 3);
                else
                    tma_load_multicast(target, &b_map, &s.full[slot], k, n + 64 * quarter, 3);
            }
        }
        __syncwarp();
    } else {
        raise_registers<232>();
        float acc[128] = {}, sum[4] = {};
        const int half = warpgroup - 1;
        for (int k = 0, i = 0; k < K; k += kK, ++i) {
            const int slot = i % kRing;
            mbarrier_wait(&s.full[slot], i / kRing % 2);
            __syncwarp();
            wgmma_fence();
#pragma unroll
            for (int kk = 0; kk < kK; kk += 16) {
                const uint32_t a = shared_address(s.a[slot]) +
                                   uint32_t(half * 64 * kK * 2 + (kAByColumns ? kk * 128 : kk * 2));
                const uint32_t b = shared_address(s.b[slot]) + uint32_t(kBByRows ? kk * 128 : kk * 2);
                const uint64_t rows = wgmma_descriptor(a, 64 * kK * 2, 1024);
                wgmma_m64k16<256, kAByColumns, kBByRows>(acc, rows, wgmma_descriptor(b, 64 * kK * 2, 1024),
                                                         k > 0 || kk > 0);
                wgmma_m64k16<8, kAByColumns, false>(sum, rows, wgmma_descriptor(shared_address(s.ones), 0, 1024),
                                                    k > 0 || kk > 0);
            }
            wgmma_commit();
            wgmma_wait<0>();
            if (t % 128 < kCluster) mbarrier_arrive_at(&s.empty[slot], t % 128);
            __syncwarp();
        }
        named_barrier(1, 256);
        const int row = m + 64 * half + t % 128 / 32 * 16 + t % 32 / 4;
        for (int j = 0; j < 32; ++j)
            for (int e = 0; e < 4; ++e)
                d[int64_t(row + 8 * (e / 2)) * N + n + 8 * j + 2 * (t % 4) + e % 2] = acc[4 * j + e];
        for (int e = 0; e < 4; ++e) sums[(row + 8 * (e / 2)) * 8 + 2 * (t % 4) + e % 2] = sum[e];
    }
    cluster_sync();
#endif
}

template <bool kAByColumns, bool kBByRows>
void test_hopper(const char* name) {
    const int M = 256, N = 256, K = 200;  // K is not a multiple of the tile: the copies have to pad with zeros
    const auto a = integers(M * K), b = integers(N * K, 3000);
    Array<bf16> da(a), db(b);
    Array<float> d(size_t(M * N)), sums(size_t(M * 8));
    const TensorMap a_map = kAByColumns ? tensor_map(da.data(), K, M, M, kK) : tensor_map(da.data(), M, K, K, 64);
    const TensorMap b_map = kBByRows ? tensor_map(db.data(), K, N, N, kK) : tensor_map(db.data(), N, K, K, 64);
    launch({dim3(M / kM, N / kN), 384, sizeof(HopperShared), kCluster}, hopper_kernel<kAByColumns, kBByRows>, d.data(),
           sums.data(), a_map, b_map, N, K);
    const std::vector<bf16> ones(size_t(8 * K), to_bf16(1));
    report(name, d.values() == product(a, b, M, N, K, kAByColumns, kBByRows) &&
                     sums.values() == product(a, ones, M, 8, K, kAByColumns, true));
}

// A (64 x 128) in registers, a box of 64 columns and kColumns rows of B along K at a time, or boxes of 64 rows.
template <int kColumns>
struct RegistersShared {
    alignas(1024) bf16 b[2 * kColumns * 64];
    uint64_t full;
};
template <int kColumns, bool kBByRows>
__global__ void __launch_bounds__(128)
    registers_kernel(float* d, const bf16* a, const __grid_constant__ TensorMap b_map) {
    launch_bounds<128>();
#if LLMC_HAS_HOPPER
    constexpr int kK = 128, kBox = kBByRows ? 64 * 64 : kColumns * 64;
    auto& s = shared<RegistersShared<kColumns>>();
    const int t = int(threadIdx.x), lane = t % 32, row = t / 32 * 16 + lane / 4;
    if (t == 0) {
        mbarrier_init(&s.full, 1);
        mbarrier_init_fence();
        mbarrier_arrive_expect(&s.full, kK * kColumns * 2);
        for (int i = 0; i < 2; ++i)
            for (int n = 0; n < (kBByRows ? kColumns : 64); n += 64)
                tma_load(s.b + i * kColumns * 64 + n * 64, &b_map, &s.full, kBByRows ? n : 64 * i,
                         kBByRows ? 64 * i : 0);
    }
    __syncthreads();
    uint32_t fragments[kK / 16][4];
    for (int k = 0; k < kK / 16; ++k)
        for (int r = 0; r < 4; ++r)
            fragments[k][r] = load4(a + (row + r % 2 * 8) * kK + 16 * k + r / 2 * 8 + 2 * (lane % 4));
    float acc[kColumns / 8][4];
    mbarrier_wait(&s.full, 0);
    __syncwarp();
    wgmma_fence();
#pragma unroll
    for (int k = 0; k < kK / 16; ++k) {
        const uint32_t b = shared_address(s.b) + uint32_t(k / 4 * kColumns * 128 + k % 4 * (kBByRows ? 16 * 128 : 32));
        wgmma_m64k16<kColumns, kBByRows>(acc, fragments[k], wgmma_descriptor(b, kBox * 2, 1024), k > 0);
    }
    wgmma_commit();
    wgmma_wait<0>();
    wgmma_results(acc);
    for (int j = 0; j < kColumns / 8; ++j)
        for (int e = 0; e < 4; ++e) d[(row + 8 * (e / 2)) * kColumns + 8 * j + 2 * (lane % 4) + e % 2] = acc[j][e];
#endif
}

template <int kColumns, bool kBByRows>
void test_registers(const char* name) {
    const int M = 64, K = 128;
    const auto a = integers(M * K), b = integers(kColumns * K, 3000);
    Array<bf16> da(a), db(b);
    Array<float> d(size_t(M * kColumns));
    const TensorMap map = kBByRows ? tensor_map(db.data(), K, kColumns, kColumns, 64)
                                   : tensor_map(db.data(), kColumns, K, K, kColumns);
    launch({1, 128, sizeof(RegistersShared<kColumns>)}, registers_kernel<kColumns, kBByRows>, d.data(), da.data(), map);
    report(name, d.values() == product(a, b, M, kColumns, K, false, kBByRows));
}

// A (64 x 64) and B (64 x 64) as attention's backward pass has them: both in shared memory, A along K or along M. The
// results are added to d by add_global, twice by one thread.
struct OperandsShared {
    alignas(1024) bf16 a[64 * 64], b[64 * 64];
    uint64_t full;
};
template <bool kAByColumns, bool kBByRows>
__global__ void __launch_bounds__(128)
    operands_kernel(float* d, const __grid_constant__ TensorMap a_map, const __grid_constant__ TensorMap b_map) {
    launch_bounds<128>();
#if LLMC_HAS_HOPPER
    auto& s = shared<OperandsShared>();
    const int t = int(threadIdx.x);
    if (t == 0) {
        mbarrier_init(&s.full, 1);
        mbarrier_init_fence();
        mbarrier_arrive_expect(&s.full, 2 * 64 * 64 * 2);
        tma_load(s.a, &a_map, &s.full, 0, 0);
        tma_load(s.b, &b_map, &s.full, 0, 0);
    }
    __syncthreads();
    mbarrier_wait(&s.full, 0);
    __syncwarp();
    const uint64_t a = wgmma_descriptor(shared_address(s.a), 0, 1024),
                   b = wgmma_descriptor(shared_address(s.b), 0, 1024);
    float acc[8][4];
    wgmma_fence();
#pragma unroll
    for (int k = 0; k < 4; ++k)
        wgmma_m64k16<64, kAByColumns, kBByRows>(acc, a + k * (kAByColumns ? 128 : 2), b + k * (kBByRows ? 128 : 2),
                                                k > 0);
    wgmma_commit();
    wgmma_wait<0>();
    wgmma_results(acc);
    for (int j = 0; j < 8; ++j)
        for (int i = 0; i < 2; ++i) add_global(d + (t * 8 + j) * 4, acc[j]);
#endif
}

template <bool kAByColumns, bool kBByRows>
void test_operands(const char* name) {
    const auto a = integers(64 * 64), b = integers(64 * 64, 3000);
    Array<bf16> da(a), db(b);
    Array<float> d(64 * 64);
    launch({1, 128, sizeof(OperandsShared)}, operands_kernel<kAByColumns, kBByRows>, d.data(),
           tensor_map(da.data(), 64, 64, 64, 64), tensor_map(db.data(), 64, 64, 64, 64));
    const std::vector<float> found = d.values(), expected = product(a, b, 64, 64, 64, kAByColumns, kBByRows);
    bool same = true;
    for (int t = 0; t < 128; ++t)
        for (int j = 0; j < 8; ++j)
            for (int e = 0; e < 4; ++e) {
                const int row = t / 32 * 16 + 8 * (e / 2) + t % 32 / 4, column = 8 * j + 2 * (t % 4) + e % 2;
                same &= found[size_t((t * 8 + j) * 4 + e)] == 2 * expected[size_t(row * 64 + column)];
            }
    report(name, same);
}

// A box of 64 rows of the second of three matrices that have 40: zeros follow, not the third matrix.
__global__ void __launch_bounds__(128) batch_kernel(float* d, const __grid_constant__ TensorMap map) {
    launch_bounds<128>();
#if LLMC_HAS_HOPPER
    auto& s = shared<OperandsShared>();
    if (threadIdx.x == 0) {
        mbarrier_init(&s.full, 1);
        mbarrier_init_fence();
        mbarrier_arrive_expect(&s.full, 64 * 64 * 2);
        tma_load(s.a, &map, &s.full, 0, 0, 1);
    }
    __syncthreads();
    mbarrier_wait(&s.full, 0);
    for (int i = int(threadIdx.x); i < 64 * 64; i += 128) {
        const int row = i / 64, column = i % 64;
        d[i] = float_of(uint32_t{s.a[row * 64 + (column / 8 ^ row % 8) * 8 + column % 8].bits} << 16);
    }
#endif
}

void test_batch() {
    constexpr int kRows = 40, kColumns = 64;
    const auto a = integers(3 * kRows * kColumns);
    Array<bf16> da(a);
    Array<float> d(64 * 64);
    launch({1, 128, sizeof(OperandsShared)}, batch_kernel, d.data(), batch_map(da.data(), 3, kRows, kColumns, 64));
    const std::vector<float> found = d.values();
    bool same = true;
    for (int i = 0; i < 64 * 64; ++i)
        same &= found[size_t(i)] == (i < kRows * kColumns ? to_float(a[size_t(kRows * kColumns + i)]) : 0);
    report("TMA of one matrix of a batch, zeros after its rows", same);
}

}  // namespace

int main() {
    try {
        device::initialize(1);
        std::printf("%s\n", device::name().c_str());
        test_barrier();
        test_shuffles();
        test_load_store();
        test_turns();
        test_progress();
        test_numbers();
        test_pack();
        test_mma();
        test_ldmatrix();
        test_cp_async();
        test_transpose_quad();
        test_exchange_pairs();
        test_paired_fragments();
        if (compute_capability() == 90) {
            test_hopper<false, false>("mbarrier, TMA, multicast, wgmma: both operands along K");
            test_hopper<false, true>("mbarrier, TMA, multicast, wgmma: B along N");
            test_hopper<true, true>("mbarrier, TMA, multicast, wgmma: A along M, B along N");
            test_registers<64, false>("wgmma with A in registers, 64 columns, B along K");
            test_registers<64, true>("wgmma with A in registers, 64 columns, B along N");
            test_registers<128, false>("wgmma with A in registers, 128 columns, B along K");
            test_registers<128, true>("wgmma with A in registers, 128 columns, B along N");
            test_batch();
            test_operands<false, false>("wgmma of 64 columns, both operands along K; additions to global memory");
            test_operands<true, true>("wgmma of 64 columns, A along M, B along N; additions to global memory");
        } else {
            std::printf("-      Hopper's instructions: not on compute capability %d\n", compute_capability());
        }
    } catch (const Error& error) {
        std::fprintf(stderr, "conformance: %s\n", error.what());
        return error.exit_code;
    }
    return g_failed ? 1 : 0;
}
