#include "gpu/forest_body.hpp"

#include <algorithm>
#include <cstddef>

#include "base/assert.hpp"
#include "model/forest/coded.hpp"
#include "model/forest/symmetric.hpp"
#include "model/forest/wide.hpp"

namespace engine::gpu {

static_assert(sizeof(ForestColumn) == sizeof(forest::Column));
static_assert(offsetof(ForestColumn, split) == offsetof(forest::Column, split));
static_assert(offsetof(ForestColumn, rule) == offsetof(forest::Column, rule));
static_assert(offsetof(ForestColumn, missing) == offsetof(forest::Column, missing));
static_assert(sizeof(ForestGroup) == sizeof(forest::CodedGroup));
static_assert(sizeof(WideForestNode) == sizeof(forest::WideNode));
static_assert(TREES_A_GROUP == forest::lanes && CUTS_PADDED == forest::cuts_padded);
static_assert(TREES_A_CHUNK == forest::chunk_trees);
// One struct serves rows of both types.
static_assert(sizeof(ForestView<float>) == sizeof(ForestView<double>));
static_assert(sizeof(SymmetricForestView<float>) == sizeof(SymmetricForestView<double>));
static_assert(sizeof(WideForestView<float>) == sizeof(WideForestView<double>));

namespace {

constexpr int MAX_DYNAMIC_SHARED_SIZE_BYTES = 8;  // CUfunction_attribute
constexpr unsigned SHARED_BYTES = 96 * 1024;      // two blocks a multiprocessor from sm_80 on
// From so many blocks on a device is busy, and rows may share a block.
constexpr std::uint32_t BLOCKS_MIN = 64;
constexpr std::size_t LEAF_BYTES = sizeof(double) * TREES_A_GROUP;
// Trees that stay in shared memory: rows of a block, words of its trees at most, and the batch from which it is used.
// The last is an estimate: not measured.
constexpr std::uint32_t STATIONARY_ROWS = 64, STATIONARY_WORDS_MAX = 8192, STATIONARY_BATCH_MIN = 4096;
constexpr unsigned WARP = 32, SMALL_BLOCK = 128;

std::uint32_t rounded_up(std::uint32_t value, std::uint32_t to) { return (value + to - 1) / to * to; }
std::uint32_t parts_of(std::uint32_t count, std::uint32_t part) { return (count + part - 1) / part; }

// First group of each output, and the end.
std::vector<std::uint32_t> output_begins(const forest::Trees& trees) {
    std::vector<std::uint32_t> begins;
    std::uint32_t g = 0;
    for (std::uint32_t output = 0; output <= trees.n_outputs; ++output) {
        while (g < trees.groups.size() && trees.groups[g].output < output) ++g;
        begins.push_back(g);
    }
    return begins;
}

ForestSet set_of(const forest::Trees& trees, std::int32_t split_number) {
    const forest::Split& split = trees.splits[static_cast<std::size_t>(split_number)];
    const auto set = static_cast<std::size_t>(split.set);
    const auto begin = static_cast<std::uint32_t>(trees.set_begin[set]);
    return {begin, static_cast<std::uint32_t>(trees.set_begin[set + 1]) - begin,
            static_cast<std::uint8_t>((split.rule & forest::rule::members_left) != 0),
            static_cast<std::uint8_t>((split.rule & forest::rule::truncates) != 0)};
}

template <class To, class From>
std::vector<To> as(const std::vector<From>& from) {
    const auto* first = reinterpret_cast<const To*>(from.data());
    return {first, first + from.size()};
}

// The columns of wide codes one by one: the CPU has the sets of a feature as one block.
std::vector<WideForestColumn> wide_columns(const forest::Wide& wide, std::vector<ForestSet>& sets) {
    std::vector<WideForestColumn> columns(wide.n_columns);
    for (const forest::WideColumn& column : wide.columns)
        columns[column.column] = {column.feature,  column.first_cut, column.cuts, 0, 0,
                                  WIDE_THRESHOLDS, column.missing,   column.rule};
    for (const forest::WideCategories& block : wide.categories) {
        const std::uint32_t line = (block.sets + 31u) / 32u;
        for (std::uint32_t j = 0; j < block.sets; ++j) {
            const auto missing = static_cast<std::uint16_t>(block.rule & forest::rule::missing_left ? 0 : 1);
            WideForestColumn& column = columns[block.first_column + j];
            column = {block.feature,
                      static_cast<std::uint32_t>(block.first_word),
                      block.categories,
                      j,
                      line,
                      WIDE_SET_IN_TABLE,
                      missing,
                      block.rule};
            if (block.categories != 0) continue;
            column.kind = WIDE_SET_ALONE;
            column.first = static_cast<std::uint32_t>(sets.size());
            sets.push_back(set_of(*wide.trees, wide.set_splits[block.first_split + j]));
        }
    }
    return columns;
}

// Which words the trees of each block take; empty where some block takes more than STATIONARY_WORDS_MAX. Trees lie one
// behind the other from word 1 on; a lane without one has the root 0.
std::vector<ForestSpan> spans_of(const forest::Coded& coded, std::uint32_t trees_a_block) {
    const auto n_trees = static_cast<std::uint32_t>(coded.roots.size());
    const auto n_words = static_cast<std::uint32_t>(coded.words.size());
    // The word behind each tree: the next root that is one.
    std::vector<std::uint32_t> ends(n_trees);
    std::uint32_t next = n_words;
    for (std::uint32_t t = n_trees; t-- > 0;) {
        ends[t] = next;
        if (coded.roots[t] != 0) next = static_cast<std::uint32_t>(coded.roots[t]);
    }
    std::vector<ForestSpan> spans;
    for (std::uint32_t first = 0; first < n_trees; first += trees_a_block) {
        const std::uint32_t last = std::min(first + trees_a_block, n_trees);
        std::uint32_t begin = n_words, end = 0;
        for (std::uint32_t t = first; t < last; ++t) {
            if (coded.roots[t] == 0) continue;
            begin = std::min(begin, static_cast<std::uint32_t>(coded.roots[t]));
            end = std::max(end, ends[t]);
        }
        if (end > begin && end - begin > STATIONARY_WORDS_MAX) return {};
        spans.push_back({begin, end > begin ? end - begin : 0});
    }
    return spans;
}

}  // namespace

std::unique_ptr<ForestBody> ForestBody::load(std::shared_ptr<Device> device, Module module,
                                             const forest::Forest& forest, Trees trees, std::string* error) {
    std::unique_ptr<ForestBody> made(new ForestBody(std::move(device)));
    made->shared_bytes_max_ = std::min(SHARED_BYTES, static_cast<unsigned>(made->device_->shared_bytes_max()));
    if (!made->prepare(forest, trees, error) || !made->arrays_.upload("the forest", error)) return nullptr;
    // After the upload, which wrote the pointers.
    made->narrow_.shape = made->symmetric_.shape = made->wide_.shape = made->shape_;
    made->device_->make_current();
    return made->find_kernels(module, error) ? std::move(made) : nullptr;
}

bool ForestBody::prepare(const forest::Forest& forest, Trees trees, std::string* error) {
    const std::shared_ptr<const forest::Trees>& in_order = forest.trees();
    n_features_ = forest.n_features();
    n_answers_ = forest.n_answers();
    float64_rows_ = !forest.float32_rows();
    const auto coded = trees == Trees::wide ? nullptr : forest::make_coded(in_order);
    const auto symmetric = coded && trees != Trees::codes ? forest::make_symmetric(coded) : nullptr;
    const auto wide = coded || (trees != Trees::wide && trees != Trees::best) ? nullptr : forest::make_wide(in_order);
    std::uint32_t n_columns = 0;
    if (symmetric) {
        trees_ = Trees::symmetric;
        n_columns = coded->view.n_columns;
        add_symmetric(*symmetric);
    } else if (coded && trees != Trees::symmetric) {
        trees_ = Trees::codes;
        n_columns = coded->view.n_columns;
        add_narrow(*coded);
    } else if (wide) {
        trees_ = Trees::wide;
        n_columns = static_cast<std::uint32_t>(wide->n_columns);
        add_wide(*wide);
    } else {
        *error = "the forest has no layout of this kind";
        return false;
    }
    shape_ = {in_order->n_outputs, n_columns, static_cast<std::uint32_t>(in_order->groups.size()), nullptr};
    link_ = {forest.scale(), forest.link_parameter(), nullptr, static_cast<std::uint32_t>(forest.link())};
    arrays_.add(&shape_.output_begin, output_begins(*in_order));
    arrays_.add(&link_.base, forest.base());
    if (shared_bytes(1, 1) <= shared_bytes_max_) return true;
    *error = "the codes of a row (" + std::to_string(n_columns) + " columns) do not fit the " +
             std::to_string(shared_bytes_max_) + " bytes of shared memory of a block";
    return false;
}

void ForestBody::add_codes(const forest::Coded& coded) {
    CodeView<double>& code = trees_ == Trees::symmetric ? symmetric_.code : narrow_.code;
    std::vector<ForestSet> sets;
    for (const forest::Column& column : coded.columns)
        sets.push_back(column.split >= 0 ? set_of(*coded.trees, column.split) : ForestSet{});
    arrays_.add(&code.columns, as<ForestColumn>(coded.columns));
    if (float64_rows_) arrays_.add(&code.cuts, coded.cuts_f64);
    else arrays_.add(&code.cuts, coded.cuts_f32);
    arrays_.add(&code.sets, sets);
    arrays_.add(&code.set_words, coded.trees->set_words);
}

void ForestBody::add_narrow(const forest::Coded& coded) {
    narrow_.values_by_node = coded.view.values_by_node;
    add_codes(coded);
    arrays_.add(&narrow_.words, coded.words);
    arrays_.add(&narrow_.groups, as<ForestGroup>(coded.groups));
    arrays_.add(&narrow_.roots, coded.roots);
    arrays_.add(&narrow_.value_base, coded.value_base);
    arrays_.add(&narrow_.values, coded.values);
    for (std::uint32_t trees_a_block = TREES_A_GROUP; trees_a_block > 0; trees_a_block /= 2) {
        const std::vector<ForestSpan> spans = spans_of(coded, trees_a_block);
        if (spans.empty()) continue;
        stationary_.trees_a_block = trees_a_block;
        for (const ForestSpan& span : spans) stationary_.words_max = std::max(stationary_.words_max, span.n_words);
        arrays_.add(&stationary_.spans, spans);
        break;
    }
}

void ForestBody::add_symmetric(const forest::Symmetric& symmetric) {
    const forest::Coded& coded = *symmetric.coded;
    std::vector<SymmetricGroup> groups;
    for (std::uint32_t c = 0; c < symmetric.chunks.size(); ++c) {
        const forest::Chunk& chunk = symmetric.chunks[c];
        for (std::uint32_t g = 0; g < chunk.groups; ++g)
            groups.push_back({chunk.first_level, chunk.levels, c, g * TREES_A_GROUP});
    }
    ENGINE_ASSERT(groups.size() == coded.groups.size(), "chunks hold the groups in order");
    add_codes(coded);
    arrays_.add(&symmetric_.groups, groups);
    arrays_.add(&symmetric_.columns, symmetric.columns);
    arrays_.add(&symmetric_.cuts, symmetric.cuts);
    arrays_.add(&symmetric_.value_base, symmetric.value_base);
    arrays_.add(&symmetric_.values, coded.values);
}

void ForestBody::add_wide(const forest::Wide& wide) {
    std::vector<ForestSet> sets;
    arrays_.add(&wide_.columns, wide_columns(wide, sets));
    if (float64_rows_) arrays_.add(&wide_.cuts, wide.cuts_f64);
    else arrays_.add(&wide_.cuts, wide.cuts_f32);
    arrays_.add(&wide_.table, wide.table);
    arrays_.add(&wide_.sets, sets);
    arrays_.add(&wide_.set_words, wide.trees->set_words);
    arrays_.add(&wide_.nodes, as<WideForestNode>(wide.nodes));
    arrays_.add(&wide_.roots, wide.roots);
    arrays_.add(&wide_.values, wide.values);
}

const char* ForestBody::layout() const noexcept {
    return trees_ == Trees::symmetric ? "symmetric" : trees_ == Trees::wide ? "wide" : "codes";
}

bool ForestBody::find_kernels(Module module, std::string* error) {
    const Driver& driver = device_->driver();
    const std::string suffix = float64_rows_ ? "_f64" : "_f32";
    const std::string name = trees_ == Trees::symmetric ? "symmetric" : trees_ == Trees::wide ? "wide" : "forest";
    const auto find = [&](const std::string& kernel, Function* at) {
        const Result result = driver.cuModuleGetFunction(at, module, kernel.c_str());
        return result == SUCCESS || failed(driver, "the kernel " + kernel, result, error);
    };
    const auto find_large = [&](const std::string& kernel, Function* at) {
        if (!find(kernel, at)) return false;
        const Result result =
            driver.cuFuncSetAttribute(*at, MAX_DYNAMIC_SHARED_SIZE_BYTES, static_cast<int>(shared_bytes_max_));
        return result == SUCCESS || failed(driver, "shared memory of " + kernel, result, error);
    };
    for (const std::uint32_t rows : {1u, 4u, 8u, 16u}) {
        if (shared_bytes(rows, 1) > shared_bytes_max_) break;
        Variant found{rows, nullptr};
        if (!find_large(name + "_rows_" + std::to_string(rows) + suffix, &found.function)) return false;
        variants_.push_back(found);
    }
    if (stationary_.trees_a_block > 0 &&
        (!find("forest_code" + suffix, &stationary_.code) || !find_large("forest_trees", &stationary_.trees) ||
         !find("forest_sum", &stationary_.sum)))
        return false;
    return find("forest_row_links", &row_links_);
}

std::uint32_t ForestBody::code_stride() const noexcept { return rounded_up(shape_.n_columns, 4); }

std::size_t ForestBody::shared_bytes(std::uint32_t rows, std::uint32_t chunk_groups) const noexcept {
    const std::size_t code_bytes = trees_ == Trees::wide ? sizeof(std::uint16_t) : sizeof(std::uint8_t);
    return (rows * code_stride() * code_bytes + 15) / 16 * 16 + chunk_groups * LEAF_BYTES * rows;
}

// The leaves of a batch are counted in columns of whole blocks.
std::uint32_t ForestBody::stationary_rows(std::uint32_t rows) const noexcept {
    return rounded_up(rows, STATIONARY_ROWS);
}

PipelineOptions ForestBody::options(std::uint32_t rows_max) const noexcept {
    PipelineOptions options;
    options.n_features = n_features_;
    options.n_outputs = n_answers_;
    options.rows_max = rows_max;
    options.float64_rows = float64_rows_;
    std::size_t bytes = sum_bytes(rows_max);
    if (is_stationary(rows_max)) {
        const std::size_t rows = stationary_rows(rows_max);
        bytes += rows * code_stride() + rows * shape_.n_groups * TREES_A_GROUP * sizeof(std::uint16_t);
    }
    options.scratch_bytes = bytes;
    return options;
}

bool ForestBody::is_stationary(std::uint32_t rows) const noexcept {
    if (stationary_.trees_a_block == 0) return false;
    return variant < 0 ? rows >= STATIONARY_BATCH_MIN : static_cast<std::size_t>(variant) == variants_.size();
}

// Whether the link takes the sums of a whole row: they then lie in scratch, because answers may be written over the
// bus.
bool ForestBody::links_rows() const noexcept {
    return link_.link == static_cast<std::uint32_t>(forest::Link::softmax) ||
           link_.link == static_cast<std::uint32_t>(forest::Link::argmax);
}

std::size_t ForestBody::sum_bytes(std::uint32_t rows) const noexcept {
    return links_rows() ? std::size_t{rows} * shape_.n_outputs * sizeof(double) : 0;
}

// The largest block that still leaves enough of them to fill the device.
const ForestBody::Variant& ForestBody::variant_for(std::uint32_t rows) const noexcept {
    if (variant >= 0 && static_cast<std::size_t>(variant) < variants_.size())
        return variants_[static_cast<std::size_t>(variant)];
    std::size_t chosen = 0;
    for (std::size_t i = 1; i < variants_.size(); ++i)
        if (parts_of(rows, variants_[i].rows) >= BLOCKS_MIN) chosen = i;
    return variants_[chosen];
}

Result ForestBody::put_rows(Stream stream, const Batch& batch, DevicePointer sums) noexcept {
    const Variant& chosen = variant_for(batch.rows);
    const unsigned block = std::max(threads, TREES_A_GROUP * chosen.rows);
    const std::size_t fitting = (shared_bytes_max_ - shared_bytes(chosen.rows, 0)) / (LEAF_BYTES * chosen.rows);
    std::uint32_t chunk_groups = std::max(std::min(static_cast<std::uint32_t>(fitting), shape_.n_groups), 1u);
    std::uint32_t row_stride = n_features_, stride = code_stride();
    DevicePointer in = batch.in, control = batch.control;
    void* const view = trees_ == Trees::symmetric ? static_cast<void*>(&symmetric_)
                       : trees_ == Trees::wide    ? static_cast<void*>(&wide_)
                                                  : static_cast<void*>(&narrow_);
    void* arguments[] = {view, &link_, &in, &row_stride, &control, &sums, &stride, &chunk_groups};
    return device_->driver().cuLaunchKernel(chosen.function, parts_of(batch.rows, chosen.rows), 1, 1, block, 1, 1,
                                            static_cast<unsigned>(shared_bytes(chosen.rows, chunk_groups)), stream,
                                            arguments, nullptr);
}

Result ForestBody::put_stationary(Stream stream, const Batch& batch, DevicePointer sums) noexcept {
    const Driver& driver = device_->driver();
    std::uint32_t rows_max = stationary_rows(batch.rows), row_stride = n_features_, stride = code_stride();
    std::uint32_t n_trees = shape_.n_groups * TREES_A_GROUP, rows_a_block = STATIONARY_ROWS;
    DevicePointer in = batch.in, control = batch.control;
    DevicePointer leaf_at = batch.scratch + sum_bytes(batch.rows);
    DevicePointer codes = leaf_at + std::size_t{rows_max} * n_trees * sizeof(std::uint16_t);
    void* code_arguments[] = {&narrow_, &in, &row_stride, &control, &codes, &stride};
    const unsigned code_blocks = parts_of(batch.rows * shape_.n_columns, threads);
    if (const Result result = driver.cuLaunchKernel(stationary_.code, std::max(code_blocks, 1u), 1, 1, threads, 1, 1, 0,
                                                    stream, code_arguments, nullptr))
        return result;
    void* tree_arguments[] = {&narrow_,
                              &codes,
                              &stride,
                              &control,
                              &leaf_at,
                              &rows_max,
                              &stationary_.trees_a_block,
                              &n_trees,
                              &rows_a_block,
                              &stationary_.words_max,
                              &stationary_.spans};
    const unsigned shared = stationary_.words_max * 4 + rows_a_block * stride;
    if (const Result result = driver.cuLaunchKernel(stationary_.trees, parts_of(batch.rows, rows_a_block),
                                                    parts_of(n_trees, stationary_.trees_a_block), 1, threads, 1, 1,
                                                    shared, stream, tree_arguments, nullptr))
        return result;
    void* sum_arguments[] = {&narrow_, &link_, &leaf_at, &rows_max, &control, &sums};
    return driver.cuLaunchKernel(stationary_.sum, parts_of(batch.rows, threads / TREES_A_GROUP), 1, 1, threads, 1, 1, 0,
                                 stream, sum_arguments, nullptr);
}

Result ForestBody::enqueue(void* ctx, Stream stream, const Batch& batch) noexcept {
    auto& self = *static_cast<ForestBody*>(ctx);
    const bool of_rows = self.links_rows();
    DevicePointer out = batch.out, control = batch.control, sums = of_rows ? batch.scratch : out;
    const Result scored =
        self.is_stationary(batch.rows) ? self.put_stationary(stream, batch, sums) : self.put_rows(stream, batch, sums);
    if (scored != SUCCESS || !of_rows) return scored;
    void* arguments[] = {&self.shape_.n_outputs, &self.link_.link, &sums, &control, &out};
    return self.device_->driver().cuLaunchKernel(self.row_links_, parts_of(batch.rows * WARP, SMALL_BLOCK), 1, 1,
                                                 SMALL_BLOCK, 1, 1, 0, stream, arguments, nullptr);
}

}  // namespace engine::gpu
