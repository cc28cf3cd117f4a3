// Python threads take turns. Kernels' scratch memory, the device's queue and a model's state are made for one caller.
#pragma once
#include <pybind11/pybind11.h>
#include <mutex>
#include "llmc/core/threads.h"
#include "llmc/ops/device.h"

namespace llmc::python {

// Recursive: a call that creates Python objects may start Python's garbage collection, which may delete a model.
inline std::recursive_mutex& turns() {
    static std::recursive_mutex mutex;
    return mutex;
}

// For work without Python objects: other threads run Python code meanwhile. Nobody waits for a turn while holding the
// global interpreter lock (GIL), so that the two locks cannot block each other.
class Turn {
public:
    Turn() : lock_(turns()) { use_host_threads(device::threads()); }

private:
    pybind11::gil_scoped_release without_gil_;
    std::unique_lock<std::recursive_mutex> lock_;  // released before the GIL is taken again
};

// For work that needs Python objects: keeps the GIL, but gives it to others while waiting.
class TurnWithGil {
public:
    TurnWithGil() : lock_(wait()) { use_host_threads(device::threads()); }

private:
    static std::unique_lock<std::recursive_mutex> wait() {
        const pybind11::gil_scoped_release without_gil;
        return std::unique_lock(turns());
    }
    std::unique_lock<std::recursive_mutex> lock_;
};

// The part of such work that needs no Python objects. The turn is kept.
template <class Work>
void without_gil(Work&& work) {
    const pybind11::gil_scoped_release without_gil;
    work();
}

}  // namespace llmc::python
