// A device behind the scorer ABI for tests: batches take their time while no thread works on them. It checks that its
// caller keeps the rules of begin(), poll() and abandon(), and counts every breach.
#pragma once

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdint>
#include <mutex>
#include <thread>
#include <vector>

#include "base/clock.hpp"
#include "engine/scorer.h"

// Adds up its rows of two values.
struct TestDevice {
    struct Ticket {
        std::vector<double> answers;
        int64_t ready_ns = 0;
        int status = ENGINE_SCORE_OK;
        bool out = false, abandoned = false, stuck = false, polled = false;
    };

    explicit TestDevice(uint32_t lanes, uint32_t most = 16) : in_flight_max(lanes), rows_max(most), tickets(lanes) {}

    const uint32_t in_flight_max, rows_max;
    std::atomic<uint32_t> references{1};
    std::atomic<int64_t> takes_ns{100'000};  // a batch
    std::atomic<bool> serial{false};         // batches one after the other, as on a device that one of them fills
    std::atomic<bool> hang{false};           // a batch that begins now takes until this is false again
    std::atomic<bool> begin_fails{false}, begin_hangs{false}, poll_hangs{false}, fail{false}, full{false};
    std::atomic<bool> poisonable{false};  // a batch fails that has a row whose first value is negative
    double offset = 0.0;
    std::atomic<uint64_t> begun{0}, called{0}, abandoned{0}, breaches{0};
    std::atomic<uint32_t> together{0};  // the most batches that were out at once
    std::mutex lock;
    std::vector<Ticket> tickets;
    int64_t free_ns = 0;  // when a serial device is through with the last batch

    uint32_t out() {
        const std::lock_guard<std::mutex> holding(lock);
        return static_cast<uint32_t>(
            std::count_if(tickets.begin(), tickets.end(), [](auto& each) { return each.out; }));
    }

    int answer(const float* rows, size_t n, size_t stride, double* to) {
        if (fail.load()) return ENGINE_SCORE_FAILED;
        for (size_t r = 0; r < n; ++r) {
            if (poisonable.load() && rows[r * stride] < 0.0f) return ENGINE_SCORE_FAILED;
            to[r] = offset + static_cast<double>(rows[r * stride]) + static_cast<double>(rows[r * stride + 1]);
        }
        return ENGINE_SCORE_OK;
    }

    static int score(void* ctx, const float* rows, size_t n, size_t stride, double* out) {
        auto* self = static_cast<TestDevice*>(ctx);
        self->called.fetch_add(1);
        std::this_thread::sleep_for(std::chrono::nanoseconds(self->takes_ns.load()));
        return self->answer(rows, n, stride, out);
    }
    static int begin(void* ctx, const float* rows, size_t n, size_t stride, uint32_t* ticket) {
        auto* self = static_cast<TestDevice*>(ctx);
        while (self->begin_hangs.load()) std::this_thread::sleep_for(std::chrono::microseconds(200));
        if (n == 0 || n > self->rows_max) self->breaches.fetch_add(1);
        if (self->begin_fails.load()) return ENGINE_SCORE_FAILED;
        if (self->full.load()) return ENGINE_SCORE_BUSY;
        const std::lock_guard<std::mutex> holding(self->lock);
        const auto free =
            std::find_if(self->tickets.begin(), self->tickets.end(), [](auto& each) { return !each.out; });
        if (free == self->tickets.end()) return ENGINE_SCORE_BUSY;
        const int64_t now = engine::now_ns();
        const int64_t from = self->serial.load() ? std::max(now, self->free_ns) : now;
        *free = Ticket{};
        free->out = true;
        free->stuck = self->hang.load();
        free->answers.resize(n);
        free->status = self->answer(rows, n, stride, free->answers.data());
        free->ready_ns = self->free_ns = from + self->takes_ns.load();
        *ticket = static_cast<uint32_t>(free - self->tickets.begin());
        self->begun.fetch_add(1);
        const auto out = static_cast<uint32_t>(
            std::count_if(self->tickets.begin(), self->tickets.end(), [](auto& each) { return each.out; }));
        self->together.store(std::max(self->together.load(), out));
        return ENGINE_SCORE_OK;
    }
    static int poll(void* ctx, uint32_t index, double* out) {
        auto* self = static_cast<TestDevice*>(ctx);
        while (self->poll_hangs.load()) std::this_thread::sleep_for(std::chrono::microseconds(200));
        const std::lock_guard<std::mutex> holding(self->lock);
        if (index >= self->tickets.size() || !self->tickets[index].out) {
            self->breaches.fetch_add(1);  // nothing is out under this ticket
            return ENGINE_SCORE_FAILED;
        }
        Ticket& ticket = self->tickets[index];
        if (ticket.abandoned != (out == nullptr)) self->breaches.fetch_add(1);
        if ((ticket.stuck && self->hang.load()) || engine::now_ns() < ticket.ready_ns) return ENGINE_SCORE_PENDING;
        if (out != nullptr) std::copy(ticket.answers.begin(), ticket.answers.end(), out);
        ticket.out = false;
        return ticket.status;
    }
    static void abandon(void* ctx, uint32_t index) {
        auto* self = static_cast<TestDevice*>(ctx);
        const std::lock_guard<std::mutex> holding(self->lock);
        if (index >= self->tickets.size() || !self->tickets[index].out || self->tickets[index].abandoned)
            self->breaches.fetch_add(1);
        else self->tickets[index].abandoned = true;
        self->abandoned.fetch_add(1);
    }
    static void retain(void* ctx) { static_cast<TestDevice*>(ctx)->references.fetch_add(1); }
    static void release(void* ctx) { static_cast<TestDevice*>(ctx)->references.fetch_sub(1); }

    engine_scorer scorer() {
        return {ENGINE_SCORER_ABI,
                ENGINE_SCORER_REENTRANT,
                2,
                1,
                this,
                score,
                nullptr,
                retain,
                release,
                nullptr,
                nullptr,
                begin,
                nullptr,
                poll,
                abandon,
                in_flight_max,
                rows_max};
    }
};
