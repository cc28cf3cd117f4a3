// Calls that tell ThreadSanitizer and AddressSanitizer about fibers. For ThreadSanitizer every CUDA thread is a thread,
// and only what orders memory on a GPU (barriers, mbarriers) orders it here, so that a missing barrier is a data race,
// which it reports with both source lines. The emulator's .cpp files are not instrumented: only the kernels' accesses
// count.
#pragma once
#include <cstddef>

// The counting build uses -fsanitize=thread without its runtime (counters.h).
#if (defined(__SANITIZE_THREAD__) || defined(LLMC_EMULATOR_TSAN)) && !defined(LLMC_EMULATOR_COUNT)
#include <sanitizer/tsan_interface.h>
#define LLMC_TSAN 1
#else
#define LLMC_TSAN 0
#endif
#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#define LLMC_ASAN 1
#else
#define LLMC_ASAN 0
#endif

#if LLMC_TSAN
extern "C" {
void __tsan_write_range(void* memory, unsigned long bytes);
void __tsan_read_range(void* memory, unsigned long bytes);
void AnnotateIgnoreReadsBegin(const char* file, int line);
void AnnotateIgnoreReadsEnd(const char* file, int line);
void AnnotateIgnoreWritesBegin(const char* file, int line);
void AnnotateIgnoreWritesEnd(const char* file, int line);
}
#endif

namespace llmc::emulator {

#if LLMC_TSAN
// While one exists, ThreadSanitizer ignores the emulator's own allocations.
struct Quiet {
    Quiet() {
        AnnotateIgnoreReadsBegin("", 0);
        AnnotateIgnoreWritesBegin("", 0);
    }
    ~Quiet() {
        AnnotateIgnoreWritesEnd("", 0);
        AnnotateIgnoreReadsEnd("", 0);
    }
};
inline void order_release(void* token) { __tsan_release(token); }
inline void order_acquire(void* token) { __tsan_acquire(token); }
// An access by the emulator that counts as the kernel's.
inline void record_write(void* memory, size_t bytes) { __tsan_write_range(memory, bytes); }
inline void record_read(void* memory, size_t bytes) { __tsan_read_range(memory, bytes); }
inline void* tsan_current_fiber() { return __tsan_get_current_fiber(); }
inline void* tsan_create_fiber() { return __tsan_create_fiber(0); }
inline void tsan_destroy_fiber(void* fiber) { __tsan_destroy_fiber(fiber); }
inline void tsan_switch(void* fiber) { __tsan_switch_to_fiber(fiber, __tsan_switch_to_fiber_no_sync); }
#else
struct Quiet {
    Quiet() {}
};
inline void order_release(void*) {}
inline void order_acquire(void*) {}
inline void record_write(void*, size_t) {}
inline void record_read(void*, size_t) {}
inline void* tsan_current_fiber() { return nullptr; }
inline void* tsan_create_fiber() { return nullptr; }
inline void tsan_destroy_fiber(void*) {}
inline void tsan_switch(void*) {}
#endif

#if LLMC_ASAN
// Around a switch. `save` receives the state of the stack that is left (null: it is not entered again).
inline void asan_start_switch(void** save, const void* bottom, size_t size) {
    __sanitizer_start_switch_fiber(save, bottom, size);
}
inline void asan_finish_switch(void* saved, const void** bottom, size_t* size) {
    __sanitizer_finish_switch_fiber(saved, bottom, size);
}
inline void asan_unpoison(void* memory, size_t size) { __asan_unpoison_memory_region(memory, size); }
inline void asan_poison(void* memory, size_t size) { __asan_poison_memory_region(memory, size); }
#else
inline void asan_start_switch(void**, const void*, size_t) {}
inline void asan_finish_switch(void*, const void**, size_t*) {}
inline void asan_unpoison(void*, size_t) {}
inline void asan_poison(void*, size_t) {}
#endif

}  // namespace llmc::emulator
