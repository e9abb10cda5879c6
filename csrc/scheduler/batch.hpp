// One batch of one lane, with the buffers to score it in and how far its scoring is. Sized once.
//
// Rows are scored in groups: those that came under one deployment, and of these the suspects (row_failures.hpp) last
// and by themselves. A group takes one call, or several where rows fail or a call may have fewer of them.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "base/assert.hpp"
#include "scheduler/completions.hpp"
#include "scheduler/deployment.hpp"
#include "scheduler/limits.hpp"
#include "scheduler/policy.hpp"
#include "scheduler/request.hpp"
#include "scheduler/row_search.hpp"

namespace engine::scheduler {

// Where a call of a batch is.
enum class CallState : uint8_t { none, in_flight, waits_for_room };

struct Batch {
    explicit Batch(const RuntimeLimits& limits)
        : entries(limits.batch_rows_max),
          in_order(limits.batch_rows_max),
          rows(size_t{limits.batch_rows_max} * limits.row_bytes_max()),
          out(size_t{limits.batch_rows_max} * limits.n_outputs),
          scratch(size_t{limits.batch_rows_max} * limits.n_features),
          waited_ns(limits.batch_rows_max),
          predicted_ns(limits.batch_rows_max) {
        pending_signals.reserve(limits.batch_rows_max);
        called.reserve(limits.batch_rows_max);
    }

    uint32_t size = 0;          // rows in it; the vectors hold batch_rows_max
    Place place{0};             // where it runs
    int64_t call_began_ns = 0;  // lock: the scoring call under way, which has …
    uint32_t call_rows = 0;     // … this many rows
    std::vector<Entry> entries;
    std::vector<Entry> in_order;  // the entries in the order in which they are scored
    std::vector<std::byte> rows;  // of a call, copied side by side
    std::vector<double> out;
    std::vector<float> scratch;                 // for rows narrowed to float32
    std::vector<int64_t> waited_ns;             // of each row: how long it was queued …
    std::vector<int64_t> predicted_ns;          // … and the finish that admission expected
    std::vector<Completions*> pending_signals;  // loops to be signalled at the end of a call, with a reference each
    std::vector<Deployment*> called;            // lock: whose calls have begun; one reference each, until learning
    Deployment* lost_in = nullptr;              // the one whose call was lost, with a reference until it is back

    // The scoring executor's alone: how far it is.
    uint32_t group_from = 0, group_to = 0;  // rows under way, by in_order; those before are settled
    uint32_t run_to = 0;                    // suspects of the same deployment follow up to here
    Deployment* deployment = nullptr;       // of the group; the references are those of `called`
    RowSearch search{0};                    // through the group
    bool searches = true;                   // where a call fails, further calls find the rows that make it fail
    bool first_call = true, first_of_group = true;
    bool blamed = true;           // a row was counted for the last failed call
    bool giving_up = false;       // no further call of the group is worth its time
    bool hurried = false;         // there is no time to search all rows that wait
    Reason failure = Reason::ok;  // of the last failed call
    uint32_t n = 0;               // rows of the call
    int64_t until_ns = 0;         // when the last of its callers stops waiting
    CallState call_state = CallState::none;
    uint32_t ticket = 0;   // the device's, while in flight
    bool waited = false;   // the device had no room for a call: its time says nothing
    int64_t ended_ns = 0;  // when the last call ended
    bool all_ok = true;    // every row got an answer of the primary
    bool last_ok = true;   // … every row of the last call

    // Before the first call.
    void begin(int64_t now) noexcept {
        group_from = group_to = run_to = 0;
        search = RowSearch(0);
        first_call = all_ok = last_ok = true;
        waited = false;
        call_state = CallState::none;
        ended_ns = now;
    }
    // The first row that is not settled.
    uint32_t at() const noexcept { return group_from + search.at(); }

    // Lock. A call of this deployment begins.
    void call(Deployment& deployment) noexcept {
        if (!called.empty() && called.back() == &deployment) return;
        ENGINE_ASSERT(called.size() < called.capacity(), "a batch falls into no more runs than it has rows");
        deployment.retain();
        called.push_back(&deployment);
    }
    // Lock. The deployment whose call is under way.
    Deployment& calling() const noexcept {
        ENGINE_ASSERT(!called.empty(), "a batch that runs has begun a call");
        return *called.back();
    }
};

}  // namespace engine::scheduler
