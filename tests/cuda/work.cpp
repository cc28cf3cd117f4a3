// Prints how products are divided among blocks (llmc/cuda/matmul/work.h) as plan.h plans it, for tests/test_work.py.
// Reads lines of "tile multiprocessors M N K adds_up" (tile: wide, narrow, small, wgmma, fp32), and writes for each one line of
// the plan and one line for each piece of each block, in order, then "end". An epilogue instead of a tile: writes the
// tile that is chosen for it, then "end"; the last number is 1 where there is wgmma.
#include <iostream>
#include <string>

#include "llmc/cuda/matmul/epilogue.h"
#include "llmc/cuda/matmul/plan.h"

using namespace llmc::cuda;

namespace {

// The choice of multiply.h, where as many blocks are resident as planned.
template <class Epilogue, bool kNeighbours>
const char* chosen(int multiprocessors, int64_t M, int64_t N, int64_t K, bool has_wgmma) {
    const auto clocks = [&](const TileCost& tile) {
        return plan_with(with_epilogue(tile, kInstructionsOf<Epilogue, kNeighbours>, Epilogue::kReads), M, N, K,
                         multiprocessors, kAddsUp<Epilogue>)
            .clocks;
    };
    const TileCost cost = with_turns(kWarpgroups, kInstructionsOf<Epilogue, false>, Epilogue::kReads);
    const double wide = clocks(kWide), narrow = clocks(kNarrow),
                 hopper = has_wgmma
                              ? plan_with(cost, M, N, K, std::max(1, multiprocessors / 2), kAddsUp<Epilogue>).clocks
                              : wide;
    if (!kAddsUp<Epilogue> && clocks(kSmall) < std::min({wide, narrow, hopper})) return "small";
    if (has_wgmma && hopper <= std::min(wide, narrow)) return "wgmma";
    return wide <= narrow ? "wide" : "narrow";
}

bool write_chosen(const std::string& name, int multiprocessors, int64_t M, int64_t N, int64_t K, bool has_wgmma) {
    using llmc::bf16;
    const auto choose = name == "linear"         ? chosen<Linear<bf16>, true>
                        : name == "gelu"         ? chosen<LinearGelu<bf16>, true>
                        : name == "residual"     ? chosen<LinearResidual<bf16>, true>
                        : name == "linear_dgrad" ? chosen<Linear<bf16>, false>
                        : name == "gelu_dgrad"   ? chosen<GeluGradient<bf16>, false>
                        : name == "wgrad"        ? chosen<Accumulate, false>
                                                 : nullptr;
    if (choose) std::cout << choose(multiprocessors, M, N, K, has_wgmma) << "\nend\n";
    return choose;
}

}  // namespace

int main() {
    std::string name;
    int multiprocessors, adds_up;
    for (int64_t M, N, K; std::cin >> name >> multiprocessors >> M >> N >> K >> adds_up;) {
        if (write_chosen(name, multiprocessors, M, N, K, adds_up)) continue;
        const TileCost tile = name == "wide"     ? kWide
                              : name == "narrow" ? kNarrow
                              : name == "small"  ? kSmall
                              : name == "wgmma"  ? kWarpgroups
                                                 : kFp32Tile;
        constexpr double kInstructions = kInstructionsOf<Accumulate, false>;
        const TileCost cost = (name == "wgmma" ? with_turns : with_epilogue)(tile, kInstructions, Accumulate::kReads);
        if (name == "wgmma") multiprocessors = std::max(1, multiprocessors / 2);  // clusters
        const Plan plan = plan_with(cost, M, N, K, multiprocessors, adds_up);
        const Work& w = plan.work;
        std::cout << multiprocessors * cost.resident << ' ' << w.blocks << ' ' << w.tiles() << ' ' << w.steps << ' '
                  << w.whole << ' ' << plan.clocks << ' ' << cost.clocks_per_step << ' ' << clocks_per_turn(cost)
                  << '\n';
        for (int block = 0; block < w.blocks; ++block)
            for (int i = 0;; ++i) {
                const Piece p = piece_of(w, block, i);
                if (p.steps() == 0) break;
                std::cout << block << ' ' << p.tile << ' ' << p.begin << ' ' << p.end << ' ' << p.turn << ' ' << p.turns
                          << '\n';
            }
        std::cout << "end\n";
    }
}
