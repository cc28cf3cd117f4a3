// Every collective on many sizes, several at a time, with each element checked; tests/test_collectives.py starts it as
// several processes. Prints "N collectives of R ranks by LIBRARY: right" on rank 0.
#include <cmath>
#include <cstdio>
#include <cstring>
#include <vector>

#include "llmc/comm/group.h"
#include "llmc/ops/device.h"
#include "llmc/ops/ops.h"

using namespace llmc;

namespace {

// Small whole numbers, whose sums are exact: of element i on rank r, in operation `round`.
float number(int64_t i, int r, int round) { return float((i * 7 + r * 13 + round * 3) % 101 - 50); }
float sum_of(int64_t i, int ranks, int round) {
    float sum = 0;
    for (int r = 0; r < ranks; ++r) sum += number(i, r, round);
    return sum;
}

class Tests {
public:
    Tests(Comm& comm, bool waits) : comm_(comm), waits_(waits) {}
    int done() const { return done_; }

    // Five operations on tensors of their own run at the same time; they are waited for in another order. The device
    // has only been told to write what they send when they start, and to read what they bring when the host goes on.
    void run(int64_t elements, int round) {
        const std::vector<ElementRange> parts = parts_of(elements, comm_.size());
        const int root = round % comm_.size();
        std::vector<Tensor> sent, data, result;
        buffers_.clear();
        for (int i = 0; i < 5; ++i) {
            sent.push_back(tensor(elements)), data.push_back(tensor(elements)), result.push_back(tensor(elements));
            upload(sent.back(), round + i);
        }
        for (size_t i = 0; i < 5; ++i) cast(data[i], sent[i]);
        const int64_t handles[] = {comm_.all_reduce(data[0]), comm_.reduce_scatter(data[1], parts),
                                   comm_.all_gather(data[2], parts), comm_.broadcast(data[3], root),
                                   comm_.gather_to(data[4], parts, root)};
        for (size_t i : {2, 4, 0, 3, 1}) {
            if (waits_) comm_.wait(handles[i]);
            cast(result[i], data[i]);
        }
        const ElementRange own = parts[size_t(comm_.rank())];
        check("all_reduce", result[0], {0, elements}, [&](int64_t i) { return sum_of(i, comm_.size(), round); });
        check("reduce_scatter", result[1], own, [&](int64_t i) { return sum_of(i, comm_.size(), round + 1); });
        check("all_gather", result[2], {0, elements}, [&](int64_t i) { return number(i, owner(parts, i), round + 2); });
        check("broadcast", result[3], {0, elements}, [&](int64_t i) { return number(i, root, round + 3); });
        const ElementRange got = comm_.rank() == root ? ElementRange{0, elements} : own;
        check("gather_to", result[4], got, [&](int64_t i) { return number(i, owner(parts, i), round + 4); });
        done_ += 5;
    }

    // bf16 values travel as their bits.
    void gather_bf16(int64_t elements) {
        const std::vector<ElementRange> parts = parts_of(elements, comm_.size());
        device::Buffer buffer(size_t(elements) * 2);
        std::vector<uint16_t> bits(static_cast<size_t>(elements), 0);
        const auto expected = [](int64_t i) { return uint16_t(i * 40503 + 1); };  // NaNs and denormals too
        const ElementRange own = parts[size_t(comm_.rank())];
        for (int64_t i = own.begin; i < own.end(); ++i) bits[size_t(i)] = expected(i);
        device::copy_to_device(buffer.data(), bits.data(), bits.size() * 2);
        comm_.wait(comm_.all_gather(Tensor(buffer.data(), DType::bf16, {elements}), parts));
        device::copy_to_host(bits.data(), buffer.data(), bits.size() * 2);
        for (int64_t i = 0; i < elements; ++i)
            if (bits[size_t(i)] != expected(i)) wrong("all_gather of bf16", i, elements, bits[size_t(i)], expected(i));
        ++done_;
    }

    void gather_numbers(size_t count) {
        std::vector<double> own(count);
        for (size_t i = 0; i < count; ++i) own[i] = std::sqrt(double(i + 1)) * (comm_.rank() + 1);
        const std::vector<double> all = comm_.gather(own);
        for (size_t i = 0; i < all.size(); ++i) {
            const double expected = std::sqrt(double(i % count + 1)) * double(i / count + 1);
            if (all.size() != count * size_t(comm_.size()) || all[i] != expected)
                wrong("gather", int64_t(i), int64_t(count), all[i], expected);
        }
        ++done_;
    }

private:
    Tensor tensor(int64_t elements) {
        buffers_.emplace_back(size_t(elements) * sizeof(float));
        return Tensor(buffers_.back().data(), DType::f32, {elements});
    }
    static int owner(const std::vector<ElementRange>& parts, int64_t i) {
        for (size_t r = 0; r < parts.size(); ++r)
            if (i >= parts[r].begin && i < parts[r].end()) return int(r);
        return -1;
    }
    void upload(Tensor to, int round) {
        std::vector<float> values(size_t(to.numel()));
        for (size_t i = 0; i < values.size(); ++i) values[i] = number(int64_t(i), comm_.rank(), round);
        device::copy_to_device(to.data, values.data(), to.bytes());
    }
    template <class Expected>
    void check(const char* what, Tensor from, ElementRange range, Expected&& expected) {
        std::vector<float> values(size_t(from.numel()));
        device::copy_to_host(values.data(), from.data, from.bytes());
        for (int64_t i = range.begin; i < range.end(); ++i)
            if (values[size_t(i)] != expected(i)) wrong(what, i, from.numel(), values[size_t(i)], expected(i));
    }
    [[noreturn]] void wrong(const char* what, int64_t i, int64_t elements, double is, double expected) {
        fail(what, " of ", elements, " elements on rank ", comm_.rank(), ": element ", i, " is ", is, ", not ",
             expected);
    }

    Comm& comm_;
    bool waits_;
    std::vector<device::Buffer> buffers_;
    int done_ = 0;
};

void run_all(Group& group, bool waits) {
    device::initialize(1, {group.local_rank(), group.sharing_cpus()});
    group.open_comm();
    Tests tests(group.comm(), waits);
    int round = 0;
    for (int64_t elements : {1, 2, 15, 16, 17, 47, 48, 49, 1000, 4096, 4099, 65536, 300007}) {
        for (int repeat = 0; repeat < 3; ++repeat) tests.run(elements, round++);
        tests.gather_bf16(elements);
    }
    for (size_t count : {1, 2, 5, 1000}) tests.gather_numbers(count);
    group.comm().barrier();
    if (group.rank() == 0)
        std::printf("%d collectives of %d ranks by %s: right\n", tests.done(), group.size(),
                    group.comm().name().c_str());
}

}  // namespace

int main(int argc, char** argv) {
    try {
        WorldOptions options;
        bool waits = true;
        for (int i = 1; i + 1 < argc; i += 2) {
            if (!std::strcmp(argv[i], "--rank")) options.rank = std::atoi(argv[i + 1]);
            if (!std::strcmp(argv[i], "--world-size")) options.world_size = std::atoi(argv[i + 1]);
            if (!std::strcmp(argv[i], "--master")) options.master = argv[i + 1];
            if (!std::strcmp(argv[i], "--wait")) waits = std::atoi(argv[i + 1]) != 0;
        }
        Group group(find_world(options), "collectives", "collectives");
        try {
            run_all(group, waits);
        } catch (const std::exception& error) {
            group.control().fail(1, error.what());
        }
        return 0;
    } catch (const std::exception& error) {
        std::fprintf(stderr, "collectives: %s\n", error.what());
        _exit(1);
    }
}
