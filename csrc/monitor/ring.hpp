// Carries answers from the threads that serve to the thread that counts: a bounded ring of records of one size.
//
// Many producers, one consumer, no lock (Dmitry Vyukov's bounded queue, 1024cores.net). Every cell has a sequence
// number, which says who may touch the cell's record. For the cell of position p in a ring of c cells:
//
//     sequence == p        free: the producer that claims position p may write
//     sequence == p + 1    published: the consumer may read
//     sequence == p + c    free again, for the producer that claims position p + c
//
// Why the order of loads and stores is right:
//
// - A record travels from producer to consumer through its cell's sequence. publish() stores p + 1 with release after
//   the record is written, and front() loads it with acquire. A consumer that sees p + 1 therefore sees the whole
//   record.
// - The cell travels back the same way. pop() stores p + c with release after the consumer's last read, and claim()
//   loads it with acquire. A producer one lap later therefore cannot overwrite what is still being read.
// - tail_ hands out positions and carries no data, so relaxed is enough. Its compare-and-swap gives each position to
//   one producer. A producer with an old value of tail_ finds a sequence that is ahead, or its swap fails; it loads
//   again.
// - Positions are 64 bits wide and never repeat, so the swap cannot succeed on a value that went and came back.
// - A sequence that is behind means that the cell still holds the record of the lap before. The ring is full. claim()
//   gives up at once, because the threads that serve must never wait for the one that counts.
// - head_ is an ordinary variable. Only the consumer touches it, and consumers exclude each other by the sketch's
//   mutex.
//
// A producer that is stopped between claim() and publish() holds up the consumer at its cell. Other producers go on
// until the ring is full, and then drop records.
#pragma once

#include <atomic>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <new>

#include "base/assert.hpp"
#include "engine/observer.h"

namespace engine::monitor {

// Flags of a record, above the 16 bits of engine_answer_flags.
enum RecordFlags : uint32_t {
    RECORD_HAS_ROW = 1u << 16,      // features() is filled in
    RECORD_HAS_OUTPUTS = 1u << 17,  // outputs() is filled in
    RECORD_TIMED = 1u << 18,        // deadline_ns is a deadline
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
    uint16_t n_outputs;  // that the answer had
};
static_assert(sizeof(Record) == 48, "outputs follow a record and must stay aligned to 8 bytes");
static_assert(sizeof(std::atomic<uint64_t>) == 8, "a record follows its sequence and must stay aligned to 8 bytes");

// All memory is taken by the constructor.
class Ring {
public:
    // capacity is rounded up to a power of two, at least 2. Throws std::bad_alloc.
    Ring(uint32_t capacity, uint32_t features_max, uint32_t outputs_max);

    Ring(const Ring&) = delete;
    Ring& operator=(const Ring&) = delete;

    // Hot: once per answer, any thread. Claims a cell, or returns nullptr where the ring is full; `position` goes to
    // publish(). The caller must publish a claimed cell, and soon, because the consumer stops at it.
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
        ENGINE_ASSERT(cell(at).load(std::memory_order_relaxed) == at, "a claimed cell is free until it is published");
        position = at;
        return record(at);
    }
    void publish(uint64_t position) noexcept {
        ENGINE_ASSERT(cell(position).load(std::memory_order_relaxed) == position, "a cell is published once");
        ENGINE_ASSERT(position < tail_.load(std::memory_order_relaxed), "only a claimed position is published");
        cell(position).store(position + 1, std::memory_order_release);
    }

    // The consumer's: the oldest published record, or nullptr; pop() gives its cell back.
    const Record* front() noexcept {
        const uint64_t sequence = cell(head_).load(std::memory_order_acquire);
        ENGINE_ASSERT(sequence == head_ || sequence == head_ + 1, "the consumer's cell is free or published");
        return sequence == head_ + 1 ? record(head_) : nullptr;
    }
    void pop() noexcept {
        ENGINE_ASSERT(cell(head_).load(std::memory_order_relaxed) == head_ + 1, "only a published cell is given back");
        ENGINE_ASSERT(head_ < tail_.load(std::memory_order_relaxed), "the consumer never passes the producers");
        cell(head_).store(head_ + mask_ + 1, std::memory_order_release);
        ++head_;
    }

    double* outputs(const Record* of) const noexcept {
        ENGINE_ASSERT(owns(of), "a record lies inside its ring");
        return const_cast<double*>(reinterpret_cast<const double*>(of + 1));
    }
    float* features(const Record* of) const noexcept { return reinterpret_cast<float*>(outputs(of) + outputs_max_); }

    uint32_t capacity() const noexcept { return static_cast<uint32_t>(mask_ + 1); }
    uint32_t features_max() const noexcept { return features_max_; }
    uint32_t outputs_max() const noexcept { return outputs_max_; }
    // Positions claimed since the start.
    uint64_t pushed() const noexcept { return tail_.load(std::memory_order_relaxed); }
    size_t bytes() const noexcept { return stride_ * (mask_ + 1); }

private:
    static constexpr size_t LINE = 64;
    struct Free {
        void operator()(std::byte* memory) const noexcept { ::operator delete[](memory, std::align_val_t{LINE}); }
    };

    // A cell is its sequence (8 bytes), then its record. It starts on a cache line of its own, so that two producers
    // never write to one line.
    std::atomic<uint64_t>& cell(uint64_t position) const noexcept {
        return *reinterpret_cast<std::atomic<uint64_t>*>(memory_.get() + (position & mask_) * stride_);
    }
    Record* record(uint64_t position) const noexcept {
        return reinterpret_cast<Record*>(memory_.get() + (position & mask_) * stride_ + sizeof(std::atomic<uint64_t>));
    }
    bool owns(const Record* of) const noexcept {
        const auto* at = reinterpret_cast<const std::byte*>(of);
        return at >= memory_.get() && at < memory_.get() + bytes() &&
               static_cast<size_t>(at - memory_.get()) % stride_ == sizeof(std::atomic<uint64_t>);
    }

    uint64_t mask_;  // capacity - 1
    uint32_t features_max_;
    uint32_t outputs_max_;
    size_t stride_;  // bytes of a cell
    std::unique_ptr<std::byte[], Free> memory_;
    // Producers and consumer each write to one of these; on a line of their own they do not disturb each other.
    alignas(LINE) std::atomic<uint64_t> tail_{0};
    alignas(LINE) uint64_t head_ = 0;
};

}  // namespace engine::monitor
