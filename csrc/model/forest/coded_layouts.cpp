// The layouts over byte codes: how rows are coded and handed to the kernels, in parts of the forest.
#include <algorithm>

#include "base/assert.hpp"
#include "model/forest/coded.hpp"
#include "model/forest/symmetric.hpp"

namespace engine::forest {
namespace {

// The part that Lanes and Rows share. How is one of the two; View is the packed forest that its kernel walks, CodedView
// or SymmetricView.
template <class How, class View, class Walk_>
class CodedLayout : public Layout {
public:
    using Walk = Walk_;

    CodedLayout(std::string name, std::shared_ptr<const Coded> coded, std::shared_ptr<const void> owner, const View& view,
                const std::vector<Part>& parts, const CodedKernels& kernels, Walk walk)
        : Layout(std::move(name)), coded_(std::move(coded)), owner_(std::move(owner)), view_(view), parts_(parts),
          kernels_(kernels), walk_(walk) {}

    bool raw(const float* rows, std::size_t n_rows, std::size_t stride, double* sums,
             Pace& pace) const noexcept override {
        return how().score(kernels_.code_row_f32, rows, n_rows, stride, sums, pace);
    }
    bool raw(const double* rows, std::size_t n_rows, std::size_t stride, double* sums,
             Pace& pace) const noexcept override {
        return how().score(kernels_.code_row_f64, rows, n_rows, stride, sums, pace);
    }

protected:
    std::shared_ptr<const Coded> coded_;
    std::shared_ptr<const void> owner_;  // of view and parts
    View view_;
    const std::vector<Part>& parts_;
    CodedKernels kernels_;
    Walk walk_;

private:
    const How& how() const noexcept { return static_cast<const How&>(*this); }
};

template <class View>
using LanesWalk = void (*)(const View&, const std::uint8_t*, std::size_t, std::size_t, double*) noexcept;
template <class View>
using RowsWalk = void (*)(const View&, const std::uint8_t*, std::size_t, std::size_t, double (*)[block_rows]) noexcept;

// Codes every row of a block, then walks each part of the forest for one row after the other.
template <class View>
class Lanes final : public CodedLayout<Lanes<View>, View, LanesWalk<View>> {
public:
    using CodedLayout<Lanes<View>, View, LanesWalk<View>>::CodedLayout;

    template <class Code, class T>
    bool score(Code code_row, const T* rows, std::size_t n_rows, std::size_t stride, double* sums,
               Pace& pace) const noexcept {
        const CodedView& forest = this->coded_->view;
        ENGINE_ASSERT(n_rows <= block_rows, "a layout gets one block of rows");
        alignas(64) std::uint8_t codes[block_rows][codes_bytes];
        alignas(64) double lane_sums[block_rows][lanes];
        for (std::size_t r = 0; r < n_rows; ++r) code_row(forest, rows + r * stride, codes[r]);
        for (const Part& part : this->parts_) {
            if (pace.over()) return false;
            if (part.opens) std::fill_n(lane_sums[0], n_rows * lanes, 0.0);
            for (std::size_t r = 0; r < n_rows; ++r) this->walk_(this->view_, codes[r], part.first, part.end, lane_sums[r]);
            pace.did(n_rows * (part.end - part.first));
            if (!part.closes) continue;
            for (std::size_t r = 0; r < n_rows; ++r) sums[r * forest.n_outputs + part.output] = fold(lane_sums[r]);
        }
        return true;
    }
};

// Codes a block of rows, turns the codes about to [column][row], and asks each split once for all rows.
template <class View>
class Rows final : public CodedLayout<Rows<View>, View, RowsWalk<View>> {
public:
    using CodedLayout<Rows<View>, View, RowsWalk<View>>::CodedLayout;

    template <class Code, class T>
    bool score(Code code_row, const T* rows, std::size_t n_rows, std::size_t stride, double* sums,
               Pace& pace) const noexcept {
        const CodedView& forest = this->coded_->view;
        ENGINE_ASSERT(n_rows <= block_rows, "a layout gets one block of rows");
        ENGINE_ASSERT(forest.n_columns <= columns_max, "columns fit the block of codes");
        alignas(64) std::uint8_t by_row[codes_bytes];
        alignas(64) std::uint8_t block[columns_max * block_rows];
        alignas(64) double lane_sums[lanes][block_rows];
        alignas(64) double folded[block_rows];
        const std::size_t n_columns = forest.n_columns;
        for (std::size_t r = 0; r < n_rows; ++r) {
            code_row(forest, rows + r * stride, by_row);
            for (std::size_t c = 0; c < n_columns; ++c) block[c * block_rows + r] = by_row[c];
        }
        // Rows beyond the last are walked too, because a register holds 64: any code serves, and nobody reads their
        // sums.
        for (std::size_t c = 0; c < n_columns; ++c)
            std::fill(block + c * block_rows + n_rows, block + (c + 1) * block_rows, std::uint8_t{0});
        for (const Part& part : this->parts_) {
            if (pace.over()) return false;
            if (part.opens) std::fill_n(lane_sums[0], lanes * block_rows, 0.0);
            this->walk_(this->view_, block, part.first, part.end, lane_sums);
            pace.did(block_rows * (part.end - part.first));
            if (!part.closes) continue;
            this->kernels_.fold_rows(lane_sums, folded);
            for (std::size_t r = 0; r < n_rows; ++r) sums[r * forest.n_outputs + part.output] = folded[r];
        }
        return true;
    }
};

}  // namespace

void add_coded_layouts(std::shared_ptr<const Coded> coded, std::vector<std::unique_ptr<Layout>>& layouts) {
    const std::shared_ptr<const Symmetric> symmetric = make_symmetric(coded);
    const struct {
        Isa isa;
        const CodedKernels& kernels;
        const SymmetricKernels& symmetric;
    } sets[] = {{Isa::scalar, coded_scalar, symmetric_scalar},
                {Isa::avx2, coded_avx2, symmetric_avx2},
                {Isa::avx512, coded_avx512, symmetric_avx512}};
    for (const auto& set : sets) {
        if (set.isa > active_isa()) continue;
        const std::string suffix = std::string("-") + isa_name(set.isa);
        const auto add = [&]<class LayoutOf>(const char* name, const auto& view, const auto& owner, auto walk) {
            if (walk)
                layouts.push_back(std::make_unique<LayoutOf>(name + suffix, coded, owner, view, owner->parts,
                                                             set.kernels, walk));
        };
        add.template operator()<Lanes<CodedView>>("lanes", coded->view, coded, set.kernels.lanes);
        if (coded->view.row_trees)
            add.template operator()<Rows<CodedView>>("rows", coded->view, coded, set.kernels.rows);
        if (!symmetric) continue;
        add.template operator()<Lanes<SymmetricView>>("symmetric", symmetric->view, symmetric, set.symmetric.lanes);
        add.template operator()<Rows<SymmetricView>>("symmetric-rows", symmetric->view, symmetric, set.symmetric.rows);
    }
}

}  // namespace engine::forest
