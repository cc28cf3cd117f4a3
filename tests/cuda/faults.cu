// Small kernels and host code with one fault each, which a GPU refuses or gets wrong: the emulator must refuse them too.
// `faults NAME` runs one of them, `faults` lists the names; tests/test_emulator.py has the words that each must give.
#include <cstdio>
#include <cstring>
#include <functional>
#include <map>
#include <string>

#include "llmc/cuda/gpu/hopper.h"
#include "llmc/cuda/tile.h"
#include "llmc/ops/device.h"

using namespace llmc;
using namespace llmc::cuda;

namespace {

struct Scratch {
    alignas(1024) unsigned char bytes[8192];
    uint64_t barrier[2];
};
constexpr size_t kShared = sizeof(Scratch);

enum Address { of_global, of_shared, of_variable };

__global__ void load_kernel(uint4* out, const unsigned char* inp, Address address, int offset) {
    Scratch& s = shared<Scratch>();
    alignas(16) unsigned char variable[32] = {};
    const unsigned char* from[] = {inp, s.bytes, variable};
    store16(out, load16(from[address] + offset));
}
__global__ void store_kernel(unsigned char* out, Address address, int offset) {
    unsigned char* to[] = {out, shared<Scratch>().bytes, nullptr};
    store16(to[address] + offset, {1, 2, 3, 4});
}
__global__ void load8_kernel(uint2* out, const unsigned char* inp, int offset) { store8(out, load8(inp + offset)); }
__global__ void store8_kernel(unsigned char* out, Address address, int offset) {
    unsigned char* to[] = {out, shared<Scratch>().bytes, nullptr};
    store8(to[address] + offset, {1, 2});
}
__global__ void copy4_kernel(unsigned char* out, const unsigned char* inp, int from, int to) {
    store4(out + to, load4(inp + from));
}
__global__ void load_shared_kernel(uint4* out, const unsigned char* inp, Address address, int offset) {
    const unsigned char* from[] = {inp, shared<Scratch>().bytes, nullptr};
    store16(out, load_shared16(from[address] + offset));
}
__global__ void store_shared_kernel(unsigned char* out, int offset) {
    store_shared16(shared<Scratch>().bytes + offset, {1, 2, 3, 4});
    store16(out, load_shared16(shared<Scratch>().bytes));
}
__global__ void cp_async_kernel(unsigned char* out, const unsigned char* inp, Address source, Address destination,
                                int offset) {
    Scratch& s = shared<Scratch>();
    const unsigned char* from[] = {inp, s.bytes + 4096, nullptr};
    unsigned char* to[] = {out, s.bytes, nullptr};
    cp_async16(to[destination] + offset, from[source] + offset);
    cp_async_commit();
    cp_async_wait<0>();
}
__global__ void ldmatrix_kernel(uint32_t* out, Address address, int offset) {
    uint32_t r[4];
    const unsigned char* from[] = {reinterpret_cast<unsigned char*>(out), shared<Scratch>().bytes, nullptr};
    ldmatrix_x4(r, from[address] + 16 * lane_id() + offset);
    out[lane_id()] = r[0];
}
__global__ void ldmatrix_address_kernel(uint32_t* out, int offset) {
    uint32_t r[4];
    ldmatrix_x4_trans(r, shared_address(shared<Scratch>().bytes) + uint32_t(16 * lane_id() + offset));
    out[lane_id()] = r[0];
}
__global__ void __launch_bounds__(64) bounded_kernel(int* out) {
    launch_bounds<64>();
    out[threadIdx.x] = 1;
}
__global__ void fill_kernel(int* out) { out[threadIdx.x] = 1; }

__global__ void named_barrier_kernel(int* out) {
    if (lane_id() < 16) named_barrier(1, 32);  // a GPU counts the whole warp for it
    out[threadIdx.x] = 1;
    if (lane_id() >= 16) named_barrier(2, 32);
}
__global__ void barrier_count_kernel(int* out, int count) {
    Scratch& s = shared<Scratch>();
    if (threadIdx.x == 0) mbarrier_init(&s.barrier[0], count);
    out[threadIdx.x] = 1;
}
__global__ void barrier_bytes_kernel(int* out, int bytes) {
    Scratch& s = shared<Scratch>();
    mbarrier_init(&s.barrier[0], 1);
    mbarrier_arrive_expect(&s.barrier[0], bytes);
    out[0] = 1;
}
__global__ void wait_kernel(int* out) {
    Scratch& s = shared<Scratch>();
    mbarrier_init(&s.barrier[0], 1);
    mbarrier_arrive(&s.barrier[0]);
    mbarrier_wait(&s.barrier[0], 0);
    out[0] = 1;
}
__global__ void two_phases_kernel(int* out) {  // are over before the first warp has seen the end of one
    Scratch& s = shared<Scratch>();
    if (threadIdx.x == 0) mbarrier_init(&s.barrier[0], 1);
    __syncthreads();
    if (warp_id() == 0) mbarrier_wait(&s.barrier[0], 0);
    for (int i = 0; i < 2 && threadIdx.x == 32; ++i) mbarrier_arrive(&s.barrier[0]);
    out[threadIdx.x] = 1;
}
__global__ void registers_kernel(int* out) {  // one warpgroup of three gives nothing up
    raise_registers<232>();
    out[threadIdx.x] = 1;
}
// fenced: after the initialisation of barriers and before products, as it must be
__global__ void tma_kernel(int* out, const __grid_constant__ TensorMap map, int offset, bool fenced) {
    Scratch& s = shared<Scratch>();
    if (threadIdx.x == 0) {
        mbarrier_init(&s.barrier[0], 1);
        if (fenced) mbarrier_init_fence();
        mbarrier_arrive_expect(&s.barrier[0], 8 * 128);
        tma_load(s.bytes + offset, &map, &s.barrier[0], 0, 0);
    }
    __syncthreads();
    mbarrier_wait(&s.barrier[0], 0);
    out[threadIdx.x] = s.bytes[threadIdx.x];
}
struct Wgmma {  // what is done as it must be
    bool fenced = true, stored_before_fence = true, same_operands = true, inside = true;
};
__global__ void wgmma_kernel(float* out, Wgmma right) {
    Scratch& s = shared<Scratch>();
    float acc[4] = {};
    auto* words = reinterpret_cast<uint32_t*>(s.bytes);
    for (int i = 0; i < 16 && right.stored_before_fence; ++i) words[16 * threadIdx.x + i] = 0;
    fence_proxy_async();
    __syncthreads();
    for (int i = 0; i < 16 && !right.stored_before_fence; ++i) words[16 * threadIdx.x + i] = 0;
    __syncthreads();
    const uint32_t at = shared_address(s.bytes) + (right.inside ? 0 : 4096);
    const uint64_t descriptor = wgmma_descriptor(at, 0, 1024);
    const uint64_t other = right.same_operands ? descriptor : wgmma_descriptor(at + threadIdx.x / 64 * 1024, 0, 1024);
    if (right.fenced) wgmma_fence();
    wgmma_m64k16<8, false, false>(acc, descriptor, other, true);
    wgmma_commit();
    wgmma_wait<0>();
    out[threadIdx.x] = acc[0];
}
// A in registers: written before the wait, or after it and not fenced.
__global__ void wgmma_registers_kernel(float* out, bool waits) {
    Scratch& s = shared<Scratch>();
    float acc[8][4] = {};
    uint32_t a[4] = {};
    auto* words = reinterpret_cast<uint32_t*>(s.bytes);
    for (int i = 0; i < 16; ++i) words[16 * threadIdx.x + i] = 0;
    fence_proxy_async();
    __syncthreads();
    const uint64_t descriptor = wgmma_descriptor(shared_address(s.bytes), 0, 1024);
    wgmma_fence();
    wgmma_m64k16<64, false>(acc, a, descriptor, true);
    wgmma_commit();
    if (waits) wgmma_wait<0>();
    a[0] = 1;
    if (waits) wgmma_m64k16<64, false>(acc, a, descriptor, true);
    wgmma_wait<0>();
    out[threadIdx.x] = acc[0][0];
}
__global__ void late_arrive_kernel(int* out) {  // at a block of the cluster that has ended
    Scratch& s = shared<Scratch>();
    if (threadIdx.x == 0) mbarrier_init(&s.barrier[0], 8);
    __syncwarp();
    mbarrier_init_fence();
    cluster_sync();
    if (cluster_rank() == 1) return;
    for (int i = 0; i < 4; ++i) __syncthreads();  // time for that
    if (threadIdx.x == 0) mbarrier_arrive_at(&s.barrier[0], 1);
    out[threadIdx.x] = 1;
}

__global__ void wait_for_value_kernel(uint32_t* out, Address address, uint32_t value) {
    uint32_t variable = 0;
    const uint32_t* from[] = {out, reinterpret_cast<uint32_t*>(shared<Scratch>().bytes), &variable};
    wait_for_value(from[address], value);
    out[1 + threadIdx.x] = 1;
}
__global__ void wait_until_above_kernel(uint32_t* out, Address address, uint32_t value) {
    const uint32_t* from[] = {out, reinterpret_cast<uint32_t*>(shared<Scratch>().bytes)};
    out[1 + threadIdx.x] = wait_until_above(from[address], value);
}
__global__ void store_release_kernel(unsigned char* out, int offset) {
    store_release(reinterpret_cast<uint32_t*>(out + offset), 1);
}

struct Memory {
    device::Buffer buffer{8192};
    unsigned char* bytes() const { return reinterpret_cast<unsigned char*>(buffer.data()); }
    template <class T>
    T* as() const {
        return reinterpret_cast<T*>(buffer.data());
    }
};

template <class... Parameters, class... Arguments>
void run(void (*kernel)(Parameters...), unsigned threads, Arguments... arguments) {
    launch({1, threads, kShared}, kernel, arguments...);
    device::synchronize();
}

void map_of(int64_t rows, int64_t columns, int64_t stride, int box, int offset = 0) {
    Memory m;
    (void)tensor_map(reinterpret_cast<const bf16*>(m.bytes() + offset), rows, columns, stride, box);
}

void after_a_failure() {  // every call fails, not only the one that finds it
    Memory m;
    try {
        run(load_kernel, 1, m.as<uint4>(), m.bytes(), of_global, 4);
    } catch (const Error&) {
        device::fill_zero(m.bytes(), 16);
        return;
    }
    std::printf("the fault was not found\n");
}

void allocate_while_capturing(bool host) {
    Memory m;
    device::Recording recording;
    void* more = nullptr;
    for (int i = 0; i < 2; ++i)
        recording.run(1, [&] {
            launch({1, 32}, fill_kernel, m.as<int>());
            if (i == 1) check(host ? cudaMallocHost(&more, 64) : cudaMalloc(&more, 64), "cannot allocate");
        });
}

void tma(int offset, bool fenced, const bf16* matrix) {
    Memory m;
    run(tma_kernel, 32, m.as<int>(), tensor_map(matrix ? matrix : m.as<bf16>(), 8, 64, 64, 8), offset, fenced);
}

alignas(16) unsigned char g_host[64];

const std::map<std::string, std::function<void()>> kFaults = {
    {"load16 of shared memory",
     [] {
         Memory m;
         run(load_kernel, 1, m.as<uint4>(), m.bytes(), of_shared, 0);
     }},
    {"load16 of a variable",
     [] {
         Memory m;
         run(load_kernel, 1, m.as<uint4>(), m.bytes(), of_variable, 0);
     }},
    {"load16 misaligned",
     [] {
         Memory m;
         run(load_kernel, 1, m.as<uint4>(), m.bytes(), of_global, 4);
     }},
    {"load16 beyond the end",
     [] {
         Memory m;
         run(load_kernel, 1, m.as<uint4>(), m.bytes(), of_global, 8192);
     }},
    {"store16 to shared memory",
     [] {
         Memory m;
         run(store_kernel, 1, m.bytes(), of_shared, 0);
     }},
    {"store16 misaligned",
     [] {
         Memory m;
         run(store_kernel, 1, m.bytes(), of_global, 8);
     }},
    {"load8 misaligned",
     [] {
         Memory m;
         run(load8_kernel, 1, m.as<uint2>(), m.bytes(), 4);
     }},
    {"store8 misaligned",
     [] {
         Memory m;
         run(store8_kernel, 1, m.bytes(), of_global, 12);
     }},
    {"store8 to shared memory",
     [] {
         Memory m;
         run(store8_kernel, 1, m.bytes(), of_shared, 0);
     }},
    {"load4 misaligned",
     [] {
         Memory m;
         run(copy4_kernel, 1, m.bytes(), m.bytes(), 2, 0);
     }},
    {"store4 beyond the end",
     [] {
         Memory m;
         run(copy4_kernel, 1, m.bytes(), m.bytes(), 0, 8192);
     }},
    {"load_shared16 of global memory",
     [] {
         Memory m;
         run(load_shared_kernel, 1, m.as<uint4>(), m.bytes(), of_global, 0);
     }},
    {"load_shared16 misaligned",
     [] {
         Memory m;
         run(load_shared_kernel, 1, m.as<uint4>(), m.bytes(), of_shared, 2);
     }},
    {"store_shared16 beyond the end",
     [] {
         Memory m;
         run(store_shared_kernel, 1, m.bytes(), int(kShared));
     }},
    {"cp.async from shared memory",
     [] {
         Memory m;
         run(cp_async_kernel, 1, m.bytes(), m.bytes(), of_shared, of_shared, 0);
     }},
    {"cp.async to global memory",
     [] {
         Memory m;
         run(cp_async_kernel, 1, m.bytes(), m.bytes(), of_global, of_global, 0);
     }},
    {"cp.async misaligned",
     [] {
         Memory m;
         run(cp_async_kernel, 1, m.bytes(), m.bytes(), of_global, of_shared, 8);
     }},
    {"ldmatrix of global memory",
     [] {
         Memory m;
         run(ldmatrix_kernel, 32, m.as<uint32_t>(), of_global, 0);
     }},
    {"ldmatrix beyond the end",
     [] {
         Memory m;
         run(ldmatrix_address_kernel, 32, m.as<uint32_t>(), int(kShared));
     }},
    {"ldmatrix misaligned",
     [] {
         Memory m;
         run(ldmatrix_kernel, 32, m.as<uint32_t>(), of_shared, 4);
     }},
    {"host memory as an argument", [] { run(load_kernel, 1, reinterpret_cast<uint4*>(g_host), g_host, of_global, 0); }},
    {"launch bounds",
     [] {
         Memory m;
         run(bounded_kernel, 96, m.as<int>());
     }},
    {"too many threads",
     [] {
         Memory m;
         run(fill_kernel, 1056, m.as<int>());
     }},
    {"shared memory",
     [] {
         Memory m;
         launch({1, 32, 160 << 10}, fill_kernel, m.as<int>());
     }},
    {"cluster",
     [] {
         Memory m;
         launch({2, 32, 0, 2}, fill_kernel, m.as<int>());
     }},
    {"mbarrier wait",
     [] {
         Memory m;
         run(wait_kernel, 1, m.as<int>());
     }},
    {"wgmma",
     [] {
         Memory m;
         run(wgmma_kernel, 128, m.as<float>(), Wgmma{});
     }},
    {"TMA", [] { tma(0, true, nullptr); }},
    {"wgmma without a fence",
     [] {
         Memory m;
         run(wgmma_kernel, 128, m.as<float>(), Wgmma{.fenced = false});
     }},
    {"wgmma of ordinary stores",
     [] {
         Memory m;
         run(wgmma_kernel, 128, m.as<float>(), Wgmma{.stored_before_fence = false});
     }},
    {"wgmma of different operands",
     [] {
         Memory m;
         run(wgmma_kernel, 128, m.as<float>(), Wgmma{.same_operands = false});
     }},
    {"wgmma outside shared memory",
     [] {
         Memory m;
         run(wgmma_kernel, 128, m.as<float>(), Wgmma{.inside = false});
     }},
    {"wgmma of registers that change",
     [] {
         Memory m;
         run(wgmma_registers_kernel, 128, m.as<float>(), false);
     }},
    {"wgmma of registers without a fence",
     [] {
         Memory m;
         run(wgmma_registers_kernel, 128, m.as<float>(), true);
     }},
    {"TMA without a fence", [] { tma(0, false, nullptr); }},
    {"TMA misaligned", [] { tma(128, true, nullptr); }},
    {"TMA of host memory", [] { tma(0, true, reinterpret_cast<const bf16*>(g_host)); }},
    {"tensor map: base", [] { map_of(8, 64, 64, 8, 2); }},
    {"tensor map: stride", [] { map_of(8, 60, 60, 8); }},
    {"tensor map: short stride", [] { map_of(8, 64, 32, 8); }},
    {"tensor map: box", [] { map_of(8, 64, 64, 257); }},
    {"tensor map: size", [] { map_of(0, 64, 64, 8); }},
    {"named barrier in half a warp",
     [] {
         Memory m;
         run(named_barrier_kernel, 32, m.as<int>());
     }},
    {"mbarrier count",
     [] {
         Memory m;
         run(barrier_count_kernel, 1, m.as<int>(), 0);
     }},
    {"mbarrier bytes",
     [] {
         Memory m;
         run(barrier_bytes_kernel, 1, m.as<int>(), 1 << 20);
     }},
    {"mbarrier phase missed",
     [] {
         Memory m;
         run(two_phases_kernel, 64, m.as<int>());
     }},
    {"registers that nobody gives up",
     [] {
         Memory m;
         run(registers_kernel, 384, m.as<int>());
     }},
    {"arrival at a block that has ended",
     [] {
         Memory m;
         launch({2, 32, kShared, 2}, late_arrive_kernel, m.as<int>());
         device::synchronize();
     }},
    {"wait for a value in shared memory",
     [] {
         Memory m;
         run(wait_for_value_kernel, 1, m.as<uint32_t>(), of_shared, 0u);
     }},
    {"wait for a value that no block stores",
     [] {
         Memory m;
         launch({4, 256, kShared}, wait_for_value_kernel, m.as<uint32_t>(), of_global, 7u);
         device::synchronize();
     }},
    {"wait until above in shared memory",
     [] {
         Memory m;
         run(wait_until_above_kernel, 1, m.as<uint32_t>(), of_shared, 0u);
     }},
    {"wait until above what no block stores",
     [] {
         Memory m;
         launch({4, 256, kShared}, wait_until_above_kernel, m.as<uint32_t>(), of_global, 7u);
         device::synchronize();
     }},
    {"store_release misaligned",
     [] {
         Memory m;
         run(store_release_kernel, 1, m.bytes(), 2);
     }},
    {"call after a failure", after_a_failure},
    {"cudaMalloc while capturing", [] { allocate_while_capturing(false); }},
    {"cudaMallocHost while capturing", [] { allocate_while_capturing(true); }},
};

}  // namespace

int main(int argc, char** argv) {
    if (argc < 2) {
        for (const auto& [name, fault] : kFaults) std::printf("%s\n", name.c_str());
        return 0;
    }
    try {
        device::initialize(1);
        kFaults.at(argv[1])();
    } catch (const Error& error) {
        std::fprintf(stderr, "%s\n", error.what());
        return error.exit_code;
    } catch (const std::exception& error) {
        std::fprintf(stderr, "%s\n", error.what());
        return 1;
    }
    return 0;
}
