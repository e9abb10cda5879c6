// Tells whether all trees of a coded forest are symmetric, packs them, and has their kernel in plain C++.
#include "model/forest/symmetric.hpp"

#include <bit>

#include "base/assert.hpp"

namespace engine::forest {
namespace {

// Complete, and every level asks one question: then split i has the children 2i + 1 and 2i + 2.
bool is_symmetric(const CodedView& forest, const RowTree& tree) {
    const std::uint32_t leaves = tree.splits + 1;
    if (!std::has_single_bit(leaves) || leaves > 1u << symmetric_depth_max) return false;
    for (std::uint32_t s = 0; s < tree.splits; ++s) {
        const RowSplit& split = forest.row_splits[tree.first_split + s];
        const RowSplit& level = forest.row_splits[tree.first_split + std::bit_floor(s + 1) - 1];
        if (split.left != 2 * s + 1 || split.right != 2 * s + 2) return false;
        if (split.column != level.column || split.cut != level.cut) return false;
    }
    return true;
}

std::uint32_t depth_of(const RowTree& tree) { return static_cast<std::uint32_t>(std::bit_width(tree.splits)); }

// Groups [first, end) of one output, at most four.
void pack_chunk(const CodedView& forest, std::uint32_t first, std::uint32_t end, Symmetric& packed) {
    const RowTree* trees = forest.row_trees + first * lanes;
    const std::size_t n_trees = (end - first) * lanes;
    std::uint32_t levels = 0;
    for (std::size_t t = 0; t < n_trees; ++t) levels = std::max(levels, depth_of(trees[t]));
    ENGINE_ASSERT(end > first && end - first <= 4, "a chunk has one to four groups");
    ENGINE_ASSERT(levels <= symmetric_depth_max, "a leaf's number fits a byte");
    const std::size_t at = packed.columns.size();
    packed.chunks.push_back({levels, static_cast<std::uint32_t>(at / chunk_trees), end - first});
    packed.columns.resize(at + levels * chunk_trees, 0);
    packed.cuts.resize(at + levels * chunk_trees, 255);  // no code is above it
    for (std::size_t t = 0; t < chunk_trees; ++t) {
        packed.value_base.push_back(t < n_trees ? static_cast<std::int32_t>(trees[t].first_value) : 0);
        if (t >= n_trees) continue;
        const std::uint32_t depth = depth_of(trees[t]);
        for (std::uint32_t d = 0; d < depth; ++d) {
            const RowSplit& split = forest.row_splits[trees[t].first_split + (1u << d) - 1];
            const std::size_t place = at + (levels - depth + d) * chunk_trees + t;
            packed.columns[place] = split.column;
            packed.cuts[place] = split.cut;
        }
    }
}

void score_lanes(const SymmetricView& forest, const std::uint8_t* codes, std::size_t first, std::size_t end,
                 double* sums) noexcept {
    for (std::size_t c = first; c < end; ++c) {
        const Chunk& chunk = forest.chunks[c];
        const std::uint8_t* columns = forest.columns + chunk.first_level * chunk_trees;
        const std::uint8_t* cuts = forest.cuts + chunk.first_level * chunk_trees;
        for (std::size_t t = 0; t < chunk.groups * lanes; ++t) {
            std::uint32_t leaf = 0;
            for (std::uint32_t l = 0; l < chunk.levels; ++l) {
                const std::size_t at = l * chunk_trees + t;
                leaf = 2 * leaf + (codes[columns[at]] > cuts[at] ? 1 : 0);
            }
            sums[t % lanes] += forest.values[static_cast<std::uint32_t>(forest.value_base[c * chunk_trees + t]) + leaf];
        }
    }
}

}  // namespace

const SymmetricKernels symmetric_scalar{score_lanes, nullptr};

std::shared_ptr<const Symmetric> make_symmetric(std::shared_ptr<const Coded> coded) {
    const CodedView& forest = coded->view;
    if (forest.row_trees == nullptr) return nullptr;
    for (std::size_t t = 0; t < forest.n_groups * lanes; ++t)
        if (!is_symmetric(forest, forest.row_trees[t])) return nullptr;
    auto packed = std::make_shared<Symmetric>();
    for (const Part& part : coded->parts) {
        const auto chunks = [&] { return static_cast<std::uint32_t>(packed->chunks.size()); };
        Part mine{part.output, chunks(), 0, part.opens, part.closes};
        for (std::uint32_t g = part.first; g < part.end; g += 4) pack_chunk(forest, g, std::min(g + 4, part.end), *packed);
        mine.end = chunks();
        packed->parts.push_back(mine);
    }
    packed->view = {forest.n_columns,           packed->chunks.data(),     packed->columns.data(),
                    packed->cuts.data(),        packed->value_base.data(), forest.values};
    ENGINE_ASSERT(packed->columns.size() == packed->cuts.size(), "every question has a cut");
    ENGINE_ASSERT(packed->value_base.size() == packed->chunks.size() * chunk_trees, "every place has a first value");
    ENGINE_ASSERT(packed->parts.size() == coded->parts.size(), "parts are those of the coded forest");
    packed->coded = std::move(coded);
    return packed;
}

}  // namespace engine::forest
