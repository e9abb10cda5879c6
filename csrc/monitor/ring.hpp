// Answers on their way from the threads that serve to the one that counts: a bounded ring of fixed records.
#pragma once

#include <atomic>
#include <cstdint>
#include <cstring>
#include <memory>
#include <new>

#include "engine/observer.h"

namespace engine::monitor {

enum RecordFlags : uint32_t {
    RECORD_HAS_ROW = 1u << 16,      // features() is filled in
    RECORD_HAS_OUTPUTS = 1u << 17,  // outputs() is filled in
    RECORD_TIMED = 1u << 18,        // deadline_ns means something
};

// One answer, followed in memory by outputs_max doubles and features_max floats.
struct Record {
    uint64_t id;
    uint64_t deployment;
    int64_t started_ns;
    int64_t deadline_ns;
    int64_t ready_ns;
    uint32_t flags;  // engine_answer_flags and RecordFlags
    uint8_t source;
    uint8_t reason;
    uint16_t unused;
};
static_assert(sizeof(Record) == 48, "outputs follow a record and must stay aligned to 8 bytes");

// Many producers, one consumer (Vyukov's bounded queue, 1024cores.net): a cell's sequence says whose turn it is, so that a
// producer claims a cell with one compare-and-swap and publishes it with one store. Nothing waits: a full ring refuses.
// The memory is taken once, and its size never changes.
class Ring {
public:
    // capacity is rounded up to a power of two. Throws std::bad_alloc.
    Ring(uint32_t capacity, uint32_t features_max, uint32_t outputs_max);

    Ring(const Ring&) = delete;
    Ring& operator=(const Ring&) = delete;

    // Hot: once per answer. Claims a cell for a record, or nullptr where the ring is full; `position` goes to publish().
    // A claimed cell must be published, and soon: the consumer stops at it.
    Record* claim(uint64_t& position) noexcept {
        uint64_t at = tail_.load(std::memory_order_relaxed);
        for (;;) {
            const uint64_t sequence = cell(at).load(std::memory_order_acquire);
            const auto ahead = static_cast<int64_t>(sequence - at);
            if (ahead == 0) {
                if (tail_.compare_exchange_weak(at, at + 1, std::memory_order_relaxed)) break;
            } else if (ahead < 0) {
                return nullptr;
            } else {
                at = tail_.load(std::memory_order_relaxed);
            }
        }
        position = at;
        return record(at);
    }
    void publish(uint64_t position) noexcept { cell(position).store(position + 1, std::memory_order_release); }

    // The consumer's: the oldest published record or nullptr; pop() gives its cell back.
    const Record* front() noexcept {
        return cell(head_).load(std::memory_order_acquire) == head_ + 1 ? record(head_) : nullptr;
    }
    void pop() noexcept {
        cell(head_).store(head_ + mask_ + 1, std::memory_order_release);
        ++head_;
    }

    double* outputs(const Record* of) const noexcept {
        return const_cast<double*>(reinterpret_cast<const double*>(of + 1));
    }
    float* features(const Record* of) const noexcept { return reinterpret_cast<float*>(outputs(of) + outputs_max_); }

    uint32_t capacity() const noexcept { return static_cast<uint32_t>(mask_ + 1); }
    uint32_t features_max() const noexcept { return features_max_; }
    uint32_t outputs_max() const noexcept { return outputs_max_; }
    uint64_t pushed() const noexcept { return tail_.load(std::memory_order_relaxed); }
    size_t bytes() const noexcept { return stride_ * (mask_ + 1); }

private:
    static constexpr size_t LINE = 64;
    struct Free {
        void operator()(std::byte* memory) const noexcept { ::operator delete[](memory, std::align_val_t{LINE}); }
    };

    // A cell is its sequence (8 bytes), then its record.
    std::atomic<uint64_t>& cell(uint64_t position) const noexcept {
        return *reinterpret_cast<std::atomic<uint64_t>*>(memory_.get() + (position & mask_) * stride_);
    }
    Record* record(uint64_t position) const noexcept {
        return reinterpret_cast<Record*>(memory_.get() + (position & mask_) * stride_ + sizeof(std::atomic<uint64_t>));
    }

    uint64_t mask_;
    uint32_t features_max_;
    uint32_t outputs_max_;
    size_t stride_;
    std::unique_ptr<std::byte[], Free> memory_;
    alignas(LINE) std::atomic<uint64_t> tail_{0};
    alignas(LINE) uint64_t head_ = 0;
};

}  // namespace engine::monitor
