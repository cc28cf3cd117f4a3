// A model made from a checkpoint to compute with, not to train: for the commands sample and eval.
#pragma once
#include <memory>

#include "llmc/gpt2/gpt2.h"
#include "llmc/train/checkpoint/checkpoint.h"
#include "llmc/train/options/command_line.h"

namespace llmc {

struct CheckpointModel {
    std::unique_ptr<ModelFile> file;
    Config config;  // of the checkpoint, with the options that were given
    std::unique_ptr<GPT2> model;
};

// file: line.checkpoint, opened. batch_size: 0 for that of the options. Says on stderr what is assumed. Error if the model
// needs more memory than there is.
CheckpointModel open_model(const CommandLine& line, std::unique_ptr<ModelFile> file, int batch_size = 0);

}  // namespace llmc
