// Kernels whose requests of memory are known, for the emulator's counters (llmc/emulator/counters.h). Each launch writes
// a line to the file LLMC_COUNTS; tests/test_counters.py knows what must be in it.
#include <cstdio>

#include "llmc/cuda/host.h"
#include "llmc/cuda/tile.h"
#include "llmc/ops/device.h"

using namespace llmc;
using namespace llmc::cuda;

namespace {

struct Words {
    alignas(16) uint32_t word[32 * 33];
};

// 32 lanes write words `stride` apart, and read them again.
__global__ void strided_kernel(uint32_t* out, int stride) {
    Words& s = shared<Words>();
    s.word[lane_id() * stride] = uint32_t(lane_id());
    __syncwarp();
    out[lane_id()] = s.word[lane_id() * stride];
}

// Each lane reads 16 bytes of global memory, `stride` vectors apart, and writes 4 bytes, `stride` words apart.
__global__ void global_kernel(uint32_t* out, const uint4* inp, int stride) {
    out[lane_id() * stride] = load16(inp + lane_id() * stride).x;
}

// ldmatrix on rows of 128 bytes without a swizzle: all eight rows of a matrix are in the same banks. Then on a Tile.
struct Matrices {
    alignas(1024) bf16 plain[32 * 64];
    Tile<32, 64> swizzled;
};
__global__ void ldmatrix_kernel(uint32_t* out, int swizzled) {
    Matrices& s = shared<Matrices>();
    uint32_t r[4];
    if (swizzled)
        ldmatrix_x4(r, s.swizzled.chunk(lane_id(), 0));
    else
        ldmatrix_x4(r, s.plain + lane_id() * 64);
    out[lane_id()] = r[0] + r[1] + r[2] + r[3];
}

__global__ void copy_kernel(uint32_t* out, const bf16* inp) {
    Matrices& s = shared<Matrices>();
    s.swizzled.load<64>(inp, 64, 32, 64);
    cp_async_commit();
    cp_async_wait<0>();
    __syncthreads();
    out[threadIdx.x] = s.swizzled.data[threadIdx.x].bits;
}

__global__ void units_kernel(float* out) {
    const uint32_t a[4] = {}, b[2] = {};
    float d[4] = {};
    for (int i = 0; i < 3; ++i) mma_m16n8k16(d, a, b);
    __syncthreads();
    out[lane_id()] = warp_sum(exp2_approx(d[0])) + tanh_approx(d[1]) + rsqrt_approx(d[2] + 1);
}

// Every block reads the same 512 bytes, and writes 128 bytes of its own: 128 bytes of memory once, 512 once in all.
__global__ void common_kernel(uint32_t* out, const uint4* inp) {
    out[int(blockIdx.x) * 32 + lane_id()] = load16(inp + lane_id()).x;
}

}  // namespace

int main() {
    device::initialize(1);
    device::Buffer in(1 << 20), out(1 << 20);
    uint32_t* words = reinterpret_cast<uint32_t*>(out.data());
    for (const int stride : {1, 2, 32, 33}) launch({1, 32, sizeof(Words)}, strided_kernel, words, stride);
    for (const int stride : {1, 2})
        launch({1, 32}, global_kernel, words, reinterpret_cast<const uint4*>(in.data()), stride);
    for (const int swizzled : {0, 1}) launch({1, 32, sizeof(Matrices)}, ldmatrix_kernel, words, swizzled);
    launch({1, 64, sizeof(Matrices)}, copy_kernel, words, reinterpret_cast<const bf16*>(in.data()));
    launch({1, 32}, units_kernel, reinterpret_cast<float*>(out.data()));
    launch({4000, 32}, common_kernel, words, reinterpret_cast<const uint4*>(in.data()));
    device::synchronize();
    return 0;
}
