// Token shards (doc/formats.md), memory-mapped, and the order in which training and evaluation read them.
#pragma once
#include <cstdint>
#include <future>
#include <string>
#include <vector>
#include "llmc/core/mapped_file.h"

namespace llmc {

// One mapped shard. Throws a data error (exit 3) that names the file for anything that is not a complete shard.
class Shard {
public:
    explicit Shard(const std::string& path);

    // Tokens [begin, begin + count), each checked against vocab_size.
    void read(int64_t begin, int64_t count, int64_t vocab_size, int32_t* out) const;

    std::string path;
    int64_t tokens = 0;
    int vocab_size = 0;         // 0: unknown
    int tokenizer = 0;          // 0 unknown, 1 byte, 2 gpt2
    int64_t bytes = 0;          // of source text; 0: unknown
    std::string source_sha256;  // hexadecimal; empty: unknown

private:
    MappedFile file_;
    bool wide_ = false;  // uint32 tokens
};

// All shards of a glob pattern, sorted by path, seen as windows of seq_len tokens and their successors.
class Dataset {
public:
    Dataset(const std::string& pattern, const std::string& option, int seq_len);

    int64_t windows() const { return windows_; }
    int64_t windows_of(size_t shard) const { return (shards_[shard].tokens - 1) / seq_len_; }
    int64_t tokens() const;
    double tokens_per_byte() const;  // 0: unknown
    int vocab_size() const;          // 0: unknown
    std::string tokenizer() const;   // "byte", "gpt2" or "unknown"
    const std::string& source_sha256() const { return shards_[0].source_sha256; }
    const std::vector<Shard>& shards() const { return shards_; }
    int seq_len() const { return seq_len_; }
    void set_vocab_size(int64_t vocab_size) { checked_vocab_size_ = vocab_size; }

    // Inputs (T) and targets (T) of one window.
    void window(size_t shard, int64_t index, int32_t* inputs, int32_t* targets) const;
    void window_in_file_order(int64_t index, int32_t* inputs, int32_t* targets) const;

private:
    std::vector<Shard> shards_;
    int seq_len_;
    int64_t windows_ = 0;
    int64_t checked_vocab_size_ = INT64_MAX;
};

struct Batch {
    std::vector<int32_t> inputs, targets;  // (B, T)
};

// The endless stream of training batches. Its whole state is `position`: the number of samples (sequences) handed out.
class TrainLoader {
public:
    struct Options {
        int batch_size;
        bool shuffle, overfit_single_batch;
        uint64_t seed;
    };
    TrainLoader(const Dataset& dataset, const Options& options, int64_t position);
    ~TrainLoader() {
        if (next_.valid()) next_.wait();
    }

    Batch next();  // prepared by another thread while the last one was in use
    int64_t position() const { return position_; }
    double epoch() const { return double(position_) / double(dataset_.windows()); }

private:
    Batch load(int64_t position);
    void sample(int64_t sample, int32_t* inputs, int32_t* targets);
    void visit_epoch(int64_t epoch);

    const Dataset& dataset_;
    Options options_;
    int64_t position_;
    std::future<Batch> next_;
    // What `sample` last looked at; only the loading thread uses these.
    int64_t epoch_ = -1;
    std::vector<int64_t> shard_order_, first_sample_;  // per visited shard: its first sample within the epoch
    int64_t open_shard_ = -1;
    std::vector<int64_t> window_order_;
};

// 0..n-1 in the order of a stable sort by 64-bit random keys.
std::vector<int64_t> random_order(int64_t n, uint64_t seed, uint32_t purpose, uint32_t stream);

}  // namespace llmc
