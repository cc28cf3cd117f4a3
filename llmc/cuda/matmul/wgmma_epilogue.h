// From the accumulators of wgmma through an epilogue to memory: a warp has 16 rows and 256 columns, in tiles of 8 columns
// that are laid out as those of mma.sync (fragments.h), and stores them from its registers in whole sectors. By stmatrix,
// a swizzled tile in shared memory and TMA it would be 0.75 instructions an element instead of 1.75, but 1,024
// wavefronts a tile of the block instead of 768, and shared memory is as busy as the tensor cores.
#pragma once
#include "llmc/cuda/matmul/fragments.h"

namespace llmc::cuda {

template <class Epilogue>
class WarpRows {
public:
    // The warp's part of D begins at (row, column). The rows of all tensors are aligned.
    GPU WarpRows(const Epilogue& epilogue, int row, int column, int M) : epilogue_(epilogue) {
        const Tensors<T>& tensors = epilogue.tensors;
        const int lane = int(hidden(threadIdx.x)) % kWarp, t = lane % 4;  // hidden: computed here, not kept
        row += lane / 4;
        bias_ = tensors.bias + column + C::of(0, t);
        bias_tiles_ = tensors.bias ? (tensors.N - column) / 8 : 0;
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            const int64_t at = int64_t(row + 8 * half) * tensors.N + column;
            const int tiles = row + 8 * half < M ? (tensors.N - column) / 8 : 0;
            // Hidden: otherwise they are computed again for each access.
            if (Epilogue::kReads) input_[half] = hidden(tensors.input + at + C::of(0, t));
            out_[half] = hidden(tensors.out + at + C::template stored<T>(t));
            if (Epilogue::kKeeps) kept_[half] = hidden(tensors.kept + at + C::template stored<T>(t));
            read_[half] = tensors.input ? tiles : 0;
            written_[half] = sizeof(T) == 2 ? tiles - t % 2
                                            : tiles;  // bf16: this lane stores 4 columns of one tile in two
        }
        read<0>();
        read<1>();
        if constexpr (kAhead > 2) read<2>();
    }
    GPU void store(const float (&acc)[128]) {
        store<0>(acc);
        store<1>(acc);
        store<2>(acc);
        store<3>(acc);
    }

private:
    using T = typename Epilogue::Element;
    using C = Columns<false>;
    // Tiles in chunks, and how many chunks of inputs, of 16 or 32 registers, are on their way at a time.
    static constexpr int kTiles = 8, kChunks = 32 / kTiles, kAhead = sizeof(T) == 2 ? 3 : 2;

    template <int kChunk>
    GPU void read() {
        if constexpr (Epilogue::kReads)
#pragma unroll
            for (int half = 0; half < 2; ++half)
#pragma unroll
                for (int j = 0; j < kTiles; j += 2) {
                    const int tile = kChunk * kTiles + j;
                    C::read(inputs_[kChunk % kAhead][half][j / 2], input_[half] + 8 * tile,
                            {tile < read_[half], tile + 1 < read_[half]});
                }
    }
    template <int kChunk>
    GPU void store(const float (&acc)[128]) {
        Pair<T> bias[kTiles / 2][2] = {};
#pragma unroll
        for (int j = 0; j < kTiles && Epilogue::kBias; j += 2) {
            const int tile = kChunk * kTiles + j;
            C::read(bias[j / 2], bias_ + 8 * tile, {tile < bias_tiles_, tile + 1 < bias_tiles_});
        }
#pragma unroll
        for (int j = 0; j < kTiles; j += 2) {
            const int tile = kChunk * kTiles + j;
#pragma unroll
            for (int half = 0; half < 2; ++half) {
                Pair<T> results[2], keeps[2];
#pragma unroll
                for (int q = 0; q < 2; ++q) {
                    const float (&d)[2] = reinterpret_cast<const float (&)[2]>(acc[4 * (tile + q) + 2 * half]);
                    const Pair<T> b = bias[j / 2][q];
                    const float scale = epilogue_.tensors.bias_scale;
                    results[q] = epilogue_({d[0], d[1]}, {scale * low_of(b), scale * high_of(b)},
                                           inputs_[kChunk % kAhead][half][j / 2][q], keeps[q]);
                }
                const bool first = tile < written_[half],
                           exists[2] = {first, sizeof(T) == 2 ? first : tile + 1 < written_[half]};
                if constexpr (Epilogue::kKeeps) C::write(kept_[half] + 8 * tile, keeps, exists);
                C::write(out_[half] + 8 * tile, results, exists);
            }
        }
        if constexpr (kChunk + kAhead < kChunks) read<kChunk + kAhead>();
    }

    const Epilogue& epilogue_;
    const T *bias_, *input_[2];
    T *out_[2], *kept_[2];
    int bias_tiles_, read_[2], written_[2];  // tiles of 8 columns, of each row
    Pair<T> inputs_[kAhead][2][kTiles / 2][2] = {};
};

}  // namespace llmc::cuda
