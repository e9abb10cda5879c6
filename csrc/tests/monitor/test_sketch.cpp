#include "monitor/sketch.hpp"

#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <thread>
#include <unordered_map>

#include "base/random.hpp"
#include "tests/check.hpp"

using namespace engine::monitor;

namespace {

engine_answer answer(uint64_t id, const float* row, uint32_t n_features, const double* values) {
    engine_answer made{};
    made.id = id;
    made.deployment = 7;
    made.started_ns = 1000;
    made.deadline_ns = 11000;
    made.ready_ns = 3000;
    made.row = row;
    made.values = values;
    made.n_features = n_features;
    made.n_outputs = values ? 1 : 0;
    return made;
}

Column continuous(std::vector<float> cuts) {
    Column column;
    column.n_bins = static_cast<uint32_t>(cuts.size() + 1);
    column.cuts = std::move(cuts);
    return column;
}

Column discrete(std::vector<float> codes) {
    Column column;
    column.n_bins = static_cast<uint32_t>(codes.size());
    for (size_t i = 0; i < codes.size(); ++i) column.bin_of.push_back(static_cast<uint16_t>(i));
    column.cuts = std::move(codes);
    column.discrete = true;
    return column;
}

Limits small() {
    Limits limits;
    limits.ring_rows = 64;
    limits.features_max = 4;
    limits.block_rows = 10;
    limits.blocks_max = 4;
    limits.answers_max = 8;
    return limits;
}

struct Held {
    explicit Held(const Limits& limits) : sketch(new Sketch(limits)) {}
    ~Held() {
        sketch->close();
        sketch->release();
    }
    Sketch* operator->() const { return sketch; }
    Sketch* sketch;
};

}  // namespace

TEST(a_value_on_a_cut_is_in_the_bin_below) {
    const Column column = continuous({1.0f, 2.0f, 4.0f});
    CHECK(column.bin(0.5f) == 0);
    CHECK(column.bin(1.0f) == 0);
    CHECK(column.bin(1.5f) == 1);
    CHECK(column.bin(4.0f) == 2);
    CHECK(column.bin(std::numeric_limits<float>::infinity()) == 3);
    CHECK(column.bin(-std::numeric_limits<float>::infinity()) == 0);
    CHECK(continuous({}).bin(3.0f) == 0);
}

TEST(a_code_that_was_never_seen_has_no_bin) {
    const Column column = discrete({0.0f, 3.0f, 9.0f});
    CHECK(column.bin(3.0f) == 1);
    CHECK(column.bin(9.0f) == 2);
    CHECK(column.bin(10.0f) == UNSEEN);
    CHECK(column.bin(-1.0f) == UNSEEN);
    CHECK(discrete({}).bin(0.0f) == UNSEEN);
}

TEST(every_bin_search_agrees_with_counting) {
    engine::Random random(11, 0);
    for (size_t n = 0; n < 70; ++n) {
        std::vector<float> cuts;
        for (size_t i = 0; i < n; ++i) cuts.push_back(static_cast<float>(random.uniform()));
        std::sort(cuts.begin(), cuts.end());
        const Column column = continuous(cuts);
        for (int i = 0; i < 50; ++i) {
            const float value = i % 5 == 0 && n ? cuts[random.bits() % n] : static_cast<float>(random.uniform());
            const auto expected = std::count_if(cuts.begin(), cuts.end(), [=](float cut) { return cut < value; });
            CHECK(column.bin(value) == expected);
        }
    }
}

TEST(answers_are_counted_by_bin_source_and_version) {
    Held sketch(small());
    sketch->set_layout({continuous({0.0f}), discrete({1.0f, 2.0f}), continuous({0.5f})}, 2);
    const float nan = std::numeric_limits<float>::quiet_NaN();
    const float rows[4][2] = {{-1.0f, 1.0f}, {1.0f, 5.0f}, {nan, 2.0f}, {INFINITY, 2.0f}};
    const double outputs[4] = {0.25, 0.75, 0.5, 0.9};
    for (int i = 0; i < 4; ++i) {
        engine_answer made = answer(i, rows[i], 2, &outputs[i]);
        if (i == 1) made.source = 1, made.reason = 4, made.ready_ns = 12000;
        CHECK(sketch->observe(made));
    }
    sketch->drain(true);
    Block block;
    CHECK(sketch->take(block));
    CHECK(!sketch->take(block));
}

TEST(a_block_carries_what_was_counted) {
    Held sketch(small());
    sketch->set_layout({continuous({0.0f}), discrete({1.0f, 2.0f}), continuous({0.5f})}, 2);
    const float nan = std::numeric_limits<float>::quiet_NaN();
    const float rows[4][2] = {{-1.0f, 1.0f}, {1.0f, 5.0f}, {nan, 2.0f}, {INFINITY, 2.0f}};
    const double outputs[4] = {0.25, 0.75, 0.5, 0.9};
    for (int i = 0; i < 4; ++i) {
        engine_answer made = answer(i, rows[i], 2, &outputs[i]);
        if (i == 1) made.source = 1, made.reason = 4, made.ready_ns = 12000;
        sketch->observe(made);
    }
    sketch->drain(true);
    Block block;
    CHECK(sketch->take(block));
    CHECK(block.rows == 4 && block.answers == 4);
    CHECK(block.output_rows == 3);  // the fallback's output is not the primary's
    CHECK(block.counts[0] == 1 && block.counts[1] == 2);
    CHECK(block.missing[0] == 1 && block.infinite[0] == 1);
    CHECK(block.unseen[1] == 1 && block.counts[2] == 1 && block.counts[3] == 2);
    CHECK(block.sums[0] == 0.0 && block.sums[1] == 2.0);
    CHECK(block.counts[4] == 2 && block.counts[5] == 1);
    CHECK(block.n_deployments == 1 && block.deployments[0] == 7);
    CHECK(block.tally[0] == 3 && block.tally[REASONS + 4] == 1);
    CHECK(block.late[1] == 1 && block.late[0] == 0);
    CHECK(block.output_moments[0] == 4.0 && std::fabs(block.output_moments[1] - 2.4) < 1e-12);
    const Totals totals = sketch->totals();
    CHECK(totals.pushed == 4 && totals.folded == 4 && totals.dropped == 0);
    CHECK(totals.share[4] == 3);  // 2 of 10 us
}

TEST(products_of_scores_are_summed_for_all_pairs) {
    Held sketch(small());
    Column first = continuous({0.0f}), second = discrete({1.0f, 2.0f});
    first.pair_scores = {-3.0f, 4.0f};
    second.pair_scores = {2.0f, -1.0f};
    sketch->set_layout({first, continuous({7.0f}), second}, 3);
    const float nan = std::numeric_limits<float>::quiet_NaN();
    // Scores (-3, 2), (4, -1), (0, 2) because a missing value counts as 0, (4, 0) because a new code does.
    const float rows[4][3] = {{-1.0f, 0.0f, 1.0f}, {1.0f, 0.0f, 2.0f}, {nan, 0.0f, 1.0f}, {1.0f, 0.0f, 5.0f}};
    sketch->fold_features(rows[0], 4, 3);
    sketch->drain(true);
    Block block;
    CHECK(sketch->take(block));
    CHECK(block.pair_rows == 4);
    CHECK((block.pair_sums == std::vector<float>{5.0f, 3.0f, 41.0f, -10.0f, 9.0f}));
    sketch->fold_features(rows[0], 1, 3);
    sketch->drain(true);
    CHECK(sketch->take(block));
    CHECK(block.pair_rows == 1 && block.pair_sums[3] == -6.0f);
}

TEST(one_row_in_some_has_its_products_summed_where_there_are_many_columns) {
    Limits limits = small();
    limits.features_max = 90;
    limits.block_rows = 100;
    Held sketch(limits);
    Column column = continuous({0.0f});
    column.pair_scores = {-1.0f, 1.0f};
    sketch->set_layout(std::vector<Column>(90, column), 90);
    const std::vector<float> rows(90 * 100, 1.0f);
    sketch->fold_features(rows.data(), 100, 90);
    sketch->drain(true);
    Block block;
    CHECK(sketch->take(block));
    // 4,095 products are of every fourth row.
    CHECK(block.rows == 100 && block.pair_rows == 25);
    CHECK(block.pair_sums.size() == 90 + 4095 && block.pair_sums.back() == 25.0f);
}

TEST(the_latest_answers_are_copied) {
    AnswerMemory memory(4, 1);
    for (uint64_t id = 1; id <= 6; ++id) {
        const double value = static_cast<double>(id);
        memory.insert(id, &value);
    }
    std::vector<Remembered> entries;
    std::vector<double> outputs;
    memory.copy(entries, outputs, 2);
    CHECK(entries.size() == 2 && entries[0].id == 5 && entries[1].id == 6);
    CHECK((outputs == std::vector<double>{5.0, 6.0}));
    entries.clear();
    outputs.clear();
    memory.copy(entries, outputs);
    CHECK(entries.size() == 4 && entries[0].id == 3);
}

TEST(a_new_layout_keeps_answers_that_were_not_taken) {
    Held sketch(small());
    sketch->set_layout({continuous({0.5f})}, 1);
    const float row = 1.0f;
    const double value = 0.5;
    for (uint64_t i = 0; i < 25; ++i) {
        engine_answer made = answer(i, &row, 1, &value);
        made.deployment = 7 + i % 2;
        sketch->observe(made);
    }
    sketch->drain(false);
    CHECK(!sketch->set_layout({continuous({0.5f, 0.7f})}, 1, false));
    sketch->set_layout({continuous({0.5f, 0.7f})}, 1);
    sketch->drain(true);
    Block block;
    CHECK(sketch->take(block));
    CHECK(block.answers == 25 && block.rows == 0);
    CHECK(block.n_deployments == 2 && block.deployments[0] == 7);
    CHECK(block.tally[0] == 13 && block.tally[SOURCES * REASONS] == 12);
    CHECK(block.output_moments[0] == 13.0 && block.counts.size() == 3);
}

TEST(blocks_that_are_not_taken_grow_and_lose_nothing) {
    Held sketch(small());
    sketch->set_layout({continuous({0.5f})}, 1);
    std::vector<float> rows(1000);
    for (size_t i = 0; i < rows.size(); ++i) rows[i] = i % 4 ? 0.0f : 1.0f;
    sketch->fold_features(rows.data(), rows.size(), 1);
    sketch->drain(true);
    Block block;
    uint64_t low = 0, high = 0;
    for (size_t blocks = 0; blocks < 6; ++blocks) {
        if (!sketch->take(block)) sketch->drain(true);
        else low += block.counts[0], high += block.counts[1];
    }
    CHECK(low == 750 && high == 250);
}

// Counts 57 rows into blocks of 10, of which 4 find room, and ends that by `end`. Returns the rows of all blocks.
uint64_t rows_taken_after(void (*end)(Sketch&)) {
    Held sketch(small());
    sketch->set_layout({continuous({0.5f})}, 1);
    const std::vector<float> rows(57, 0.0f);
    sketch->fold_features(rows.data(), rows.size(), 1);
    end(*sketch.sketch);
    Block block;
    uint64_t counted = 0;
    while (sketch->take(block)) counted += block.rows;
    return counted;
}

TEST(a_flush_that_finds_no_room_is_done_when_a_block_is_taken) {
    CHECK(rows_taken_after([](Sketch& sketch) { sketch.drain(true); }) == 57);
}

TEST(closing_flushes_though_there_is_no_room) {
    CHECK(rows_taken_after([](Sketch& sketch) { sketch.close(); }) == 57);
}

TEST(rows_of_another_width_are_counted_and_left_out) {
    Held sketch(small());
    sketch->set_layout({continuous({0.5f}), continuous({0.5f})}, 2);
    const float row[3] = {1.0f, 1.0f, 1.0f};
    const double value = 0.5;
    CHECK(sketch->observe(answer(1, row, 3, &value)));
    const double many[2] = {0.5, 0.5};
    engine_answer wide = answer(2, row, 2, many);
    wide.n_outputs = 2;
    CHECK(sketch->observe(wide));
    CHECK(sketch->observe(answer(3, nullptr, 2, &value)));  // never read: its width is not wrong
    sketch->drain(true);
    Block block;
    CHECK(sketch->take(block));
    CHECK(block.answers == 3 && block.rows == 1);
    CHECK(sketch->totals().wrong_width == 2);
}

TEST(rows_of_doubles_are_rounded_and_the_first_width_holds) {
    Limits limits = small();
    limits.sample_rows = 2;
    Held sketch(limits);
    const double row[2] = {0.5, 2.0};
    const double value = 0.25;
    engine_answer made = answer(1, nullptr, 2, &value);
    made.row = row;
    made.flags = ENGINE_ANSWER_ROW_FLOAT64;
    for (int i = 0; i < 5; ++i) CHECK(sketch->observe(made));
    sketch->drain(false);
    uint32_t width = 0;
    const std::vector<float> sample = sketch->sample(width);
    CHECK(width == 3 && sample.size() == 6);
    CHECK(sample[0] == 0.5f && sample[1] == 2.0f && sample[2] == 0.25f);
    CHECK(sketch->n_features() == 2);
}

TEST(a_full_ring_drops_and_counts) {
    Ring ring(4, 2, 1);
    uint64_t position = 0;
    for (int i = 0; i < 4; ++i) {
        CHECK(ring.claim(position) != nullptr);
        ring.publish(position);
    }
    CHECK(ring.claim(position) == nullptr);
    CHECK(ring.front() != nullptr);
    ring.pop();
    CHECK(ring.claim(position) != nullptr);
    CHECK(ring.capacity() == 4);
}

TEST(records_of_many_threads_are_counted_or_dropped) {
    Limits limits = small();
    limits.answers_max = 1000;
    Held sketch(limits);
    sketch->set_layout({continuous({0.5f}), continuous({0.5f})}, 1);
    constexpr uint64_t THREADS = 4, EACH = 20000;
    std::vector<std::thread> threads;
    for (uint64_t t = 0; t < THREADS; ++t) {
        threads.emplace_back([&, t] {
            for (uint64_t i = 0; i < EACH; ++i) {
                const float row = static_cast<float>(i % 2);
                const double value = static_cast<double>(t);
                sketch->observe(answer(t * EACH + i, &row, 1, &value));
            }
        });
    }
    uint64_t counted = 0;
    Block block;
    for (int i = 0; i < 2000; ++i) {
        if (sketch->take(block)) counted += block.counts[0] + block.counts[1];
        if (i % 16 == 0) sketch->totals();
    }
    for (std::thread& thread : threads) thread.join();
    for (int i = 0; i < 10; ++i) {
        sketch->drain(true);
        while (sketch->take(block)) counted += block.counts[0] + block.counts[1];
    }
    const Totals totals = sketch->totals();
    CHECK(totals.pushed + totals.dropped == THREADS * EACH);
    CHECK(totals.folded == totals.pushed);
    CHECK(counted == totals.pushed);
}

TEST(the_memory_of_answers_agrees_with_a_map) {
    engine::Random random(5, 1);
    AnswerMemory memory(50, 1);
    std::unordered_map<uint64_t, double> truth;
    std::vector<uint64_t> order;
    for (int i = 0; i < 5000; ++i) {
        const uint64_t id = random.bits() % 200;
        const double value = random.uniform();
        const bool known = memory.find(id) != nullptr;
        CHECK(known == (truth.count(id) == 1));
        if (!known) order.push_back(id);
        memory.insert(id, &value);
        truth[id] = value;
        if (truth.size() > 50) {
            truth.erase(order.front());
            order.erase(order.begin());
        }
        CHECK(memory.size() == truth.size());
        for (const auto& [key, expected] : truth) {
            Remembered* entry = memory.find(key);
            CHECK(entry && *memory.outputs(entry) == expected);
        }
    }
}

TEST(a_label_finds_its_answer_once) {
    Held sketch(small());
    const double value = 0.75;
    sketch->observe(answer(42, nullptr, 0, &value));
    Remembered found;
    double output = 0.0;
    CHECK(sketch->find(42, found, &output) && output == 0.75);
    CHECK(found.deployment == 7 && found.labelled == 0);
    CHECK(sketch->label(42));
    CHECK(!sketch->label(42));
    CHECK(!sketch->find(43, found, &output));
    for (uint64_t i = 100; i < 108; ++i) sketch->observe(answer(i, nullptr, 0, &value));
    sketch->drain(false);
    CHECK(!sketch->find(42, found, &output));  // eight later answers have taken its place
    CHECK(sketch->find(100, found, &output));
}

TEST(answers_go_to_another_sketch) {
    Held first(small()), second(small());
    const double values[3] = {0.25, 0.5, 0.75};
    for (uint64_t i = 0; i < 12; ++i) first->observe(answer(i, nullptr, 0, &values[i % 3]));  // room for 8
    first->drain(false);
    CHECK(first->label(9));
    std::vector<Remembered> entries;
    std::vector<double> outputs;
    first->answers(entries, outputs);
    CHECK(entries.size() == 8 && outputs.size() == 8 && entries[0].id == 4 && entries[7].id == 11);
    const double own = 0.9;
    second->observe(answer(10, nullptr, 0, &own));
    second->drain(false);
    second->remember(entries.data(), outputs.data(), entries.size());
    Remembered found;
    double output = 0.0;
    CHECK(second->find(9, found, &output) && output == 0.25 && found.labelled == 1 && found.n_outputs == 1);
    CHECK(!second->label(9) && second->label(11));
    CHECK(second->find(10, found, &output) && output == 0.9);
}

TEST(a_shadow_is_compared_with_the_live_answer_whichever_comes_first) {
    Held sketch(small());
    const double live = 0.6, shadow = 0.4, close = 0.605;
    engine_answer other = answer(1, nullptr, 0, &shadow);
    other.flags = ENGINE_ANSWER_SHADOW;
    other.deployment = 9;
    sketch->observe(answer(1, nullptr, 0, &live));
    sketch->observe(other);
    other.id = 2;
    other.values = &close;
    sketch->observe(other);
    sketch->observe(answer(2, nullptr, 0, &live));
    sketch->drain(true);
    const Comparison found = sketch->totals().shadows[0];
    CHECK(found.deployment == 9 && found.count == 2);
    CHECK(found.within == 1 && found.same_decision == 1);
    CHECK(std::fabs(found.sum + 0.195) < 1e-12);
    Block block;
    CHECK(sketch->take(block) && block.answers == 2);  // no caller got the shadow's
}

TEST(a_shadow_s_answer_that_is_replaced_or_forgotten_is_unpaired) {
    Held sketch(small());  // room for 16 that wait
    const double value = 0.5;
    const auto shadow = [&](uint64_t id) {
        engine_answer made = answer(id, nullptr, 0, &value);
        made.flags = ENGINE_ANSWER_SHADOW;
        sketch->observe(made);
        sketch->drain(false);
    };
    for (uint64_t id = 0; id < 16; ++id) shadow(id);
    CHECK(sketch->totals().unpaired_shadows == 0);
    shadow(3);  // again
    CHECK(sketch->totals().unpaired_shadows == 1);
    sketch->observe(answer(5, nullptr, 0, &value));  // leaves a place that is not the oldest's
    sketch->drain(false);
    CHECK(sketch->totals().shadows[0].count == 1);
    shadow(16);  // takes the place of 0
    CHECK(sketch->totals().unpaired_shadows == 2);
}

TEST(versions_beyond_the_table_share_its_last_place) {
    Block block;
    block.reset(0, 0);
    for (uint64_t i = 0; i < VERSIONS + 5; ++i) CHECK(block.version(i + 1) == std::min<size_t>(i, VERSIONS - 1));
    CHECK(block.version(3) == 2);
}

TEST(the_observer_of_the_abi_is_the_sketch) {
    auto* sketch = new Sketch(small());
    const engine_observer observer = sketch->observer();
    CHECK(observer.abi == ENGINE_OBSERVER_ABI);
    observer.retain(observer.ctx);
    sketch->release();  // the engine's reference keeps it
    const float row[2] = {1.0f, 2.0f};
    const double value = 0.5;
    const engine_answer made = answer(1, row, 2, &value);
    observer.deployed(observer.ctx, 7, "v7");
    observer.observe(observer.ctx, &made);
    sketch->drain(true);
    CHECK(sketch->totals().folded == 1);
    CHECK(sketch->versions().size() == 1 && sketch->versions()[0].second == "v7");
    CHECK(sketch->observer().n_features == 2);
    sketch->close();
    observer.observe(observer.ctx, &made);
    CHECK(sketch->totals().pushed == 1);
    observer.release(observer.ctx);
}

TEST(closing_is_final_and_may_be_repeated) {
    Held sketch(small());
    const double value = 0.5;
    sketch->observe(answer(1, nullptr, 0, &value));
    sketch->close();
    sketch->close();
    CHECK(!sketch->observe(answer(2, nullptr, 0, &value)));
    CHECK(sketch->totals().folded == 1);
    CHECK(sketch->wait_closed(1));
}

TEST(a_child_of_fork_does_nothing_and_can_close) {
    Held sketch(small());
    const pid_t child = fork();
    if (child == 0) {
        const double value = 0.5;
        const bool pushed = sketch->observe(answer(1, nullptr, 0, &value));
        sketch->drain(true);
        sketch->close();
        _exit(!pushed && !sketch->alive() && sketch->totals().pushed == 0 ? 0 : 1);
    }
    int status = -1;
    waitpid(child, &status, 0);
    CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0);
    CHECK(sketch->alive());
}

CHECK_MAIN()
