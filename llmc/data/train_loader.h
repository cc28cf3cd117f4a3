// The endless stream of training batches, in the order of doc/formats.md. A thread reads the next batch while the
// current one is in use.
#pragma once
#include <condition_variable>
#include <cstdint>
#include <exception>
#include <mutex>
#include <optional>
#include <thread>
#include <vector>

#include "llmc/core/random.h"
#include "llmc/data/dataset.h"

namespace llmc {

// The window of each sample number. Its state is only a cache.
class SampleOrder {
public:
    SampleOrder(const Dataset& dataset, uint64_t seed) : dataset_(dataset), seed_(seed) {}
    struct Place {
        size_t shard;
        int64_t window;
    };
    Place place_of(int64_t sample);

private:
    void visit_epoch(int64_t epoch);

    const Dataset& dataset_;
    uint64_t seed_;
    int64_t epoch_ = -1;
    std::vector<int64_t> shard_order_, first_sample_;  // per visited shard: its first sample within the epoch
    int64_t open_shard_ = -1;
    std::vector<int64_t> window_order_;
};

class TrainLoader {
public:
    struct Options {
        int batch_size;
        bool shuffle, overfit_single_batch;
        uint64_t seed;
        int rank = 0, ranks = 1;  // of ranks * batch_size samples at a time, rank r has the r-th batch_size
    };
    // Starts at sample number `position`, the number of sequences returned so far to all ranks: the loader has no other
    // state.
    TrainLoader(const Dataset& dataset, const Options& options, int64_t position);
    ~TrainLoader();

    Batch next();  // data error if a token is outside the vocabulary
    int64_t position() const { return position_; }

private:
    Batch load(int64_t position);
    void read_ahead();  // the thread

    const Dataset& dataset_;
    Options options_;
    SampleOrder order_;  // used only by the thread
    int64_t position_;   // of the caller
    std::mutex mutex_;
    std::condition_variable changed_;
    std::optional<Batch> ready_;
    std::exception_ptr error_;
    bool stop_ = false;
    std::thread thread_;
};

// 0..n-1 in the order of a stable sort by 64-bit random keys.
std::vector<int64_t> random_order(int64_t n, uint64_t seed, Purpose purpose, uint32_t stream);

}  // namespace llmc
