#include "scheduler/fair_share.hpp"

#include <functional>
#include <memory>
#include <vector>

#include "scheduler/policy.hpp"
#include "tests/check.hpp"

using namespace engine;
using namespace engine::scheduler;

namespace {

constexpr int64_t NOW = 1'000'000'000;
constexpr int64_t MS = 1'000'000;

// Models of 1 ms a row on one executor.
struct Model {
    CostModel cost{1};
    Policy policy;
    uint64_t rows = 0;

    Model(SharedExecutors& shared, double weight) : policy({1, 4096, 1}, (cost.prime(1, MS), cost), shared, weight) {}
};

// Runs the executor for `rows` batches, each from the model that ranks first.
void serve(std::vector<std::unique_ptr<Model>>& models, int64_t& now, int rows,
           const std::function<void(int64_t)>& arrive) {
    for (int i = 0; i < rows; ++i) {
        arrive(now);
        Model* first = nullptr;
        for (auto& model : models)
            if (model->policy.depth() > 0 && (first == nullptr || model->policy.rank(now) < first->policy.rank(now)))
                first = model.get();
        if (first == nullptr) {
            now += MS;
            continue;
        }
        Entry entry[1];
        const BatchPlan plan = first->policy.form(
            now, entry, [](const Entry&) { return Claim::taken; }, [](const Entry&) {});
        if (plan.rows == 0) continue;
        first->policy.started(0, 1, now);
        now += MS;
        first->policy.finished(0, 1, now, true);
        ++first->rows;
    }
}

}  // namespace

TEST(at_overload_each_model_gets_its_weighted_share) {
    SharedExecutors shared(1);
    std::vector<std::unique_ptr<Model>> models;
    for (const double weight : {1.0, 3.0}) models.push_back(std::make_unique<Model>(shared, weight));
    int64_t now = NOW;
    // Both queues are always full and the first model's requests are always the more urgent ones.
    serve(models, now, 4'000, [&](int64_t at) {
        shared.rejected(at);
        for (auto& model : models)
            while (model->policy.depth() < 4)
                model->policy.push({at + (model == models[0] ? 200 * MS : 400 * MS), 0, 0}, at);
    });
    const double share = static_cast<double>(models[0]->rows) / static_cast<double>(models[0]->rows + models[1]->rows);
    CHECK(share > 0.23 && share < 0.27);
}

TEST(below_capacity_the_order_is_by_deadline_whatever_the_weights) {
    SharedExecutors shared(1);
    std::vector<std::unique_ptr<Model>> models;
    for (const double weight : {1.0, 1000.0}) models.push_back(std::make_unique<Model>(shared, weight));
    models[0]->policy.push({NOW + 10 * MS, 0, 0}, NOW);
    models[1]->policy.push({NOW + 20 * MS, 0, 0}, NOW);
    CHECK(models[0]->policy.rank(NOW) < models[1]->policy.rank(NOW));
}

TEST(a_model_that_asks_seldom_is_admitted_though_another_fills_the_queue) {
    SharedExecutors shared(1);
    Model hog(shared, 1.0), other(shared, 1.0);
    for (int i = 0; i < 50; ++i) {  // 50 ms of work ahead of anything due in 30 ms
        hog.policy.enter(NOW, NOW + 20 * MS);
        hog.policy.push({NOW + 20 * MS, 0, 0}, NOW);
    }
    CHECK(other.policy.admit(NOW, NOW + 30 * MS) == Verdict::late);
    shared.rejected(NOW);
    CHECK(other.policy.admit(NOW, NOW + 30 * MS) == Verdict::admit);
    CHECK(hog.policy.admit(NOW, NOW + 30 * MS) == Verdict::late);
}

TEST(time_that_no_other_model_wanted_is_not_charged_to_a_model) {
    SharedExecutors shared(1);
    Share alone, late;
    shared.activate(alone);
    for (int i = 0; i < 1000; ++i) shared.charge(alone, MS);
    shared.activate(late);
    CHECK(shared.eligible(alone));
    CHECK(shared.eligible(late));
    CHECK(shared.entitled(late) == 0.5);
}

TEST(idle_models_count_for_nothing) {
    SharedExecutors shared(1);
    std::vector<std::unique_ptr<Share>> idle;
    for (int i = 0; i < 1000; ++i) idle.push_back(std::make_unique<Share>());
    Share busy;
    shared.activate(busy);
    CHECK(shared.entitled(busy) == 1.0);
}

TEST(a_wait_for_the_gil_is_no_time_of_the_batch) {
    SharedExecutors shared(1);
    GilCall call;
    call.wants(NOW);
    call.has(NOW + 5 * MS);  // of a batch before this one
    shared.has_thread(0, &call);
    shared.started(0, NOW + 10 * MS, MS, 2 * MS);
    CHECK(shared.started_ns(0, NOW + 10 * MS) == NOW + 10 * MS);
    call.wants(NOW + 10 * MS);
    CHECK(shared.started_ns(0, NOW + 17 * MS) == NOW + 17 * MS);
    uint32_t working = 0;
    CHECK(shared.first_free_ns(NOW + 17 * MS, &working) == NOW + 18 * MS && working == 1);
    CHECK(!shared.all_stalled(NOW + 17 * MS));
    call.has(NOW + 18 * MS);
    CHECK(shared.started_ns(0, NOW + 19 * MS) == NOW + 18 * MS);
    CHECK(shared.all_stalled(NOW + 23 * MS));
    shared.has_thread(0, nullptr);
    CHECK(shared.started_ns(0, NOW + 19 * MS) == NOW + 10 * MS);
}

CHECK_MAIN()
