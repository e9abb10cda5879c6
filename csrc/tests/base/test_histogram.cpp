#include "base/histogram.hpp"

#include <thread>

#include "tests/check.hpp"

using namespace engine;

TEST(small_values_have_a_bucket_each) {
    for (int64_t value = 0; value < 32; ++value) {
        CHECK(LogBuckets::index(value) == static_cast<size_t>(value));
        CHECK(LogBuckets::upper(static_cast<size_t>(value)) == value);
    }
}

TEST(bucket_edges) {
    CHECK(LogBuckets::index(32) == 32 && LogBuckets::index(33) == 32 && LogBuckets::index(34) == 33);
    CHECK(LogBuckets::upper(32) == 33);
    CHECK(LogBuckets::index(63) == 47 && LogBuckets::index(64) == 48 && LogBuckets::index(67) == 48);
    CHECK(LogBuckets::upper(48) == 67);
    CHECK(LogBuckets::index(-5) == 0);
    CHECK(LogBuckets::index((int64_t{1} << 44) - 1) == LogBuckets::COUNT - 1);
    CHECK(LogBuckets::index(INT64_MAX) == LogBuckets::COUNT - 1);
}

TEST(every_value_lies_within_a_sixteenth_below_its_buckets_upper_edge) {
    for (int bit = 0; bit < 44; ++bit)
        for (int64_t power = int64_t{1} << bit; int64_t value : {power - 1, power, power + power / 3}) {
            const int64_t upper = LogBuckets::upper(LogBuckets::index(value));
            CHECK(value <= upper && upper <= value + value / 16);
        }
}

TEST(quantiles_of_one_to_a_hundred) {
    Histogram histogram;
    CHECK(histogram.quantile(0.5) == 0);
    for (int64_t value = 1; value <= 100; ++value) histogram.record(value);
    CHECK(histogram.count() == 100);
    CHECK(histogram.quantile(0.0) == 1);
    CHECK(histogram.quantile(0.1) == 10);
    CHECK(histogram.quantile(0.5) == 51);   // 50 shares its bucket with 51
    CHECK(histogram.quantile(0.99) == 99);  // 96 to 99
    CHECK(histogram.quantile(1.0) == 103);  // 100 to 103
}

TEST(a_lone_outlier_is_forgotten_at_the_next_halving) {
    DecayingQuantile quantile(0.999, 256);
    quantile.record(1'000'000, 1);
    CHECK(quantile.value() == (31 << 15) - 1);
    for (int i = 0; i < 100; ++i) quantile.record(10, 2);
    CHECK(quantile.value() == (31 << 15) - 1);
    for (int i = 0; i < 256; ++i) quantile.record(10, 3);
    CHECK(quantile.value() == 10);
}

TEST(time_alone_halves_too) {
    DecayingQuantile quantile(0.999, 1'000'000, 1'000);
    quantile.record(1'000'000, 1);
    for (int i = 0; i < 100; ++i) quantile.record(10, 2);
    for (int i = 0; i < 64; ++i) quantile.record(10, 2'000);
    CHECK(quantile.value() == 10);
}

TEST(a_lasting_change_wins_within_two_windows) {
    DecayingQuantile quantile(0.5, 256);
    for (int i = 0; i < 5'000; ++i) quantile.record(10, 1);
    CHECK(quantile.value() == 10);
    for (int i = 0; i < 512; ++i) quantile.record(20, 1);
    CHECK(quantile.value() == 20);
    for (int i = 0; i < 512; ++i) quantile.record(5, 1);
    CHECK(quantile.value() == 5);
}

TEST(any_thread_records) {
    Histogram histogram;
    DecayingQuantile quantile(0.98, 512);
    const auto work = [&] {
        for (int i = 0; i < 10'000; ++i) {
            histogram.record(i % 16);
            quantile.record(i % 16, i);
        }
    };
    std::thread other(work);
    work();
    other.join();
    CHECK(histogram.count() == 20'000);
    CHECK(quantile.value() == 15);
}

CHECK_MAIN()
