// How the processes of a run divide the batches of an evaluation.
#pragma once
#include <cstdint>
#include <functional>
#include <vector>

namespace llmc {

// Of `ranks` batches at a time, rank r has the r-th. All ranks call go_on and sum equally often.
struct SharedWork {
    int rank = 0, ranks = 1;
    // Called before each round with the number of batches that are done, and that of all; the work ends if it says no.
    std::function<bool(int64_t done, int64_t all)> go_on;
    std::function<std::vector<double>(const std::vector<double>& own)> sum = [](const auto& own) { return own; };
};

}  // namespace llmc
