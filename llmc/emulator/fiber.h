// A fiber: code with its own stack that runs until it switches to another. One fiber is one CUDA thread. A switch takes
// a few nanoseconds; between threads of the operating system it would take a thousand.
#pragma once
#include <cstddef>
#include "llmc/emulator/sanitizers.h"

#if !defined(__x86_64__)
#include <ucontext.h>
#endif

namespace llmc::emulator {

// The stacks of one worker: one mapping with a guard page below each stack, so that an overflow is a fault.
class Stacks {
public:
    explicit Stacks(size_t count);
    ~Stacks();
    Stacks(const Stacks&) = delete;
    Stacks& operator=(const Stacks&) = delete;
    char* at(size_t i) const;  // lowest usable address
    size_t count() const { return count_; }
    static size_t bytes();  // usable bytes of one stack

private:
    size_t count_;
    char* memory_;
};

class Fiber {
public:
    Fiber() = default;
    Fiber(const Fiber&) = delete;
    Fiber& operator=(const Fiber&) = delete;
    ~Fiber();

    // The next switch_to() runs `entry`, which must not return: it ends by switching away.
    void prepare(char* stack, void (*entry)());
    // Makes this the fiber of the calling thread.
    void adopt_current_thread();
    // Suspends `from`, which must be running, and continues `to`.
    static void switch_to(Fiber& from, Fiber& to);
    // To be called first in an entry function.
    static void entered();

private:
#if defined(__x86_64__)
    void* stack_pointer_ = nullptr;
#else
    ucontext_t context_;
#endif
    const void* stack_bottom_ = nullptr;
    size_t stack_size_ = 0;
    void *tsan_ = nullptr, *asan_ = nullptr;
    bool owns_tsan_ = false;
};

}  // namespace llmc::emulator
