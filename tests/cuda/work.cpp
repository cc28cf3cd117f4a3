// Prints how products are divided among blocks (llmc/cuda/matmul/work.h) as plan.h plans it, for tests/test_work.py. Reads
// lines of "tile multiprocessors M N K adds_up" (tile: wide, narrow, fp32), and writes for each one line of the plan and
// one line for each piece of each block, in order, then "end".
#include <iostream>
#include <string>

#include "llmc/cuda/matmul/plan.h"

using namespace llmc::cuda;

int main() {
    std::string name;
    int multiprocessors, adds_up;
    for (int64_t M, N, K; std::cin >> name >> multiprocessors >> M >> N >> K >> adds_up;) {
        const TileCost& cost = name == "wide" ? kWide : name == "narrow" ? kNarrow : kFp32Tile;
        const Plan plan = plan_with(cost, M, N, K, multiprocessors, adds_up);
        const Work& w = plan.work;
        std::cout << multiprocessors * cost.resident << ' ' << w.blocks << ' ' << w.tiles() << ' ' << w.steps << ' '
                  << w.whole << ' ' << plan.clocks << ' ' << cost.clocks_per_step << ' ' << kClocksPerTurn << '\n';
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
