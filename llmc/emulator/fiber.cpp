#include "llmc/emulator/fiber.h"

#include <sys/mman.h>

#include <cstdint>
#include <new>

#if defined(__x86_64__)
// Saves the callee-saved registers on the old stack and restores them from the new one (System V calling convention).
extern "C" void llmc_switch_stack(void** save, void* restore);
asm(R"(.text
.globl llmc_switch_stack
.type llmc_switch_stack,@function
llmc_switch_stack:
    pushq %rbp
    pushq %rbx
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    movq %rsp, (%rdi)
    movq %rsi, %rsp
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbx
    popq %rbp
    ret
.size llmc_switch_stack,.-llmc_switch_stack
)");
#endif

namespace llmc::emulator {
namespace {

constexpr size_t kGuard = 4096;
#if LLMC_ASAN || LLMC_TSAN
constexpr size_t kStack = 252 << 10;  // instrumented frames are larger
#else
constexpr size_t kStack = 60 << 10;
#endif

}  // namespace

size_t Stacks::bytes() { return kStack; }

Stacks::Stacks(size_t count) : count_(count) {
    void* memory = mmap(nullptr, count * (kStack + kGuard), PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory == MAP_FAILED) throw std::bad_alloc();
    memory_ = static_cast<char*>(memory);
    for (size_t i = 0; i < count; ++i) mprotect(memory_ + i * (kStack + kGuard), kGuard, PROT_NONE);
}

Stacks::~Stacks() {
    asan_unpoison(memory_, count_ * (kStack + kGuard));  // other allocations may get these addresses
    munmap(memory_, count_ * (kStack + kGuard));
}

char* Stacks::at(size_t i) const { return memory_ + i * (kStack + kGuard) + kGuard; }

Fiber::~Fiber() {
    if (owns_tsan_) tsan_destroy_fiber(tsan_);
}

void Fiber::adopt_current_thread() { tsan_ = tsan_current_fiber(); }

void Fiber::prepare(char* stack, void (*entry)()) {
    asan_unpoison(stack, kStack);  // the frames of an abandoned fiber were never unwound
    stack_bottom_ = stack;
    stack_size_ = kStack;
    asan_ = nullptr;
    if (!owns_tsan_) {
        tsan_ = tsan_create_fiber();
        owns_tsan_ = LLMC_TSAN;
    }
#if defined(__x86_64__)
    void** top = reinterpret_cast<void**>(stack + kStack);
    *--top = nullptr;
    *--top = reinterpret_cast<void*>(entry);  // the address that llmc_switch_stack returns to
    for (int i = 0; i < 6; ++i) *--top = nullptr;
    stack_pointer_ = top;
#else
    getcontext(&context_);
    context_.uc_stack.ss_sp = stack;
    context_.uc_stack.ss_size = kStack;
    context_.uc_link = nullptr;
    makecontext(&context_, entry, 0);
#endif
}

namespace {
thread_local Fiber* g_left = nullptr;  // from which the last switch came
}

void Fiber::switch_to(Fiber& from, Fiber& to) {
    g_left = &from;
    asan_start_switch(&from.asan_, to.stack_bottom_, to.stack_size_);
    tsan_switch(to.tsan_);
#if defined(__x86_64__)
    llmc_switch_stack(&from.stack_pointer_, to.stack_pointer_);
#else
    swapcontext(&from.context_, &to.context_);
#endif
    asan_finish_switch(from.asan_, &g_left->stack_bottom_, &g_left->stack_size_);
}

void Fiber::entered() { asan_finish_switch(nullptr, &g_left->stack_bottom_, &g_left->stack_size_); }

}  // namespace llmc::emulator
