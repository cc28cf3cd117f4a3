#include "llmc/data/dataloader.h"

#include <glob.h>

#include <algorithm>
#include <cstdio>
#include <numeric>

#include "llmc/core/error.h"
#include "llmc/core/random.h"

namespace llmc {
namespace {

constexpr int kMagic = 20240520, kHeaderInts = 256;
constexpr int kLlama3Magic = 20240801;

std::vector<std::string> expand(const std::string& pattern, const std::string& option) {
    if (pattern.empty())
        fail_usage(option,
                   " is missing: name token shards, such as 'data/pystdlib/*_train_*.bin' (dev/data/*.py make them)");
    glob_t found;
    std::vector<std::string> paths;
    if (glob(pattern.c_str(), 0, nullptr, &found) == 0) paths.assign(found.gl_pathv, found.gl_pathv + found.gl_pathc);
    globfree(&found);
    if (paths.empty())
        fail_data(option, " '", pattern,
                  "' matches no file: make shards with dev/data/*.py, or correct the pattern (quoted, so that the "
                  "shell leaves it alone)");
    std::sort(paths.begin(), paths.end());
    return paths;
}

}  // namespace

Shard::Shard(const std::string& p) : path(p), file_(p, "token shard") {
    if (file_.size() < kHeaderInts * sizeof(int32_t))
        fail_data(path, " is no token shard: ", file_.size(), " bytes, where the header alone has 1024");
    const int32_t* header = reinterpret_cast<const int32_t*>(file_.data());
    if (header[0] != kMagic)
        fail_data(path, " is no token shard: its magic number is ", header[0], ", not ", kMagic,
                  header[0] == kLlama3Magic ? " (a Llama-3 shard: tokenize again with dev/data/text.py)"
                                            : "; make one with dev/data/text.py");
    if (header[1] != 1 && header[1] != 2)
        fail_data(path, " has shard version ", header[1], "; this program reads 1 (uint16) and 2 (uint32)");
    wide_ = header[1] == 2;
    tokens = uint32_t(header[2]);
    const size_t expected = 1024 + size_t(tokens) * (wide_ ? 4 : 2);
    if (file_.size() != expected)
        fail_data(path, " is truncated or damaged: ", tokens, " tokens need ", expected, " bytes, the file has ",
                  file_.size(), "; make it again");
    if (tokens < 2) fail_data(path, " holds ", tokens, " tokens: too few for an input and its target");
    vocab_size = header[3];
    tokenizer = header[4];
    bytes = int64_t(uint32_t(header[5])) | int64_t(uint32_t(header[6])) << 32;
    const auto* digest = reinterpret_cast<const unsigned char*>(header + 8);
    if (std::any_of(digest, digest + 32, [](unsigned char c) { return c != 0; })) {
        char hex[3];
        for (int i = 0; i < 32; ++i) source_sha256 += (std::snprintf(hex, sizeof hex, "%02x", digest[i]), hex);
    }
}

void Shard::read(int64_t begin, int64_t count, int64_t vocab, int32_t* out) const {
    const char* data = file_.data() + kHeaderInts * sizeof(int32_t);
    const auto* narrow = reinterpret_cast<const uint16_t*>(data) + begin;
    const auto* wide = reinterpret_cast<const uint32_t*>(data) + begin;
    for (int64_t i = 0; i < count; ++i) {
        const uint32_t token = wide_ ? wide[i] : narrow[i];
        if (token >= uint64_t(vocab))
            fail_data(path, ": token ", begin + i, " is ", token, ", but the vocabulary has ", vocab,
                      " entries: give the --vocab-size that the shard was made with");
        out[i] = int32_t(token);
    }
}

Dataset::Dataset(const std::string& pattern, const std::string& option, int seq_len) : seq_len_(seq_len) {
    for (const std::string& path : expand(pattern, option)) shards_.emplace_back(path);
    for (size_t i = 0; i < shards_.size(); ++i) {
        windows_ += windows_of(i);
        if (shards_[i].vocab_size != shards_[0].vocab_size || shards_[i].tokenizer != shards_[0].tokenizer)
            fail_data(option, ": ", shards_[i].path, " was made with another tokenizer or vocabulary than ",
                      shards_[0].path);
    }
    if (windows_ == 0)
        fail_data(option, " '", pattern, "' holds ", tokens(), " tokens, fewer than one sequence of ", seq_len,
                  " and its target: shorten --seq-len or use more text");
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

void Dataset::window(size_t shard, int64_t index, int32_t* inputs, int32_t* targets) const {
    const Shard& s = shards_[shard];
    s.read(index * seq_len_, seq_len_, checked_vocab_size_, inputs);
    std::copy_n(inputs + 1, seq_len_ - 1, targets);
    s.read((index + 1) * seq_len_, 1, checked_vocab_size_, targets + seq_len_ - 1);
}

void Dataset::window_in_file_order(int64_t index, int32_t* inputs, int32_t* targets) const {
    size_t shard = 0;
    while (index >= windows_of(shard)) index -= windows_of(shard++);
    window(shard, index, inputs, targets);
}

std::vector<int64_t> random_order(int64_t n, uint64_t seed, uint32_t purpose, uint32_t stream) {
    std::vector<std::pair<uint64_t, int64_t>> keys(n);
    for (int64_t i = 0; i < n; ++i) {
        Philox x = draw(seed, Purpose(purpose), stream, uint64_t(i));
        keys[i] = {x[0] | uint64_t(x[1]) << 32, i};
    }
    std::sort(keys.begin(), keys.end());  // equal keys in order of the index: a stable sort
    std::vector<int64_t> order(n);
    for (int64_t i = 0; i < n; ++i) order[i] = keys[i].second;
    return order;
}

TrainLoader::TrainLoader(const Dataset& dataset, const Options& options, int64_t position)
    : dataset_(dataset), options_(options), position_(position) {
    if (options.overfit_single_batch && dataset.windows() < options.batch_size)
        fail_data("--overfit-single-batch needs ", options.batch_size, " sequences, the training data holds ",
                  dataset.windows());
    next_ = std::async(std::launch::async, [this, position] { return load(position); });
}

Batch TrainLoader::next() {
    Batch batch = next_.get();  // a bad token throws here
    position_ += options_.batch_size;
    next_ = std::async(std::launch::async, [this, position = position_] { return load(position); });
    return batch;
}

Batch TrainLoader::load(int64_t position) {
    const int T = dataset_.seq_len();
    const size_t size = size_t(options_.batch_size) * T;
    Batch batch{std::vector<int32_t>(size), std::vector<int32_t>(size)};
    for (int b = 0; b < options_.batch_size; ++b) {
        int32_t *inputs = &batch.inputs[size_t(b) * T], *targets = &batch.targets[size_t(b) * T];
        if (options_.overfit_single_batch)
            dataset_.window_in_file_order(b, inputs, targets);
        else if (!options_.shuffle)
            dataset_.window_in_file_order((position + b) % dataset_.windows(), inputs, targets);
        else
            sample(position + b, inputs, targets);
    }
    return batch;
}

void TrainLoader::sample(int64_t sample, int32_t* inputs, int32_t* targets) {
    visit_epoch(sample / dataset_.windows());
    const int64_t within = sample % dataset_.windows();
    const size_t visit = std::upper_bound(first_sample_.begin(), first_sample_.end(), within) - first_sample_.begin() -
                         1;
    const int64_t shard = shard_order_[visit];
    if (open_shard_ != shard) {
        const uint32_t stream = uint32_t(epoch_ * 65536 + shard);
        window_order_ = random_order(dataset_.windows_of(shard), options_.seed, uint32_t(Purpose::window_order),
                                     stream);
        open_shard_ = shard;
    }
    dataset_.window(shard, window_order_[within - first_sample_[visit]], inputs, targets);
}

void TrainLoader::visit_epoch(int64_t epoch) {
    if (epoch == epoch_) return;
    epoch_ = epoch;
    open_shard_ = -1;
    shard_order_ = random_order(int64_t(dataset_.shards().size()), options_.seed, uint32_t(Purpose::shard_order),
                                uint32_t(epoch));
    first_sample_.clear();
    int64_t first = 0;
    for (int64_t shard : shard_order_) {
        first_sample_.push_back(first);
        first += dataset_.windows_of(shard);
    }
}

}  // namespace llmc
