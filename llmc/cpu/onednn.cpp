#include "llmc/cpu/onednn.h"
#include <omp.h>
#include <array>
#include <bit>
#include <map>
#include <oneapi/dnnl/dnnl.hpp>
#include <unordered_map>
#include "llmc/core/error.h"
#include "llmc/ops/device.h"

namespace llmc::cpu {
namespace {

using dnnl::memory;

const dnnl::engine& engine() {
    static const dnnl::engine engine(dnnl::engine::kind::cpu, 0);
    return engine;
}

memory::data_type type_of(DType dtype) {
    return dtype == DType::bf16 ? memory::data_type::bf16 : memory::data_type::f32;
}

int64_t stride_of_a(const Product& p) { return p.a_stride ? p.a_stride : p.a_transposed ? p.m : p.k; }

struct Descriptors {
    memory::desc a, b, c, bias;
    explicit Descriptors(const Product& p)
        : a({p.m, p.k}, type_of(p.in),
            p.a_transposed ? memory::dims{1, stride_of_a(p)} : memory::dims{stride_of_a(p), 1}),
          b({p.k, p.n}, type_of(p.in), p.b_transposed ? memory::dims{1, p.k} : memory::dims{p.n, 1}),
          c({p.m, p.n}, type_of(p.out), memory::dims{p.n, 1}),
          bias({1, p.n}, memory::data_type::f32, memory::dims{p.n, 1}) {}
};

dnnl::primitive_attr attributes_of(const Product& p) {
    dnnl::post_ops ops;  // in the order in which they are applied
    // c + alpha a b as alpha (c / alpha + a b): for the other order, with a transposed, oneDNN 2.6 has only its
    // reference implementation in bf16, hundreds of times slower.
    if (p.accumulate) ops.append_sum(1 / p.alpha);
    if (p.alpha != 1) {
#if DNNL_VERSION_MAJOR >= 3
        ops.append_eltwise(dnnl::algorithm::eltwise_linear, p.alpha, 0);
#else
        ops.append_eltwise(1, dnnl::algorithm::eltwise_linear, p.alpha, 0);
#endif
    }
    dnnl::primitive_attr attributes;
    attributes.set_post_ops(ops);
    return attributes;
}

class Primitive {
public:
    explicit Primitive(const Product& p) : Primitive(p, Descriptors(p)) {}

    void execute(const Product& p) {
        point(DNNL_ARG_SRC, p.a);
        point(DNNL_ARG_WEIGHTS, p.b);
        point(DNNL_ARG_DST, p.c);
        if (p.bias) point(DNNL_ARG_BIAS, p.bias);
        matmul_.execute(stream_, arguments_);
        stream_.wait();
    }

private:
    Primitive(const Product& p, const Descriptors& d) : matmul_(build(p, d)), stream_(engine()) {
        auto take = [&](int argument, const memory::desc& desc) {
            arguments_.emplace(argument, memory(desc, engine(), nullptr));
        };
        take(DNNL_ARG_SRC, d.a);
        take(DNNL_ARG_WEIGHTS, d.b);
        take(DNNL_ARG_DST, d.c);
        if (p.bias) take(DNNL_ARG_BIAS, d.bias);
    }
    void point(int argument, const void* data) { arguments_.at(argument).set_data_handle(const_cast<void*>(data)); }

    static dnnl::matmul build(const Product& p, const Descriptors& d) {
        // The bias is the primitive's own argument: as a post-op it would make the product a third slower.
        dnnl::primitive_attr attributes = attributes_of(p);
#if DNNL_VERSION_MAJOR >= 3
        return dnnl::matmul(p.bias ? dnnl::matmul::primitive_desc(engine(), d.a, d.b, d.bias, d.c, attributes)
                                   : dnnl::matmul::primitive_desc(engine(), d.a, d.b, d.c, attributes));
#else
        return dnnl::matmul({p.bias ? dnnl::matmul::desc(d.a, d.b, d.bias, d.c) : dnnl::matmul::desc(d.a, d.b, d.c),
                             attributes, engine()});
#endif
    }

    dnnl::matmul matmul_;
    dnnl::stream stream_;
    std::unordered_map<int, memory> arguments_;  // made once: a call only sets the addresses
};

// Everything that a primitive depends on, except the addresses.
using Key = std::array<int64_t, 7>;
Key key_of(const Product& p) {
    int64_t flags = p.a_transposed | p.b_transposed << 1 | p.accumulate << 2 | (p.bias != nullptr) << 3 |
                    int(p.in) << 4 | int(p.out) << 6;
    return {p.m,
            p.n,
            p.k,
            stride_of_a(p),
            flags,
            int64_t(std::bit_cast<uint32_t>(p.alpha)),
            omp_in_parallel() ? 1 : device::threads()};
}

Primitive& primitive_for(const Product& p) {
    static thread_local std::map<Key, Primitive> cache;  // one for each thread: no lock
    Key key = key_of(p);
    auto found = cache.find(key);
    if (found == cache.end()) found = cache.emplace(key, Primitive(p)).first;
    return found->second;
}

// The other interface of oneDNN. If b is not transposed it is up to twice as fast as the primitive, which is slow when
// b exceeds the second-level cache and for long sums. If b is transposed the primitive is faster.
void execute_sgemm(const Product& p) {
    dnnl_status_t status = dnnl_sgemm(p.a_transposed ? 'T' : 'N', p.b_transposed ? 'T' : 'N', p.m, p.n, p.k, p.alpha,
                                      static_cast<const float*>(p.a), stride_of_a(p), static_cast<const float*>(p.b),
                                      p.b_transposed ? p.k : p.n, p.accumulate ? 1.0f : 0.0f, static_cast<float*>(p.c),
                                      p.n);
    if (status != dnnl_success) throw dnnl::error(status, "sgemm failed");
}

}  // namespace

void multiply(const Product& p) {
    if (p.m == 0 || p.n == 0 || p.k == 0 || (p.accumulate && p.alpha == 0)) return;
    bool floats = p.in == DType::f32 && p.out == DType::f32;
    try {
        if (floats && !p.b_transposed && !p.bias)
            execute_sgemm(p);
        else
            primitive_for(p).execute(p);
    } catch (const dnnl::error& e) {
        fail("oneDNN cannot multiply (", p.m, ", ", p.k, ") by (", p.k, ", ", p.n, ") in ", name_of(p.in), ": ",
             e.what());
    }
}

bool has_fast_bf16() {
    static const bool fast = [] {
        int isa = int(dnnl::get_effective_cpu_isa()), needed = int(dnnl::cpu_isa::avx512_core_bf16);
        return (isa & needed) == needed;
    }();
    return fast;
}

}  // namespace llmc::cpu
