#include "llmc/cpu/scratch.h"
#include <sys/mman.h>
#include <cstdlib>
#include "llmc/core/error.h"

namespace llmc::cpu {
namespace {

struct ScratchBuffers {
    void* data[int(Scratch::count)] = {};
    int64_t count[int(Scratch::count)] = {};
    ~ScratchBuffers() {
        for (void* p : data) std::free(p);
    }
};
thread_local ScratchBuffers g_scratch;

}  // namespace

float* scratch(Scratch use, int64_t count) {
    void*& data = g_scratch.data[int(use)];
    int64_t& have = g_scratch.count[int(use)];
    if (count > have) {
        std::free(data);
        data = nullptr;
        have = 0;
        size_t bytes = (size_t(count) * sizeof(float) + 4095) / 4096 * 4096;
        data = std::aligned_alloc(4096, bytes);
        if (!data) fail("cannot allocate ", bytes, " bytes of scratch memory");
        if (bytes >= (size_t{4} << 20)) madvise(data, bytes, MADV_HUGEPAGE);
        have = count;
    }
    return static_cast<float*>(data);
}

}  // namespace llmc::cpu
