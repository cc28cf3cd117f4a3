// train_gpt2: trains a GPT-2 under the standard or the maximal update parametrization. There is no CUDA syntax here: a
// host compiler and nvcc both build it, and the backend (llmc/cpu, llmc/cuda, the emulator) is chosen when linking.
#include <cstdio>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "llmc/core/error.h"
#include "llmc/mup/rule_table.h"
#include "llmc/train/describe.h"
#include "llmc/train/eval_command.h"
#include "llmc/train/info_command.h"
#include "llmc/train/options/command_line.h"
#include "llmc/train/progress.h"
#include "llmc/train/sample_command.h"
#include "llmc/train/setup.h"
#include "llmc/train/signals.h"
#include "llmc/train/trainer.h"

namespace {

int run(int argc, char** argv) {
    using namespace llmc;
    const CommandLine line = parse_command_line(argc, argv);
    if (line.command == CommandLine::Command::info) {
        std::fputs(describe_checkpoint(line.checkpoint).c_str(), stdout);
        return kExitOk;
    }
    const bool training = line.command == CommandLine::Command::train;
    if (training && !line.dry_run) watch_signals();
    device::initialize(line.config.machine.threads);
    device::choose_matmul_kernel(line.config.machine.matmul_kernel);
    if (!training) return line.command == CommandLine::Command::eval ? eval_command(line) : sample_command(line);

    std::string command;
    for (int i = 0; i < argc; ++i) command += (i ? " " : "") + std::string(argv[i]);
    std::vector<DamagedCheckpoint> damaged;
    for (;;) {
        Setup setup = prepare(line, damaged);
        if (line.dry_run) {
            std::printf("%s\n%s", describe(setup).c_str(), rule_table(rules_json(setup), line.all_tensors).c_str());
            std::fflush(stdout);
            llmc::checked_memory(setup);  // what does not fit fails here, too
            return kExitOk;
        }
        if (!setup.finished.empty()) {
            std::printf("%s\n", setup.finished.c_str());
            return kExitOk;
        }
        const std::optional<std::string> resume_from = setup.resume_from;
        std::unique_ptr<Trainer> trainer;
        try {
            trainer = std::make_unique<Trainer>(std::move(setup), command);
        } catch (const DamageError& error) {  // found when the values were read; nothing was written yet
            if (!resume_from) throw;
            damaged.push_back({*resume_from, error.what()});
            continue;
        }
        return trainer->run();
    }
}

}  // namespace

int main(int argc, char** argv) {
    llmc::device::prepare_process(argv);
    const std::string path = argv[0], program = path.substr(path.rfind('/') + 1);  // train_gpt2cu, train_gpt2emu
    try {
        return run(argc, argv);
    } catch (const llmc::Error& error) {
        llmc::Progress::close();
        std::fprintf(stderr, "%s: %s\n", program.c_str(), error.what());
        return error.exit_code;
    } catch (const std::exception& error) {  // out of memory, file system errors
        llmc::Progress::close();
        std::fprintf(stderr, "%s: %s\n", program.c_str(), error.what());
        return llmc::kExitFailure;
    }
}
