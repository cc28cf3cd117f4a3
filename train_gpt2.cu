// train_gpt2: trains a GPT-2 under the standard or the maximal update parametrization. There is no CUDA syntax here: a
// host compiler and nvcc both build it, and the backend (llmc/cpu, llmc/cuda, the emulator) is chosen when linking.
#include <cstdio>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "llmc/comm/group.h"
#include "llmc/core/error.h"
#include "llmc/core/version.h"
#include "llmc/mup/rule_table.h"
#include "llmc/train/agreement.h"
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

using namespace llmc;

std::unique_ptr<Group> group;  // null: one process

std::string name_of_program(const char* path) {  // train_gpt2cu, train_gpt2emu
    const std::string text = path;
    return text.substr(text.rfind('/') + 1);
}

int train(const CommandLine& line, const World& world, const std::string& command) {
    std::vector<DamagedCheckpoint> damaged;
    for (;;) {
        Setup setup = prepare(line, world, damaged);
        if (line.dry_run) {
            std::printf("%s\n%s", describe(setup).c_str(), rule_table(rules_json(setup), line.all_tensors).c_str());
            std::fflush(stdout);
            checked_memory(setup);  // what does not fit fails here, too
            return kExitOk;
        }
        if (group) check_agreement(setup, *group);
        if (!setup.finished.empty()) {
            if (world.rank == 0) std::printf("%s\n", setup.finished.c_str());
            return kExitOk;
        }
        const std::optional<std::string> resume_from = setup.resume_from;
        std::unique_ptr<Trainer> trainer;
        try {
            trainer = std::make_unique<Trainer>(std::move(setup), command, group.get());
        } catch (const DamageError& error) {  // found when the values were read; nothing was written yet
            if (!resume_from) throw;
            damaged.push_back({*resume_from, error.what()});
            continue;
        }
        return trainer->run();
    }
}

// The processes of a --dry-run need not exist.
World world_of(const CommandLine& line) {
    const WorldOptions& options = line.config.processes.world;
    if (line.command != CommandLine::Command::train) return {};
    if (line.dry_run && options.rank < 0 && options.world_size > 0) return {.size = options.world_size};
    return find_world(options);
}

int run(int argc, char** argv) {
    const CommandLine line = parse_command_line(argc, argv);
    if (line.command == CommandLine::Command::info) {
        std::fputs(describe_checkpoint(line.checkpoint).c_str(), stdout);
        return kExitOk;
    }
    const bool training = line.command == CommandLine::Command::train && !line.dry_run;
    const World world = world_of(line);
    if (training) watch_signals();
    if (training && world.size > 1)
        group = std::make_unique<Group>(world, str(kVersion, " (commit ", kGitCommit, ", ", device::backend(), ")"),
                                        name_of_program(argv[0]));
    device::Place place;
    if (group) place = {group->local_rank(), group->sharing_cpus()};
    device::initialize(line.config.machine.threads, place);
    if (group) group->open_comm();
    device::choose_matmul_kernel(line.config.machine.matmul_kernel);
    if (line.command == CommandLine::Command::eval) return eval_command(line);
    if (line.command == CommandLine::Command::sample) return sample_command(line);

    std::string command;
    for (int i = 0; i < argc; ++i) command += (i ? " " : "") + std::string(argv[i]);
    return train(line, world, command);
}

// Ends the program, or with it all processes of the run.
int report(const char* program, int exit_code, const char* what, bool elsewhere) {
    Progress::close();
    if (group && elsewhere) group->control().end_with_the_others(what);
    if (group) group->control().fail(exit_code, what);
    std::fprintf(stderr, "%s: %s\n", name_of_program(program).c_str(), what);
    return exit_code;
}

}  // namespace

int main(int argc, char** argv) {
    device::prepare_process(argv);
    try {
        const int status = run(argc, argv);
        group.reset();
        return status;
    } catch (const Error& error) {
        return report(argv[0], error.exit_code, error.what(), dynamic_cast<const ElsewhereError*>(&error));
    } catch (const std::exception& error) {  // out of memory, file system errors
        return report(argv[0], kExitFailure, error.what(), false);
    }
}
