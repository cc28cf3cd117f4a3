// A ring of stages in shared memory between one thread that fills them by bulk copies and the consumers that read them,
// in all blocks of a cluster.
#pragma once
#include "llmc/cuda/gpu/hopper.h"

namespace llmc::cuda {

// Where one participant is in the ring. Each has its own.
template <int kStages>
struct Position {
    int slot = 0, parity = 0;  // parity: of the times around the ring

    GPU void advance() {
        if (++slot < kStages) return;
        slot = 0;
        parity ^= 1;
    }
};

template <int kStages>
struct Ring {
    uint64_t full[kStages], empty[kStages];

    // By one thread. `releases`: arrivals that make a stage empty.
    GPU void initialise(int releases) {
        for (int i = 0; i < kStages; ++i) {
            gpu::mbarrier_init(&full[i], 1);
            gpu::mbarrier_init(&empty[i], releases);
        }
    }
    // The producer: the stage is empty in all blocks, and `bytes` are expected in this one.
    GPU void acquire(const Position<kStages>& at, int bytes) {
        gpu::mbarrier_wait(&empty[at.slot], at.parity ^ 1);  // a new barrier counts as one whose last phase is over
        gpu::mbarrier_arrive_expect(&full[at.slot], bytes);
    }
    // A consumer.
    GPU void wait(const Position<kStages>& at) { gpu::mbarrier_wait(&full[at.slot], at.parity); }
    GPU void release(const Position<kStages>& at, int rank) { gpu::mbarrier_arrive_at(&empty[at.slot], rank); }
    GPU void release(const Position<kStages>& at) { gpu::mbarrier_arrive(&empty[at.slot]); }  // without a cluster
};

}  // namespace llmc::cuda
