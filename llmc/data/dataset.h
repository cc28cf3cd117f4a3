// A data set: all shards of a glob pattern, as windows of seq_len tokens and their successors.
#pragma once
#include <cstdint>
#include <string>
#include <vector>

#include "llmc/data/shards.h"

namespace llmc {

struct Batch {
    Batch(int rows, int seq_len) : rows(rows), inputs(size_t(rows) * size_t(seq_len)), targets(inputs.size()) {}

    int rows;
    std::vector<int32_t> inputs, targets;  // (rows, T)
};

// `rows` windows of `length` tokens and their targets, the first from token `begin` of a shard on, each next one `stride`
// tokens later. The first `overlap` targets of a window are those of the window before it, so they do not count, except
// in a shard's first window.
struct Segment {
    size_t shard;
    int64_t begin;
    int rows, length, stride, overlap;
    int uncounted(int row) const { return begin == 0 && row == 0 ? 0 : overlap; }
    int64_t targets() const { return int64_t{rows} * (length - overlap) + overlap - uncounted(0); }  // that count
};

class Dataset {
public:
    // The shards that the patterns name (shard_paths.h), sorted by path. `option` names the patterns in errors. Data
    // error for a damaged shard, for shards of several tokenizers, and for less than one window.
    Dataset(const std::vector<std::string>& patterns, const std::string& option, int seq_len);

    int64_t windows() const { return windows_; }
    int64_t windows_of(size_t shard) const { return (shards_[shard].tokens - 1) / seq_len_; }
    int64_t tokens() const;
    double tokens_per_byte() const;  // 0: unknown
    int vocab_size() const;          // 0: unknown
    std::string tokenizer() const;   // "byte", "gpt2" or "unknown"
    const std::string& source_sha256() const { return shards_[0].source_sha256; }
    const std::vector<Shard>& shards() const { return shards_; }
    const std::vector<std::string>& notes() const { return notes_; }  // what was taken of folders
    int seq_len() const { return seq_len_; }
    // Reading a token that is not below this is a data error.
    void set_vocab_size(int64_t vocab_size) { checked_vocab_size_ = vocab_size; }

    // One window of a shard into row `row` of the batch.
    void read(size_t shard, int64_t window, Batch& batch, int row) const;
    // Windows first, first + 1, ... in file order; after the last one it continues with the first.
    Batch in_file_order(int64_t first, int rows) const;

    // The first `count` targets in file order, 0: all (every token but the first of a shard is one), as segments of at
    // most `rows` windows, `stride` tokens apart (at most seq_len). What does not fill a window is a segment of one
    // shorter row, so that the same targets count for every number of rows, length of a window, and stride.
    std::vector<Segment> first_targets(int64_t count, int rows, int stride) const;
    // The first `count` whole windows in file order, 0: all.
    std::vector<Segment> first_windows(int64_t count, int rows) const;
    Batch read(const Segment& segment) const;  // kNoTarget for targets that do not count

private:
    // Appends the targets of a shard before number `end`.
    void add_segments(size_t shard, int64_t end, int rows, int stride, std::vector<Segment>& segments) const;

    std::vector<Shard> shards_;
    std::vector<std::string> notes_;
    int seq_len_;
    int64_t windows_ = 0;
    int64_t checked_vocab_size_ = INT64_MAX;
};

// A validation shard with the tokens of a training shard.
struct SharedShard {
    std::string val, train;  // paths
};
std::vector<SharedShard> shared_shards(const Dataset& train, const Dataset& val);

}  // namespace llmc
