// Which files --train-data and --val-data name. The same as python/llmc/data/shard_paths.py.
#pragma once
#include <string>
#include <vector>

namespace llmc {

struct ShardPaths {
    std::vector<std::string> paths;  // each once, sorted: the order does not depend on how they were named
    std::vector<std::string> notes;  // what was taken of folders, a sentence each
};

// Each word is a file, a folder (its training or its validation shards, as `option` says) or a pattern of these. The
// longest leading part that exists is taken literally, so that folders may have brackets in their names; only the rest
// is a pattern. Usage error without a word; data error for a word that names no file.
ShardPaths find_shards(const std::vector<std::string>& words, const std::string& option);

}  // namespace llmc
