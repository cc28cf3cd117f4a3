// The command line: long options by CLI11, in groups, with units and defaults; `--config FILE.toml` sets any of them,
// the command line wins.
#pragma once
#include "llmc/train/config.h"

namespace llmc {

struct CommandLine {
    enum class Command { train, sample } command = Command::train;
    Config config;
    bool dry_run = false;
    std::string sample_checkpoint;
    // Which model options were given: with --init they must agree with the checkpoint.
    bool depth_given = false, width_given = false, heads_given = false, seq_len_given = false, vocab_size_given = false;
};

// Parses and validates. Prints and exits 0 for --help, --version and --print-config; throws Error(kExitUsage) for what
// cannot be meant.
CommandLine parse_options(int argc, char** argv);

// Fills in --total-batch-size and checks that micro-batches divide it. Apart, because --init may bring another sequence
// length.
void resolve_batch(Config& config);

}  // namespace llmc
