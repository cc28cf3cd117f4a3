#include "llmc/data/dataset.h"

#include <algorithm>
#include <numeric>

#include "llmc/core/error.h"
#include "llmc/core/format.h"
#include "llmc/core/no_target.h"
#include "llmc/data/shard_paths.h"

namespace llmc {

Dataset::Dataset(const std::vector<std::string>& patterns, const std::string& option, int seq_len) : seq_len_(seq_len) {
    ShardPaths found = find_shards(patterns, option);
    for (const std::string& path : found.paths) shards_.emplace_back(path);
    notes_ = std::move(found.notes);
    for (size_t i = 0; i < shards_.size(); ++i) {
        windows_ += windows_of(i);
        if (shards_[i].vocab_size != shards_[0].vocab_size || shards_[i].tokenizer != shards_[0].tokenizer)
            fail_data(option, ": ", shards_[i].path, " was made with another tokenizer or vocabulary than ",
                      shards_[0].path);
    }
    if (windows_ == 0)
        fail_data(option, " '", shards_[0].path, shards_.size() > 1 ? "', ..." : "'", " holds ",
                  plural(tokens(), "token"), ", fewer than one sequence of ", seq_len,
                  " and its target: shorten --seq-len or use more text");
}

std::vector<SharedShard> shared_shards(const Dataset& train, const Dataset& val) {
    std::vector<SharedShard> shared;
    for (const Shard& v : val.shards()) {
        const auto same = std::find_if(train.shards().begin(), train.shards().end(),
                                       [&](const Shard& t) { return t.has_the_tokens_of(v); });
        if (same != train.shards().end()) shared.push_back({v.path, same->path});
    }
    return shared;
}

int64_t Dataset::tokens() const {
    return std::accumulate(shards_.begin(), shards_.end(), int64_t{0},
                           [](int64_t n, const Shard& s) { return n + s.tokens; });
}

double Dataset::tokens_per_byte() const {
    int64_t bytes = 0;
    for (const Shard& s : shards_) {
        if (s.bytes == 0) return 0;
        bytes += s.bytes;
    }
    return double(tokens()) / double(bytes);
}

int Dataset::vocab_size() const { return shards_[0].vocab_size; }

std::string Dataset::tokenizer() const {
    return shards_[0].tokenizer == 1 ? "byte" : shards_[0].tokenizer == 2 ? "gpt2" : "unknown";
}

void Dataset::read(size_t shard, int64_t window, Batch& batch, int row) const {
    const Shard& s = shards_[shard];
    int32_t *inputs = &batch.inputs[size_t(row) * size_t(seq_len_)],
            *targets = &batch.targets[size_t(row) * size_t(seq_len_)];
    s.read(window * seq_len_, seq_len_, checked_vocab_size_, inputs);
    std::copy_n(inputs + 1, seq_len_ - 1, targets);
    s.read((window + 1) * seq_len_, 1, checked_vocab_size_, targets + seq_len_ - 1);
}

void Dataset::add_segments(size_t shard, int64_t end, int rows, int stride, std::vector<Segment>& segments) const {
    const int overlap = seq_len_ - stride;
    for (int64_t begin = 0; begin == 0 ? end > 0 : begin + overlap < end;) {
        const int64_t left = end - begin, whole = (left - seq_len_) / stride + 1;  // windows that fit into it
        const int count = left < seq_len_ ? 1 : int(std::min<int64_t>(whole, rows));
        segments.push_back({shard, begin, count, int(std::min<int64_t>(left, seq_len_)), stride, overlap});
        begin += int64_t{count} * stride;
    }
}

std::vector<Segment> Dataset::first_targets(int64_t count, int rows, int stride) const {
    std::vector<Segment> segments;
    int64_t remaining = count > 0 ? count : INT64_MAX;
    for (size_t shard = 0; shard < shards_.size(); ++shard) {
        const int64_t end = std::min(shards_[shard].tokens - 1, remaining);
        add_segments(shard, end, rows, stride, segments);
        remaining -= end;
    }
    return segments;
}

std::vector<Segment> Dataset::first_windows(int64_t count, int rows) const {
    std::vector<Segment> segments;
    int64_t remaining = count > 0 ? count : windows_;
    for (size_t shard = 0; shard < shards_.size(); ++shard) {
        const int64_t windows = std::min(windows_of(shard), remaining);
        add_segments(shard, windows * seq_len_, rows, seq_len_, segments);
        remaining -= windows;
    }
    return segments;
}

Batch Dataset::read(const Segment& segment) const {
    Batch batch(segment.rows, segment.length);
    const int64_t T = segment.length, stride = segment.stride;
    std::vector<int32_t> tokens(size_t((segment.rows - 1) * stride + T + 1));
    shards_[segment.shard].read(segment.begin, int64_t(tokens.size()), checked_vocab_size_, tokens.data());
    for (int row = 0; row < segment.rows; ++row) {
        const auto window = tokens.begin() + row * stride;
        std::copy_n(window, T, batch.inputs.begin() + row * T);
        std::copy_n(window + 1, T, batch.targets.begin() + row * T);
        std::fill_n(batch.targets.begin() + row * T, segment.uncounted(row), kNoTarget);
    }
    return batch;
}

Batch Dataset::in_file_order(int64_t first, int rows) const {
    Batch batch(rows, seq_len_);
    for (int row = 0; row < rows; ++row) {
        int64_t window = (first + row) % windows_;
        size_t shard = 0;
        while (window >= windows_of(shard)) window -= windows_of(shard++);
        read(shard, window, batch, row);
    }
    return batch;
}

}  // namespace llmc
