#include "llmc/data/train_loader.h"

#include <algorithm>

#include "llmc/core/error.h"

namespace llmc {

std::vector<int64_t> random_order(int64_t n, uint64_t seed, Purpose purpose, uint32_t stream) {
    std::vector<std::pair<uint64_t, int64_t>> keys(n);
    for (int64_t i = 0; i < n; ++i) {
        Philox x = draw(seed, purpose, stream, uint64_t(i));
        keys[i] = {x[0] | uint64_t(x[1]) << 32, i};
    }
    std::sort(keys.begin(), keys.end());  // equal keys in order of the index: a stable sort
    std::vector<int64_t> order(n);
    for (int64_t i = 0; i < n; ++i) order[i] = keys[i].second;
    return order;
}

SampleOrder::Place SampleOrder::place_of(int64_t sample) {
    visit_epoch(sample / dataset_.windows());
    const int64_t within = sample % dataset_.windows();
    const size_t visit = size_t(std::upper_bound(first_sample_.begin(), first_sample_.end(), within) -
                                first_sample_.begin() - 1);
    const int64_t shard = shard_order_[visit];
    if (open_shard_ != shard) {
        window_order_ = random_order(dataset_.windows_of(size_t(shard)), seed_, Purpose::window_order,
                                     uint32_t(epoch_ * 65536 + shard));
        open_shard_ = shard;
    }
    return {size_t(shard), window_order_[size_t(within - first_sample_[visit])]};
}

void SampleOrder::visit_epoch(int64_t epoch) {
    if (epoch == epoch_) return;
    epoch_ = epoch;
    open_shard_ = -1;
    shard_order_ = random_order(int64_t(dataset_.shards().size()), seed_, Purpose::shard_order, uint32_t(epoch));
    first_sample_.clear();
    int64_t first = 0;
    for (int64_t shard : shard_order_) {
        first_sample_.push_back(first);
        first += dataset_.windows_of(shard);
    }
}

TrainLoader::TrainLoader(const Dataset& dataset, const Options& options, int64_t position)
    : dataset_(dataset), options_(options), order_(dataset, options.seed), position_(position) {
    if (options.overfit_single_batch && dataset.windows() < options.batch_size)
        fail_data("--overfit-single-batch needs ", options.batch_size, " sequences, the training data holds ",
                  dataset.windows());
    thread_ = std::thread([this] { read_ahead(); });
}

TrainLoader::~TrainLoader() {
    {
        const std::lock_guard lock(mutex_);
        stop_ = true;
    }
    changed_.notify_all();
    thread_.join();
}

void TrainLoader::read_ahead() {
    for (int64_t position = position_;; position += int64_t{options_.ranks} * options_.batch_size) {
        std::optional<Batch> batch;
        std::exception_ptr error;
        try {
            batch = load(position);
        } catch (...) {
            error = std::current_exception();
        }
        std::unique_lock lock(mutex_);
        changed_.wait(lock, [this] { return stop_ || !ready_; });
        if (stop_) return;
        ready_ = std::move(batch);
        error_ = error;
        changed_.notify_all();
        if (error) return;
    }
}

Batch TrainLoader::next() {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [this] { return ready_ || error_; });
    if (error_) std::rethrow_exception(error_);
    Batch batch = *std::move(ready_);
    ready_.reset();
    position_ += int64_t{options_.ranks} * options_.batch_size;
    changed_.notify_all();
    return batch;
}

Batch TrainLoader::load(int64_t position) {
    if (options_.overfit_single_batch) return dataset_.in_file_order(0, options_.batch_size);
    position += int64_t{options_.rank} * options_.batch_size;
    if (!options_.shuffle) return dataset_.in_file_order(position, options_.batch_size);
    Batch batch(options_.batch_size, dataset_.seq_len());
    for (int row = 0; row < batch.rows; ++row) {
        const SampleOrder::Place place = order_.place_of(position + row);
        dataset_.read(place.shard, place.window, batch, row);
    }
    return batch;
}

}  // namespace llmc
